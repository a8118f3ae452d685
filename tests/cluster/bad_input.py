#!/usr/bin/python3
"""Bad input: garbage, DTD, 10^5 attributes, a 100 MB stanza, half a TLS handshake held open, thousands of idle connections
before log-in. Memory stays bounded, the stream error is clear, others are unharmed."""
import asyncio
import os
import resource
import socket
import ssl

from harness import SLOW, run_test, wait
from xmpp import STREAM, Client, Closed, say

IDLE = int(os.environ.get('IMP_IDLE', 5000 if SLOW == 1 else 2000))
HEAD = STREAM % 'example.com'


async def send_raw(host, data, port=5222, chunks=1, timeout=20):
    """Sends DATA, returns all that comes back until the server closes."""
    reader, writer = await asyncio.open_connection(host, port)
    out = b''
    try:
        for _ in range(chunks):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    try:
        while True:
            more = await asyncio.wait_for(reader.read(65536), timeout * SLOW)
            if not more:
                break
            out += more
    except (ConnectionError, asyncio.TimeoutError) as e:
        out += b'<!-- %s -->' % type(e).__name__.encode()
    writer.close()
    return out.decode(errors='replace')


async def refused(host, what, text, *conditions):
    answer = await send_raw(host, text.encode() if isinstance(text, str) else text)
    assert any('<%s ' % c in answer or '<%s/' % c in answer for c in conditions), '%s: expected %s, got %r' % (
        what, conditions, answer[-300:])


async def bad_streams(cluster, node):
    host = node.address
    await refused(host, 'garbage', b'\x00\xff\xfe garbage\r\n\r\n' * 10, 'not-well-formed', 'unsupported-encoding', 'bad-format', 'invalid-xml')
    await refused(host, 'HTTP', 'GET / HTTP/1.1\r\nHost: x\r\n\r\n', 'not-well-formed', 'bad-format')
    await refused(host, 'DTD', "<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'b'>]>" + HEAD, 'restricted-xml')
    await refused(host, 'comment', HEAD + '<!-- x -->', 'restricted-xml')
    await refused(host, 'processing instruction', HEAD + '<?php x ?>', 'restricted-xml')
    await refused(host, '10^5 attributes', HEAD + '<message ' + ' '.join("a%d='x'" % i for i in range(100000)) + '/>',
                  'policy-violation')
    await refused(host, 'depth', HEAD + '<message>' + '<a>' * 10000, 'policy-violation')
    await refused(host, 'a giant name', HEAD + '<' + 'a' * 1000000, 'policy-violation', 'not-well-formed')
    await refused(host, 'wrong namespace', "<?xml version='1.0'?><stream xmlns='nonsense'>", 'invalid-namespace', 'bad-namespace-prefix')
    await refused(host, 'unknown host', STREAM % 'nowhere.invalid', 'host-unknown')
    await refused(host, 'a stanza before log-in', HEAD + "<message to='ann@example.com'><body>x</body></message>",
                  'not-authorized', 'policy-violation')
    # clear text behind <starttls/> must not count as sent inside TLS
    answer = await send_raw(host, (HEAD + "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
                                   "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AAA=</auth>").encode())
    assert '<success' not in answer and '<challenge' not in answer, answer


async def big_stanza(cluster, node):
    """100 MB in one stanza of a user that has logged in."""
    c = await Client('ann', host=node.address, ca=cluster.ca).log_in('big')
    try:
        c.write("<message to='bob@example.com'><body>")
        for _ in range(100):
            c.write('x' * (1 << 20))
            await c.writer.drain()
            if c.closed:
                break
    except (ConnectionError, ssl.SSLError):
        pass
    text = ''
    try:
        text = await c.expect(lambda s: 'stream:error' in s, 20 * SLOW)
    except Closed:
        pass
    assert 'policy-violation' in text or c.closed, text
    await c.close()


async def unharmed(cluster, node, stop):
    """Two users chat all the while."""
    a = await Client('ann', host=node.address, ca=cluster.ca).log_in('ok')
    b = await Client('bob', host=node.address, ca=cluster.ca).log_in('ok')
    a.presence()
    b.presence()
    n = 0
    while not stop.is_set():
        await say(a, b, 'n%d' % n, 30 * SLOW)
        n += 1
        await asyncio.sleep(0.05)
    await a.close()
    await b.close()
    return n


async def idle_connections(node):
    """IDLE connections that say nothing or a stream header, 100 that stop inside a TLS handshake."""
    socks = []
    for i in range(IDLE):
        try:
            r, w = await asyncio.open_connection(node.address, 5222)
        except OSError:
            break
        if i % 2:
            w.write(HEAD.encode())
        socks.append(w)
    hello = bytes.fromhex('16030100') + b'\xc8\x01\x00\x00\xc4\x03\x03'
    for i in range(100):
        r, w = await asyncio.open_connection(node.address, 5223)
        w.write(hello)
        socks.append(w)
    return socks


def test(cluster):
    resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
    cluster.start()
    node = cluster.nodes[0]
    cluster.add_local_users(['ann', 'bob'])

    async def main():
        stop = asyncio.Event()
        chat = asyncio.ensure_future(unharmed(cluster, node, stop))
        await asyncio.sleep(0.5)
        before = node.rss_kib()
        await bad_streams(cluster, node)
        await big_stanza(cluster, node)
        after_bad = node.rss_kib()
        idle = await idle_connections(node)
        with_idle = node.rss_kib()
        assert not chat.done(), 'the others were harmed: %r' % chat.exception()
        print('memory: %d KiB, after bad streams %d, with %d idle connections %d (%.1f KiB each)' %
              (before, after_bad, len(idle), with_idle, (with_idle - after_bad) / max(1, len(idle))))
        assert after_bad - before < 64 * 1024 * SLOW, 'bad streams cost %d KiB' % (after_bad - before)
        assert (with_idle - after_bad) / max(1, len(idle)) < 64 * SLOW, 'an idle connection costs too much'
        # they are ended by the hand-shake time-out, and a new client gets in all the same
        c = await Client('ann', host=node.address, ca=cluster.ca).log_in('late')
        await c.close()
        for w in idle:
            w.close()
        stop.set()
        assert await chat > 5
    asyncio.run(main())
    cluster.wait_running()


if __name__ == '__main__':
    run_test(test, n=1, node_args=())
