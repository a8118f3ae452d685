#!/usr/bin/python3
"""What an administrator changes while clients are connected: lock, kick, limits, redirect, services, a certificate, names
of users; and what of it outlives a restart."""
import asyncio
import base64
import json
import os
import re
import ssl
import subprocess
import urllib.request

from harness import SLOW, run_test, step, wait
from xmpp import Client, Closed, befriend, is_presence, say

WAIT = 20 * SLOW


def control(cluster, method, path, body=None):
    r = urllib.request.Request(cluster.sim_control + path, method=method,
                               data=json.dumps(body).encode() if body is not None else None)
    with urllib.request.urlopen(r, timeout=10) as f:
        return f.read()


async def until(what, condition, timeout=20):
    """Like wait(), with the clients running on."""
    end = asyncio.get_event_loop().time() + timeout * SLOW
    while not condition():
        assert asyncio.get_event_loop().time() < end, 'gave up waiting until %s' % what
        await asyncio.sleep(0.05)


async def ended(client, *words):
    """The stream has ended; what was said on the way out has one of WORDS."""
    await until('the stream of %s ends' % client.jid, lambda: client.closed)
    said = ' '.join(client.stanzas[-3:]) + client.buffer
    assert any(w in said for w in words), 'the stream ended with %s' % said


async def locked_and_kicked(cluster):
    step('kick, lock, unlock')
    n1, n2, n3 = cluster.nodes
    for how, words in ((['session', 'kick', 'ann/x'], ['policy-violation', 'reset', 'not-authorized']),
                       (['user', 'lock', 'ann'], ['not-authorized', 'policy-violation', 'account-disabled'])):
        at_home = await Client('ann', host=n1.address, ca=cluster.ca).log_in('x')
        relayed = await Client('ann', host=n2.address, ca=cluster.ca).log_in('y')
        await until('both are listed', lambda: len(n3.json('session', 'list', 'ann')) == 2)
        n3.cli(*how)
        await ended(at_home, *words)
        if how[0] == 'user':
            await ended(relayed, *words)
        else:
            await asyncio.sleep(0)
            assert not relayed.closed, 'kick took another session too'
            await relayed.close()
    for password in ('pw-ann', 'wrong'):
        try:
            await Client('ann', password, host=n2.address, ca=cluster.ca).log_in('z')
            raise AssertionError('a locked account got in')
        except Closed as e:
            assert 'account-disabled' in str(e) if password == 'pw-ann' else 'not-authorized' in str(e), e
    n2.cli('user', 'unlock', 'ann')
    await asyncio.sleep(0.2)
    await (await Client('ann', host=n1.address, ca=cluster.ca).log_in('z')).close()


async def limits(cluster):
    step('limits.stanza_bytes, for the next stream')
    n1, n2, n3 = cluster.nodes
    a = await Client('ann', host=n1.address, ca=cluster.ca).log_in('x')
    a.presence()
    a.message('ann@example.com', 'x' * 100000)
    await a.expect(lambda s: s.startswith('<message'), WAIT)
    n3.cli('settings', 'set', 'limits.stanza_bytes', '20000')
    wait('n1 has it', lambda: n1.cli('settings', 'get', 'limits.stanza_bytes') == '20000\n')
    for node in (n1, n2):
        b = await Client('ann', host=node.address, ca=cluster.ca).log_in('y')
        b.message('ann@example.com', 'x' * 100000)
        await ended(b, 'policy-violation')
    await a.close()
    n3.cli('settings', 'unset', 'limits.stanza_bytes')


async def redirect(cluster):
    step('xmpp.wrong_node redirect')
    n1, n2, n3 = cluster.nodes
    n1.cli('settings', 'set', 'xmpp.wrong_node', 'redirect')
    wait('n2 has it', lambda: n2.cli('settings', 'get', 'xmpp.wrong_node') == 'redirect\n')
    try:
        await Client('ann', host=n2.address, ca=cluster.ca).log_in('x')
        raise AssertionError('not redirected')
    except Closed as e:
        assert re.search(r'<see-other-host[^>]*>127\.0\.0\.1<', str(e)), e
    c = Client('ann', host=n2.address, ca=cluster.ca)
    await c.open_socket()
    await c.start_tls()
    await c.open_stream()
    plain = base64.b64encode(('\0ann\0' + c.password).encode()).decode()
    c.write("<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><initial-response>%s</initial-response>"
            "<bind xmlns='urn:xmpp:bind:0'/></authenticate>" % plain)
    answer = await c.read_until('</stream:stream>')
    assert re.match(r'<stream:error><see-other-host[^>]*>127\.0\.0\.1<', answer), answer
    await c.close()
    await (await Client('ann', host=n1.address, ca=cluster.ca).log_in('x')).close()
    n1.cli('settings', 'set', 'xmpp.wrong_node', 'relay')


def serial(node):
    pem = ssl.get_server_certificate((node.address, 5223), timeout=10)
    return subprocess.run(['openssl', 'x509', '-noout', '-serial'], input=pem, capture_output=True, text=True, check=True).stdout


