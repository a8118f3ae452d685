#!/usr/bin/python3
"""kill -9 of the home of a user whose client is connected through another node: the stream ends, the client logs in again at
the same edge, finds its roster and what was sent meanwhile; a contact at a component hears that it has gone, once. When the home is back, the user is there again."""
import asyncio
import hashlib
import re

from harness import SLOW, run_test, step
from pause import log_in, until
from xmpp import befriend, body_of, is_presence, say

WAIT = 20 * SLOW


def user(cluster, name):
    return cluster.nodes[1].json('user', 'show', name)


class Component:
    """XEP-0114; pat@part.example.com is a contact of ann."""
    def __init__(self):
        self.heard = ''

    async def connect(self, host):
        self.reader, self.writer = await asyncio.open_connection(host, 5347)
        self.writer.write(b"<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' "
                          b"to='part.example.com'>")
        id = re.search(rb" id='(\w+)'", await self.reader.readuntil(b"part.example.com'>")).group(1)
        self.writer.write(b'<handshake>%s</handshake>' % hashlib.sha1(id + b's3cret').hexdigest().encode())
        await self.reader.readuntil(b'<handshake/>')
        self.task = asyncio.ensure_future(self.read())

    async def read(self):
        while True:
            data = await self.reader.read(65536)
            if not data:
                return
            self.heard += data.decode()

    def count(self, pattern):
        return len(re.findall(pattern, self.heard))


def test(cluster):
    cluster.start()
    n1, n2, n3 = cluster.nodes
    cluster.add_local_users(['ann', 'bob'])
    n1.cli('user', 'assign', 'ann', '--node', 'n3')
    n1.cli('user', 'assign', 'bob', '--node', 'n2')

    n1.cli('settings', 'set', 'xmpp.components', 'part.example.com')
    n1.cli('settings', 'set', 'xmpp.component_secrets', stdin='part.example.com=s3cret\n')

    async def main():
        part = Component()

        async def connect_part():
            try:
                await part.connect(n1.address)
                return True
            except (OSError, asyncio.IncompleteReadError):
                return False
        await until('both are at home', lambda: user(cluster, 'ann')['active_home'] == 'n3' and
                    user(cluster, 'bob')['active_home'] == 'n2')
        ann, bob = await log_in('ann', n1, cluster), await log_in('bob', n2, cluster)
        for c in (ann, bob):
            await c.roster()
            c.presence()
        await befriend(ann, bob, WAIT)
        await bob.expect(is_presence('ann@example.com/again'), WAIT)
        while not await connect_part():
            await asyncio.sleep(0.05)
        part.writer.write(b"<presence from='pat@part.example.com' to='ann@example.com' type='subscribe'/>")
        await ann.expect(lambda s: "type='subscribe'" in s and 'pat@part' in s, WAIT)
        ann.write("<presence to='pat@part.example.com' type='subscribed'/>")
        await until('the component sees ann', lambda: part.count('ann@example.com/again'))
        step('the home of ann dies; her client is connected to n1')
        n3.kill()
        await until('her stream ends', lambda: ann.closed)
        assert 'stream:error' in ' '.join(ann.stanzas) + ann.buffer, 'no reason was given: %s' % ann.buffer
        await bob.expect(is_presence('ann@example.com/again', 'unavailable'), WAIT)
        await until('the component knows that she has gone', lambda: part.count('unavailable'))
        for i in range(5):
            bob.message('ann@example.com', 'away %d' % i)
        ann = await log_in('ann', n1, cluster)
        assert 'bob@example.com' in await ann.roster()
        ann.presence()
        for i in range(5):
            s = await ann.expect(lambda s: s.startswith('<message'), WAIT)
            assert body_of(s) == 'away %d' % i, s
        await ann.expect(is_presence('bob@example.com'), WAIT)
        await bob.expect(is_presence('ann@example.com/again'), WAIT)
        home = user(cluster, 'ann')
        assert home['home'] == 'n3' and home['active_home'] in ('n1', 'n2'), home
        await say(ann, bob, 'I am back', WAIT)

        await until('the component sees her again', lambda: part.count('ann@example.com/again') >= 3)
        assert part.count('unavailable') == 1, part.heard
        part.writer.close()

        step('its home comes back')
        n3.start()
        await until('ann is at home on n3', lambda: user(cluster, 'ann')['active_home'] == 'n3', 60)
        await until('her session at the stand-in ends', lambda: ann.closed)
        ann = await log_in('ann', n1, cluster)
        await ann.roster()
        ann.presence()
        bob.message('ann@example.com', 'welcome home')
        s = await ann.expect(lambda s: s.startswith('<message'), WAIT)
        assert body_of(s) == 'welcome home', 'something came twice: %s' % s
        where = [s['node'] for s in n2.json('session', 'list', 'ann')]
        assert where == ['n3'], where
        await ann.close()
        await bob.close()
    asyncio.run(main())
    cluster.check_equal()


if __name__ == '__main__':
    run_test(test)
