#!/usr/bin/python3
"""XMPP over HTTPS in a cluster: sessions at home on another node than their edge, both ways; redirection by see-other-uri; the edge
stops, and the home dies; a client that reads nothing harms nobody; certificates by server name; limits before log-in."""
import asyncio
import base64
import os
import re
import ssl
import sys
import time
import warnings

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'conversations', 'runner'))
import web  # noqa: E402
from harness import SLOW, Failed, run_test, step, wait  # noqa: E402

WAIT = 20 * SLOW
warnings.simplefilter("ignore", DeprecationWarning)  # of TLS 1.1, which is to be refused
BOSH = "<body xmlns='http://jabber.org/protocol/httpbind' rid='%d' %s>%s</body>"


class Client:
    """As little of a conversation's client as web.py needs."""
    is_raw, lost = True, False

    def __init__(self, cluster, node, server_name='example.com'):
        self.context = ssl.create_default_context(cafile=cluster.ca)
        self.run = self.conversation = self
        self.timeout, self.domain, self.address, self.host = WAIT, server_name, '127.0.0.1', node.address
        self.received = asyncio.Queue()
        self.link, self.web_links = None, []

    def note(self, *_):
        pass

    def wake(self):
        pass

    def on_root(self, e):
        self.received.put_nowait(e)

    on_element = on_root

    def on_end(self):
        pass

    async def connect(self, transport='websocket', **options):
        # what web.py appends comes by the same queue
        self.received.append = self.received.put_nowait
        self.link = web.LINKS[transport](self, self.host, 8443, self.context)
        await self.link.connect(options)
        return self

    async def expect(self, name, **like):
        try:
            while True:
                e = await asyncio.wait_for(self.received.get(), WAIT)
                if e.name == name and all(e.get(k) == v for k, v in like.items()):
                    return e
        except asyncio.TimeoutError:
            raise Failed('no <%s/> %s' % (name, like))

    def write(self, text):
        self.link.write(text.encode())

    def open(self):
        self.write("<stream:stream to='example.com' version='1.0'>")

    async def log_in(self, user, resource):
        self.open()
        await self.expect('features')
        self.write("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>%s</auth>"
                   % base64.b64encode(('\0%s\0pw-%s' % (user, user)).encode()).decode())
        await self.expect('success')
        self.open()
        await self.expect('features')
        self.write("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>%s</resource></bind></iq>" % resource)
        await self.expect('iq', id='b', type='result')
        self.write('<presence/>')
        await self.expect('presence')
        return self


def body(e):
    return e.children[0].text


async def log_in(cluster, node, user, resource):
    return await (await Client(cluster, node).connect()).log_in(user, resource)


async def relayed(cluster, n1, n2):
    ann, bob = await log_in(cluster, n2, 'ann', 'web'), await log_in(cluster, n1, 'bob', 'web')
    for i in range(200):
        ann.write("<message to='bob@example.com/web'><body>%d %s</body></message>" % (i, 'x' * (i * 37 % 5000)))
        bob.write("<message to='ann@example.com/web'><body>%d</body></message>" % i)
    for i in range(200):
        assert body(await bob.expect('message')).split()[0] == str(i)
        assert body(await ann.expect('message')) == str(i)
    sessions = n1.json('user', 'show', 'ann')['sessions']
    assert [(s['resource'], s['node'], s['ip']) for s in sessions] == [('web', 'n1', '127.0.0.1')], sessions
    step('relayed, both ways, in order')
    return ann, bob


async def slow_reader(cluster, n1, n2, ann):
    """bob's socket is not read: what it costs is bounded, and others are served."""
    bob = await log_in(cluster, n2, 'bob', 'slow')
    bob.link.reader._transport.pause_reading()
    before = n1.rss_kib()
    for i in range(400):
        ann.write("<message to='bob@example.com/slow'><body>%d %s</body></message>" % (i, 'y' * 30000))
        if i % 20 == 0:
            ann.write("<iq type='get' id='p%d' to='example.com'><ping xmlns='urn:xmpp:ping'/></iq>" % i)
            await ann.expect('iq', id='p%d' % i)
    grown = n1.rss_kib() - before
    assert SLOW > 1 or grown < 40000, 'the home has grown by %d KiB' % grown
    bob.link.reader._transport.resume_reading()
    bob.link.abort()
    step('a slow reader')


