#!/usr/bin/python3
"""slixmpp's archive (XEP-0313) against a cluster: the same answers on any node and after the home is lost; limits and
retention; what is left of a removed user."""
import asyncio
import sys

try:
    import slixmpp
except ImportError:
    print('SKIP: python3-slixmpp is not installed')
    sys.exit(77)

from harness import SLOW, run_test, wait
from slixmpp_client import DOMAIN, Client as Plain
from xmpp import Client as Raw

MAM = '{urn:xmpp:mam:2}'
RSM = '{http://jabber.org/protocol/rsm}'
N = 60


class Client(Plain):
    def __init__(self, *args, **kw):
        super().__init__(*args, **kw)
        for p in ('xep_0059', 'xep_0297', 'xep_0313'):
            self.register_plugin(p)

    async def archive(self, **kw):
        out = []
        async for m in self['xep_0313'].iterate(rsm={'max': 25}, **kw):
            out.append(m['mam_result']['forwarded']['stanza']['body'])
        return out

    async def count(self):
        iq = self.make_iq_set()
        iq.xml.append(slixmpp.xmlstream.ET.fromstring(
            "<query xmlns='urn:xmpp:mam:2'><set xmlns='http://jabber.org/protocol/rsm'><max>0</max></set></query>"))
        fin = (await iq.send(timeout=30 * SLOW)).xml.find(MAM + 'fin')
        return int(fin.find('%sset/%scount' % (RSM, RSM)).text)

    async def end(self):
        self.disconnect(wait=1)
        await asyncio.sleep(0)


async def until(what, test):
    end = asyncio.get_event_loop().time() + 30 * SLOW
    while True:
        got = await test()
        if got:
            return got
        assert asyncio.get_event_loop().time() < end, 'in vain: %s' % what
        await asyncio.sleep(0.2)


async def talk(cluster):
    hosts = [n.address for n in cluster.nodes]
    ann = await Client(cluster, 'ann', hosts[0]).start()
    bob = await Client(cluster, 'bob', hosts[1]).start()
    assert ann and bob
    bodies = ['%d' % i for i in range(N)]
    for body in bodies:
        ann.send_message('bob@%s' % DOMAIN, body, mtype='chat')
    for body in bodies:
        await bob.expect_body(body)
    assert await bob.archive() == bodies
    assert await bob.archive(reverse=True) == bodies[::-1]
    assert await bob.archive(with_jid='ann@%s' % DOMAIN) == bodies
    assert await bob.archive(with_jid='nobody@%s' % DOMAIN) == []
    meta = (await bob['xep_0313'].get_archive_metadata()).xml.find(MAM + 'metadata')
    assert meta.find(MAM + 'start') is not None and meta.find(MAM + 'end') is not None
    fields = await bob['xep_0313'].get_fields()
    assert 'with' in str(fields), fields
    for host in hosts:
        c = await Client(cluster, 'bob', host).start(presence=False)
        assert await c.archive() == bodies, 'another archive on %s' % host
        await c.end()
    for c in (ann, bob):
        await c.end()
    return bodies


async def after_a_loss(cluster, bodies):
    home = cluster.nodes[0].json('user', 'show', 'bob')['active_home']
    lost = next(n for n in cluster.nodes if n.name == home)
    lost.kill()
    left = [n for n in cluster.nodes if n is not lost]
    wait('another home of bob', lambda: left[0].json('user', 'show', 'bob')['active_home'] not in (home, ''))
    bob = await Client(cluster, 'bob', left[0].address).start()
    assert bob and await bob.archive() == bodies, 'the archive after the loss of %s' % home
    await bob.end()
    lost.start()
    cluster.wait_running()


async def slow_reader(cluster):
    """Who asks for more than he reads costs a page of ids; the rest of the node does not notice."""
    queries, size = 8, 16384
    writer = await Raw('dan', host=cluster.nodes[0].address, ca=cluster.ca).log_in('w')
    for i in range(260):
        writer.message('dan@%s' % DOMAIN, 'x' * size)
    reader = await Raw('dan', host=cluster.nodes[1].address, ca=cluster.ca).log_in('r')
    reader.task.cancel()
    name = cluster.nodes[0].json('user', 'show', 'dan')['active_home']
    home = next(n for n in cluster.nodes if n.name == name)
    counter = await Client(cluster, 'dan', cluster.nodes[2].address).start(presence=False)
    await until('260 messages', lambda: is_count(counter, 260))
    before = home.rss_kib()
    reader.writer.transport.pause_reading()
    for i in range(queries + 1):
        reader.write("<iq type='set' id='q%d'><query xmlns='urn:xmpp:mam:2' queryid='q%d'>"
                     "<set xmlns='http://jabber.org/protocol/rsm'><max>1000</max></set></query></iq>" % (i, i))
    for i in range(20):
        assert await counter.count() == 260
    grown = home.rss_kib() - before
    assert SLOW > 1 or grown < 16 << 10, '%d KiB more for a client that does not read' % grown
    reader.writer.transport.resume_reading()
    text = ''
    while text.count('<fin ') < queries or 'resource-constraint' not in text:
        text += (await asyncio.wait_for(reader.reader.read(1 << 20), 60 * SLOW)).decode()
    assert text.count('<result ') == 250 * queries, text.count('<result ')
    for c in (writer, reader):
        c.writer.transport.abort()
    await counter.end()
    print('a slow reader of %d MiB: %d KiB' % (queries * 250 * size >> 20, grown))


async def limits(cluster):
    """Too many, then too old; both sides' archives, on whatever node they are read."""
    node = cluster.nodes[0]
    bob = await Client(cluster, 'bob', cluster.nodes[2].address).start()
    ann = await Client(cluster, 'ann', cluster.nodes[2].address).start()
    node.cli('settings', 'set', 'archive.messages_per_user', '7')
    for c in (bob, ann):
        await until('seven messages', lambda: is_count(c, 7))
        assert await c.archive() == ['%d' % i for i in range(N - 7, N)]
    node.cli('settings', 'set', 'archive.retention', '1')
    for c in (bob, ann):
        await until('an empty archive', lambda: is_count(c, 0))
    node.cli('settings', 'unset', 'archive.retention')
    ann.send_message('bob@%s' % DOMAIN, 'last', mtype='chat')
    await bob.expect_body('last')
    assert await ann.archive() == ['last']
    await bob.end()
    # what is left of who has gone
    node.cli('user', 'remove', 'bob')
    assert await ann.archive() == ['last']
    await ann.end()
    node.cli('user', 'remove', 'ann')
    node.cli('user', 'add', 'carol', '--password-stdin', stdin='pw-carol')


async def is_count(c, n):
    return await c.count() == n


def test(cluster):
    cluster.start()
    cluster.add_local_users(['ann', 'bob', 'dan'])
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    bodies = loop.run_until_complete(talk(cluster))
    loop.run_until_complete(after_a_loss(cluster, bodies))
    loop.run_until_complete(slow_reader(cluster))
    loop.run_until_complete(limits(cluster))
    cluster.check_equal()


if __name__ == '__main__':
    run_test(test)
