#!/usr/bin/python3
"""What somebody without a password can make a node hold, and what somebody with a session can do to others: rows 2, 21, 22
and 23 of docs/attacks.md. Memory of connections that never log in, streams that come a byte at a time, handshakes begun and
left or too many, renegotiation, readers that do not read."""
import asyncio
import base64
import os
import socket
import ssl
import subprocess
import time

from harness import SLOW, run_test, step, wait
from xmpp import STREAM, Client, is_message

N = 400
# AddressSanitizer puts fences around everything; what was freed it is told not to keep
PER_CONNECTION_KIB = 32 if SLOW == 1 else 64
HEADER = STREAM % 'example.com'
# as much as the limit lets through
PARTIAL = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>" + 'A' * 12000


def no_checks():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def open_many(host, port, text, context=None, base=0):
    """N connections from as many addresses as it takes, each with TEXT sent and its answer read as far as it comes."""
    found = []
    for i in range(N):
        s = socket.create_connection((host, port), source_address=('127.3.%d.%d' % (base, 1 + i % 250), 0), timeout=20 * SLOW)
        if context:
            s = context.wrap_socket(s, server_hostname='example.com')
        if text:
            s.sendall(text.encode())
        found.append(s)
    return found


def restart(node):
    """With the memory of the beginning."""
    node.stop()
    node.start()
    wait('n1 runs again', node.runs_services)


def memory(cluster, what, port, text, context, base):
    """Growth of the node per connection."""
    node = cluster.nodes[0]
    restart(node)
    before = node.rss_kib()
    sockets = open_many(node.address, port, text, context, base)
    for s in sockets[-20:]:
        if text:
            s.recv(4096)  # the header's answer: it has parsed what came
    each = (node.rss_kib() - before) / N
    step('%s: %.1f KiB each' % (what, each))
    assert each <= PER_CONNECTION_KIB, '%s: %.1f KiB of memory for each connection' % (what, each)
    for s in sockets:
        s.close()


def drip(cluster):
    """Row 2: a log-in of which every byte comes alone is a log-in."""
    token = base64.b64encode(b'\0ann\0pw-ann').decode()
    text = HEADER + "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>%s</auth>" % token
    s = no_checks().wrap_socket(socket.create_connection((cluster.nodes[0].address, 5223), timeout=20 * SLOW),
                                server_hostname='example.com')
    for c in text:
        s.sendall(c.encode())
    heard = b''
    while b'<success' not in heard:
        data = s.recv(4096)
        assert data, 'the stream ended: %r' % heard
        heard += data
    s.close()


def left_alone(cluster):
    """Rows 21 and 23: handshakes begun and left, and garbage instead of one, end by themselves and keep nobody out."""
    node = cluster.nodes[0]
    node.cli('settings', 'set', 'limits.handshake_timeout', 2)
    begun = [b'\x16\x03\x01\x02\x00\x01', b'\x16', b'', b'\x80' * 4000, b'\x16\x03\x01\xff\xff' + b'\x01' * 5000]
    sockets = []
    for i in range(200):
        s = socket.create_connection((node.address, 5223), source_address=('127.4.0.%d' % (1 + i), 0), timeout=30 * SLOW)
        s.sendall(begun[i % len(begun)])
        sockets.append(s)
    asyncio.run(one_log_in(cluster))
    for s in sockets:
        try:
            while s.recv(4096):
                pass
        except ConnectionError:
            pass
        s.close()
    node.cli('settings', 'unset', 'limits.handshake_timeout')


