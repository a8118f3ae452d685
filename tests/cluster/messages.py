#!/usr/bin/python3
"""Clients on different nodes: presence, messages, offline messages; and a flood between nodes that loses and doubles
nothing and keeps the order. IMP_FLOOD: number of messages (default 100,000; a fifth under a sanitizer)."""
import asyncio
import os
import time

from harness import SLOW, run_test, step
from xmpp import Client, body_of, is_message, is_presence

FLOOD = int(os.environ.get('IMP_FLOOD', 100000 if SLOW == 1 else 20000))
PAIRS = 4


async def subscribe(a, b):
    """Both ways."""
    for x, y in ((a, b), (b, a)):
        x.presence(to=y.jid.split('/')[0], type='subscribe')
        await y.expect(is_presence(x.jid.split('/')[0], 'subscribe'))
        y.presence(to=x.jid.split('/')[0], type='subscribed')
        await x.expect(is_presence(y.jid.split('/')[0], 'subscribed'))


async def conversation(cluster, a_host, b_host, first):
    a = await Client('ann', host=a_host, ca=cluster.ca).log_in('a')
    b = await Client('bob', host=b_host, ca=cluster.ca, direct=True).log_in('b')
    for c in (a, b):
        await c.roster()
        c.presence()
    if first:
        await subscribe(a, b)
    await a.expect(is_presence('bob@example.com/b'))
    await b.expect(is_presence('ann@example.com/a'))
    a.message('bob@example.com', 'hello')
    await b.expect(is_message('hello'))
    b.message('ann@example.com/a', 'hello back')
    await a.expect(is_message('hello back'))
    # bob leaves, ann sees it, what she writes waits for him
    await b.close()
    await a.expect(is_presence('bob@example.com/b', 'unavailable'))
    for i in range(5):
        a.message('bob@example.com', 'later %d' % i)
    await asyncio.sleep(0)
    b = await Client('bob', host=a_host, ca=cluster.ca).log_in('b2')
    await b.roster()
    b.presence()
    for i in range(5):
        s = await b.expect(lambda s: s.startswith('<message'))
        assert body_of(s) == 'later %d' % i, 'offline messages out of order: %s' % s
        assert 'urn:xmpp:delay' in s, s
    await asyncio.sleep(0)
    await b.close()
    # and once only
    b = await Client('bob', host=b_host, ca=cluster.ca).log_in('b3')
    await b.roster()
    b.presence()
    a.message('bob@example.com', 'end')
    s = await b.expect(lambda s: s.startswith('<message'))
    assert body_of(s) == 'end', 'an offline message came twice: %s' % s
    await a.close()
    await b.close()


class Receiver:
    def __init__(self, client):
        self.client, self.next, self.bad = client, {}, []
        client.on_stanza = self.take

    def take(self, stanza):
        body = body_of(stanza)
        if not stanza.startswith('<message'):
            return
        if body is None or stanza.find("type='error'") > 0 or stanza.find('type="error"') > 0:
            self.bad.append(stanza)
            return
        sender, number = body.split()
        if int(number) != self.next.get(sender, 0):
            self.bad.append('from %s: expected %d, got %s' % (sender, self.next.get(sender, 0), number))
        self.next[sender] = int(number) + 1


async def flood(cluster):
    hosts = [n.address for n in cluster.nodes]
    pairs = []
    for i in range(PAIRS):
        a = await Client('out%d' % i, host=hosts[i % 3], ca=cluster.ca).log_in('x')
        b = await Client('in%d' % i, host=hosts[(i + 1) % 3], ca=cluster.ca).log_in('x')
        b.presence()
        r = Receiver(b)
        pairs.append((a, b, r))
    count = FLOOD // PAIRS
    began = time.monotonic()

    async def send(a, to):
        for k in range(count):
            a.message(to, '%s %d' % (a.user, k))
            if k % 200 == 199:
                await a.writer.drain()
    await asyncio.gather(*(send(a, 'in%d@example.com' % i) for i, (a, b, r) in enumerate(pairs)))
    end = time.monotonic() + 120 * SLOW
    while any(sum(r.next.values()) < count for _, _, r in pairs):
        for a, b, r in pairs:
            assert not r.bad, r.bad[:3]
            assert not b.closed and not a.closed, 'a stream ended: %r' % (a.stanzas[-1:] + b.stanzas[-1:])
        assert time.monotonic() < end, 'messages missing: %s' % [(r.next, count) for _, _, r in pairs]
        await asyncio.sleep(0.05)
    took = time.monotonic() - began
    for a, b, r in pairs:
        assert not r.bad, r.bad[:3]
        await a.close()
        await b.close()
    print('%d messages between nodes in %.1f s (%.0f/s with this client), none lost, doubled or out of order' %
          (FLOOD, took, FLOOD / took))


def test(cluster):
    cluster.start()
    n1, n2, n3 = cluster.nodes
    cluster.add_local_users(['ann', 'bob'] + ['%s%d' % (w, i) for w in ('in', 'out') for i in range(PAIRS)])
    n1.cli('user', 'assign', 'ann', 'out0', 'out3', '--node', 'n1')
    n1.cli('user', 'assign', 'bob', 'in0', 'out1', '--node', 'n2')
    n1.cli('user', 'assign', 'in1', 'out2', '--node', 'n3')
    # at home, and through other nodes (relay)
    asyncio.run(conversation(cluster, n1.address, n2.address, True))
    asyncio.run(conversation(cluster, n3.address, n3.address, False))
    step('the conversations are over')
    asyncio.run(flood(cluster))
    cluster.check_equal()


if __name__ == '__main__':
    run_test(test, config=['--shards', '2'])
