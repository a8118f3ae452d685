#!/usr/bin/python3
"""kill -9 of the home of a user whose client is connected through another node: the stream ends, the client logs in again at
the same edge, finds its roster and what was sent meanwhile. When the home is back, the user is there again."""
import asyncio

from harness import SLOW, run_test, step
from pause import log_in, until
from xmpp import befriend, body_of, is_message, is_presence

WAIT = 20 * SLOW


def user(cluster, name):
    return cluster.nodes[1].json('user', 'show', name)


def test(cluster):
    cluster.start()
    n1, n2, n3 = cluster.nodes
    cluster.add_local_users(['ann', 'bob'])
    n1.cli('user', 'assign', 'ann', '--node', 'n3')
    n1.cli('user', 'assign', 'bob', '--node', 'n2')

    async def main():
        await until('both are at home', lambda: user(cluster, 'ann')['active_home'] == 'n3' and
                    user(cluster, 'bob')['active_home'] == 'n2')
        ann, bob = await log_in('ann', n1, cluster), await log_in('bob', n2, cluster)
        for c in (ann, bob):
            await c.roster()
            c.presence()
        await befriend(ann, bob, WAIT)
        await bob.expect(is_presence('ann@example.com/again'), WAIT)
        step('the home of ann dies; her client is connected to n1')
        n3.kill()
        await until('her stream ends', lambda: ann.closed)
        assert 'stream:error' in ' '.join(ann.stanzas) + ann.buffer, 'no reason was given: %s' % ann.buffer
        await bob.expect(is_presence('ann@example.com/again', 'unavailable'), WAIT)
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
        ann.message('bob@example.com', 'I am back')
        await bob.expect(is_message('I am back'), WAIT)

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
