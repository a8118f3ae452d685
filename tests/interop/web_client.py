#!/usr/bin/python3
"""xmpp.js over WebSocket and strophe.js over BOSH and WebSocket, in Node: log-in through any node, presence, messages both ways,
ping, and a session that comes back after its socket was cut. They find the way in by host-meta (XEP-0156)."""
import json
import os
import queue
import shutil
import ssl
import subprocess
import sys
import threading
import urllib.request

from harness import SLOW, Failed, run_test, step, wait

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'web')
if not shutil.which('node') or not os.path.isdir(os.path.join(HERE, 'node_modules', '@xmpp')):
    print('SKIP: node, or the packages of tests/interop/web (npm ci), are not there')
    sys.exit(77)


class Client:
    def __init__(self, cluster, program, service, user, resource, password=None):
        self.name, self.seen, self.queue = '%s/%s (%s)' % (user, resource, program), [], queue.Queue()
        # the certificates are for the domain and signed by the cluster's CA; the clients dial addresses
        env = {**os.environ, 'NODE_EXTRA_CA_CERTS': cluster.ca, 'NODE_TLS_REJECT_UNAUTHORIZED': '0', 'NODE_NO_WARNINGS': '1'}
        self.process = subprocess.Popen(['node', program + '.mjs', service, 'example.com', user, password or 'pw-' + user, resource],
                                        cwd=HERE, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            try:
                self.queue.put(json.loads(line))
            except ValueError:
                self.queue.put({'what': 'noise', 'text': line})
        self.queue.put(None)

    def do(self, what, **more):
        self.process.stdin.write(json.dumps({'do': what, **more}) + '\n')
        self.process.stdin.flush()

    def expect(self, what, **like):
        return self.expect_all((what, like))[0]

    def expect_all(self, *wanted):
        """In any order."""
        found = [None] * len(wanted)
        while None in found:
            try:
                e = self.queue.get(timeout=20 * SLOW)
            except queue.Empty:
                e = None
            self.seen.append(e)
            if e is None:
                raise Failed('%s did not get %s; seen: %s' % (self.name, wanted, self.seen[-12:]))
            for i, (what, like) in enumerate(wanted):
                if not found[i] and e['what'] == what and all(e.get(k) == v for k, v in like.items()):
                    found[i] = e
                    break
        return found

    def stop(self):
        self.do('stop')
        self.process.wait(20 * SLOW)


def alternatives(host):
    """What host-meta.json says, and that the XML says the same."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def get(path):
        return urllib.request.urlopen('https://%s:8443/.well-known/%s' % (host, path), context=context, timeout=20).read().decode()
    links = {link['rel'].rsplit(':', 1)[1]: link['href'] for link in json.loads(get('host-meta.json'))['links']}
    text = get('host-meta')
    assert all("href='%s'" % href in text for href in links.values()), text
    return links


def test(cluster):
    cluster.start()
    n1, n2, n3 = cluster.nodes
    cluster.add_local_users(['ann', 'bob', 'eve'])
    ways = {n: alternatives(n.address) for n in cluster.nodes}
    assert ways[n2] == {'websocket': 'wss://127.0.0.2:8443/xmpp-websocket', 'xbosh': 'https://127.0.0.2:8443/http-bind'}, ways
    step('host-meta')

    clients = [Client(cluster, 'xmpp_js', ways[n1]['websocket'], 'ann', 'xmppjs'),
               Client(cluster, 'strophe_js', ways[n2]['xbosh'], 'bob', 'bosh'),
               Client(cluster, 'strophe_js', ways[n3]['websocket'], 'bob', 'ws')]
    wrong = Client(cluster, 'xmpp_js', ways[n2]['websocket'], 'eve', 'x', password='wrong')
    ann, bosh, ws = clients
    jids = []
    for c, jid in zip(clients, ['ann@example.com/xmppjs', 'bob@example.com/bosh', 'bob@example.com/ws']):
        # with Bind 2 the server adds to what the client asks for
        jids.append(c.expect('online')['jid'])
        assert jids[-1].startswith(jid), jids
        c.do('presence')
        c.expect('presence', **{'from': jids[-1]})
    wrong.expect('failed', condition='not-authorized')
    wrong.process.kill()
    step('logged in: xmpp.js, strophe.js over BOSH and WebSocket')

    for i, c in enumerate(clients):
        for j, other in enumerate(clients):
            body = 'from %d to %d <&> \u00e4\u4e2d' % (i, j)
            c.do('message', to=jids[j], body=body)
            other.expect('message', body=body, **{'from': jids[i]})
        c.do('ping', to='example.com')
        c.expect('pong', type='result')
    step('messages both ways')

    sessions = {s['resource']: s for s in n1.json('user', 'show', 'bob')['sessions']}
    assert set(sessions) == {'bosh', 'ws'}, sessions
    # Bind 2 with <enable/> in it (XEP-0386 §4.2); the client comes back with a token (XEP-0484) and <resume/> in the log-in
    ann.do('managed')
    assert ann.expect('managed')['enabled'], 'stream management is not on after Bind 2'
    ann.do('cut')
    ann.expect('disconnect')
    bosh.do('message', to='ann@example.com', body='while away')
    ann.expect_all(('resumed', {}), ('message', {'body': 'while away'}))
    ann.do('message', to=jids[1], body='back')
    bosh.expect('message', body='back', **{'from': jids[0]})
    step('a socket that was cut: resumed')

    for c in clients:
        c.stop()
    wait('all sessions have ended', lambda: not n1.json('session', 'list'))


run_test(test)