async def redirected(cluster, n1, n2):
    n1.cli('settings', 'set', 'xmpp.wrong_node', 'redirect')
    n1.cli('settings', 'set', 'node.n1.web.websocket_url', 'wss://n1.example.com/ws')
    n1.cli('settings', 'set', 'node.n1.web.bosh_url', 'https://n1.example.com/bosh')
    c = await Client(cluster, n2).connect()
    c.open()
    await c.expect('features')
    auth = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>%s</auth>" % base64.b64encode(b'\0ann\0pw-ann').decode()
    c.write(auth)
    await c.expect('success')
    c.open()
    e = await c.expect('close')
    assert e.get('see-other-uri') == 'wss://n1.example.com/ws', e
    b = await Client(cluster, n2).connect('bosh')

    async def post(rid, attributes, content=''):
        await b.link.post_raw(BOSH % (rid, attributes, content))
        return await b.expect('body')
    sid = (await post(1, "to='example.com' ver='1.11'")).get('sid')
    assert (await post(2, "sid='%s'" % sid, auth)).children[0].name == 'success'
    e = await post(3, "sid='%s' xmlns:x='urn:xmpp:xbosh' x:restart='true'" % sid)
    assert (e.get('condition'), e.children[0].text) == ('see-other-uri', 'https://n1.example.com/bosh'), e
    n1.cli('settings', 'unset', 'node.n1.web.websocket_url')
    c = await log_in(cluster, n2, 'ann', 'again')  # nowhere to send it to: relayed
    c.link.abort()
    n1.cli('settings', 'unset', 'xmpp.wrong_node')
    step('see-other-uri')


async def certificates(cluster, n1):
    """A domain's own certificate is shown to who asks for it, from the next handshake on."""
    other = cluster.dir + '/other'
    for command in ('openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout %s.key -out %s.pem -days 2 '
                    '-subj /CN=other -addext subjectAltName=DNS:example.com >/dev/null 2>&1' % (other, other),):
        assert os.system(command) == 0
    n1.cli('cert', 'import', '--domain', 'example.com', '--cert', other + '.pem', '--key', other + '.key')
    context = ssl.create_default_context(cafile=other + '.pem')

    async def shown():
        try:
            _, writer = await asyncio.open_connection(n1.address, 8443, ssl=context, server_hostname='example.com')
        except ssl.SSLError:
            return False
        version = writer.get_extra_info('ssl_object').version()
        writer.close()
        return version == 'TLSv1.3'
    end = time.monotonic() + WAIT
    while not await shown():
        assert time.monotonic() < end, 'the new certificate is not shown'
        await asyncio.sleep(0.05)
    old = ssl.create_default_context()
    old.check_hostname, old.verify_mode, old.maximum_version = False, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_1
    old.minimum_version = ssl.TLSVersion.TLSv1
    try:
        await asyncio.open_connection(n1.address, 8443, ssl=old)
        raise Failed('TLS 1.1 was accepted')
    except (ssl.SSLError, ConnectionError):
        pass
    step('certificates')


async def limits(cluster, n3):
    """Who does not log in is thrown out, and there are only so many of him."""
    n3.cli('settings', 'set', 'limits.handshake_timeout', '2')
    n3.cli('settings', 'set', 'limits.connections_per_address', '3')
    n3.cli('settings', 'set', 'limits.web_connections_per_address', '6')
    kept = [await Client(cluster, n3).connect() for _ in range(3)]
    for c in kept:
        c.open()
        await c.expect('features')
    fourth = await Client(cluster, n3).connect()
    await fourth.expect('close', code='1001')
    for c in kept:
        e = await c.expect('error')
        assert e.children[0].name == 'connection-timeout', e
        await c.expect('close', code='1000')
    n3.cli('settings', 'unset', 'limits.connections_per_address')
    n3.cli('settings', 'unset', 'limits.handshake_timeout')
    sockets = []
    refused = False
    for _ in range(8):
        try:
            sockets.append(await asyncio.wait_for(asyncio.open_connection(n3.address, 8443, ssl=kept[0].context,
                                                                          server_hostname='example.com'), WAIT))
        except (OSError, ssl.SSLError):
            refused = True
    assert refused, 'more connections than the limit'
    for _, writer in sockets:
        writer.close()
    n3.cli('settings', 'unset', 'limits.web_connections_per_address')
    step('limits before log-in')


async def ends(cluster, n1, n2, n3, ann):
    """The edge is stopped: the client is told. The home dies: its client on another edge is told, too."""
    bob = await log_in(cluster, n2, 'bob', 'told')
    n2.process.terminate()
    e = await bob.expect('error')
    assert e.children[0].name == 'system-shutdown', e
    await bob.expect('close')
    n2.stop()
    eve = await log_in(cluster, n3, 'ann', 'third')
    n1.kill()
    e = await eve.expect('error')
    assert e.children[0].name == 'remote-connection-failed', e
    await eve.expect('close')
    step('ends of edge and home')


def test(cluster):
    cluster.start()
    n1, n2, n3 = cluster.nodes
    cluster.add_local_users(['ann', 'bob'])
    n1.cli('user', 'assign', 'ann', 'bob', '--node', 'n1')
    wait('both are at home', lambda: all(n1.json('user', 'show', u)['active_home'] == 'n1' for u in ('ann', 'bob')))

    async def main():
        ann, bob = await relayed(cluster, n1, n2)
        bob.link.abort()
        await slow_reader(cluster, n1, n2, ann)
        ann.link.abort()
        await redirected(cluster, n1, n2)
        await limits(cluster, n3)
        await ends(cluster, n1, n2, n3, ann)
    asyncio.run(main())
    n1.start()
    n2.start()
    wait('n1 is back', lambda: n1.runs_services(), 60)
    asyncio.run(certificates(cluster, n1))


run_test(test)