def handshake_flood(cluster):
    """Row 23: an address that begins more handshakes than it may is closed before they cost anything, at the client ports and at
    HTTPS; others, and those who are exempt, do not notice."""
    node = cluster.nodes[0]
    node.cli('settings', 'set', 'limits.new_connections_per_address', 2)
    node.cli('settings', 'set', 'limits.new_connections_exempt', '127.6.0.0/16')

    def handshakes(address, ports, n):
        good = {port: 0 for port in ports}
        for i in range(n):
            port = ports[i % len(ports)]
            try:
                s = socket.create_connection((node.address, port), source_address=(address, 0), timeout=30 * SLOW)
                no_checks().wrap_socket(s, server_hostname='example.com').close()
                good[port] += 1
            except (ConnectionError, ssl.SSLError):
                pass
        return good
    began = time.monotonic()
    good = handshakes('127.5.0.1', (5223, 8443), 120)
    # ten seconds' worth at once, and what time gives; the ports count together
    assert 20 <= sum(good.values()) <= 21 + 2 * (time.monotonic() - began), good
    assert min(good.values()) >= 5, good
    assert handshakes('127.6.0.1', (5223,), 40) == {5223: 40}
    assert handshakes('127.5.0.3', (5223,), 5) == {5223: 5}
    node.cli('settings', 'unset', 'limits.new_connections_per_address')
    node.cli('settings', 'unset', 'limits.new_connections_exempt')
    with open(node.log) as f:
        lines = [line for line in f if 'limits.new_connections_per_address' in line and 'come faster' in line]
    assert len(lines) in (1, 2), lines


async def one_log_in(cluster):
    c = await Client('ann', host=cluster.nodes[0].address, ca=cluster.ca, direct=True).log_in('x')
    await c.close()


def renegotiation(cluster):
    """Row 23: TLS 1.2 renegotiation is refused."""
    p = subprocess.run(['openssl', 's_client', '-tls1_2', '-connect', '%s:5223' % cluster.nodes[0].address], input='R\n',
                       capture_output=True, text=True, timeout=30 * SLOW)
    assert 'RENEGOTIATING' in p.stdout + p.stderr, p.stdout + p.stderr
    assert 'no renegotiation' in p.stderr, p.stderr


async def slow_reader(cluster):
    """Row 22: eve does not read what ann sends her; bob and dan do not notice, and the node keeps little of it."""
    node = cluster.nodes[0]
    ann, bob, dan, eve = [await Client(u, host=node.address, ca=cluster.ca, direct=True).log_in('x')
                          for u in ('ann', 'bob', 'dan', 'eve')]
    for c in (bob, dan, eve):
        c.presence()
    eve.writer.transport.pause_reading()
    before = node.rss_kib()
    text = 'x' * 10000

    async def flood():
        for i in range(6000):
            ann.message('eve@example.com/x', text, type='headline')
            if i % 50 == 49:
                await ann.writer.drain()
    task = asyncio.ensure_future(flood())
    loop, slowest = asyncio.get_event_loop(), 0
    for i in range(300):
        began = loop.time()
        bob.message('dan@example.com', 'to dan %d' % i)
        await dan.expect(is_message('to dan %d' % i))
        slowest = max(slowest, loop.time() - began)
    await asyncio.wait_for(task, 60 * SLOW)
    grown = (node.rss_kib() - before) / 1024
    step('60 MB for somebody who does not read: %.1f MiB more memory, others waited %.0f ms at most' % (grown, slowest * 1000))
    assert grown < 30 * (1 if SLOW == 1 else 2), 'the node keeps %.1f MiB' % grown
    assert slowest < 2 * SLOW, 'others waited %.1f s' % slowest
    assert not ann.closed and not bob.closed and not dan.closed
    for c in (ann, bob, dan, eve):
        await c.close()


def test(cluster):
    cluster.nodes[0].env['ASAN_OPTIONS'] = os.environ.get('ASAN_OPTIONS', '') + ':quarantine_size_mb=0:thread_local_quarantine_size_kb=0'
    cluster.start()
    cluster.add_local_users(['ann', 'bob', 'dan', 'eve'])
    memory(cluster, 'stream header and 12 KB of an element', 5222, HEADER + PARTIAL, None, 1)
    memory(cluster, 'TLS, stream header and 12 KB of an element', 5223, HEADER + PARTIAL, no_checks(), 2)
    drip(cluster)
    left_alone(cluster)
    renegotiation(cluster)
    handshake_flood(cluster)
    step('drips, handshakes left and begun again, floods of handshakes')
    restart(cluster.nodes[0])
    asyncio.run(slow_reader(cluster))


if __name__ == '__main__':
    run_test(test, n=1, config=['--shards', '2'])