async def certificate(cluster):
    step('a new certificate: new connections see it, old ones live on')
    n1, n2, n3 = cluster.nodes
    a = await Client('ann', host=n1.address, ca=cluster.ca).log_in('x')
    a.presence()
    cert, key = os.path.join(cluster.dir, 'c.pem'), os.path.join(cluster.dir, 'c.key')
    subprocess.run(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '30',
                    '-subj', '/CN=example.com', '-addext', 'subjectAltName=DNS:example.com', '-keyout', key, '-out', cert],
                   check=True, stderr=subprocess.DEVNULL)
    before = serial(n1)
    n3.cli('cert', 'import', '--domain', 'example.com', '--cert', cert, '--key', key)
    await until('n1 presents it', lambda: serial(n1) != before)
    b = await Client('bob', host=n1.address, ca=cert).log_in('x')
    await say(b, a, 'still there?', WAIT)
    await a.close()
    await b.close()
    cluster.client_ca = cert


async def services(cluster):
    step('service stop ends streams, start lets clients in; deactivate outlives a restart')
    n1, n2, n3 = cluster.nodes
    a = await Client('ann', host=n1.address, ca=cluster.client_ca).log_in('x')
    n2.cli('service', 'stop', 'xmpp', 'n1')
    await ended(a, 'system-shutdown')
    try:
        await Client('ann', host=n1.address, ca=cluster.client_ca).log_in('x')
        raise AssertionError('a stopped service let a client in')
    except (OSError, Closed):
        pass
    n2.cli('service', 'start', 'xmpp', 'n1')
    await until('n1 serves', n1.runs_services)
    await (await Client('ann', host=n1.address, ca=cluster.client_ca).log_in('x')).close()
    n1.cli('service', 'deactivate', 'xmpp', 'n3')
    n3.stop()
    n3.start()
    def state(name):
        p = n1.cli('--json', 'service', 'list', 'n3', check=False)
        return {s['name']: s['state'] for s in json.loads(p.stdout or '[]')}.get(name)
    await until('n3 is back', lambda: state('presence-engine') == 'started', 60)
    assert state('xmpp') == 'stopped', state('xmpp')
    n1.cli('service', 'activate', 'xmpp', 'n3')
    await until('n3 runs its services', n3.runs_services)


async def names(cluster):
    step('the call manager renames a user')
    n1, n2, n3 = cluster.nodes
    a = await Client('user0001', host=n1.address, ca=cluster.client_ca).log_in('a')
    b = await Client('user0002', host=n2.address, ca=cluster.client_ca).log_in('b')
    for c in (a, b):
        await c.roster()
        c.presence()
    await befriend(a, b, WAIT)
    n1.cli('settings', 'set', 'axl.interval', '1')
    step('... the display name')
    a.stanzas.clear()
    control(cluster, 'PATCH', '/users/user0002', {'displayName': 'Zoe New'})
    push = await a.expect(lambda s: s.startswith('<iq') and 'user0002@' in s and 'Zoe New' in s, WAIT)
    assert 'jabber:iq:roster' in push
    step('... the user id')
    control(cluster, 'PATCH', '/users/user0002', {'userid': 'married'})
    await a.expect(lambda s: s.startswith('<iq') and 'married@example.com' in s, WAIT)
    roster = await a.roster()
    assert 'married@example.com' in roster and 'user0002@' not in roster, roster
    item = re.search(r'<item[^>]*married@[^>]*', roster).group(0)
    assert 'both' in item and 'Zoe New' in item, item
    a.message('user0002@example.com', 'do you still live here?', id='old')
    answer = await a.expect(lambda s: s.startswith('<message') and 'error' in s, WAIT)
    assert '<gone' in answer and 'married@example.com' in answer, answer
    try:
        await Client('user0002', host=n2.address, ca=cluster.client_ca).log_in('b')
        raise AssertionError('the old name got in')
    except Closed as e:
        assert 'not-authorized' in str(e), e
    c = await Client('married', 'pw-user0002', host=n3.address, ca=cluster.client_ca).log_in('c')
    roster = await c.roster()
    assert 'user0001@example.com' in roster
    c.presence()
    await a.expect(is_presence('married@example.com/c'), WAIT)
    await c.expect(is_presence('user0001@example.com/a'), WAIT)
    await say(a, c, 'hello', WAIT)

    step('... and removes one; the sync goes on at the new publisher')
    n1.cli('node', 'promote', 'n2')
    wait('n2 is the publisher', lambda: n3.json('sync', 'status')['node'] == 'n2')
    control(cluster, 'DELETE', '/users/married')
    await ended(c, 'not-authorized', 'gone', 'reset', 'policy-violation')
    await a.expect(is_presence('married@example.com', 'unavailable'), WAIT)
    control(cluster, 'POST', '/users', {'userid': 'late', 'firstName': 'L', 'lastName': 'Ate'})
    await until('the new publisher syncs', lambda: n1.cli('user', 'show', 'late', check=False).returncode == 0)
    await a.close()


def test(cluster):
    cluster.users = 20
    cluster.start()
    n1 = cluster.nodes[0]
    cluster.add_local_users(['ann', 'bob'])
    n1.cli('user', 'assign', 'ann', 'bob', '--node', 'n1')
    cluster.client_ca = cluster.ca

    async def main():
        for part in (locked_and_kicked, limits, redirect, certificate, services, names):
            await part(cluster)
    asyncio.run(main())
    cluster.check_equal()


if __name__ == '__main__':
    run_test(test)
