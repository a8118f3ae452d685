#!/usr/bin/python3
"""A node's worker stands still past its lease (SIGSTOP) and wakes up again: its users are at home elsewhere meanwhile, no
acknowledged write is doubled or lost, and it comes back by itself."""
import asyncio

from harness import SLOW, run_test, step, wait
from xmpp import Client, Closed, befriend, body_of, is_message, is_presence, say

WAIT = 20 * SLOW


async def log_in(user, node, cluster, resource='again', timeout=20):
    """Tries until the home answers."""
    end = asyncio.get_event_loop().time() + timeout * SLOW
    while True:
        try:
            return await asyncio.wait_for(Client(user, host=node.address, ca=cluster.ca).log_in(resource), 5 * SLOW)
        except (Closed, OSError, asyncio.TimeoutError) as e:
            assert asyncio.get_event_loop().time() < end, '%s cannot log in on %s: %r' % (user, node.name, e)
            await asyncio.sleep(0.1)


async def until(what, condition, timeout=30):
    end = asyncio.get_event_loop().time() + timeout * SLOW
    while not condition():
        assert asyncio.get_event_loop().time() < end, 'gave up waiting until %s' % what
        await asyncio.sleep(0.1)


def add_user(node, name):
    return node.cli('user', 'add', name, '--password-stdin', stdin='secret\n', check=False)


async def round_of(cluster, victim, seat):
    """VICTIM: home of ann. SEAT: where bob sits and ann comes back."""
    step('%s stands still' % victim.name)
    ann = await Client('ann', host=victim.address, ca=cluster.ca).log_in('a')
    bob = await log_in('bob', seat, cluster)
    for c in (ann, bob):
        await c.roster()
        c.presence()
    await bob.expect(is_presence('ann@example.com/a'), WAIT)
    await say(bob, ann, 'before', WAIT)
    victim.pause()
    await bob.expect(is_presence('ann@example.com/a', 'unavailable'), WAIT)
    await until('the leader is another', lambda: seat.json('dbreplication', 'runtimestate')['cluster']['leader'] not in
                ('', None, victim.name))
    # kept for ann, and delivered where she comes back
    bob.message('ann@example.com', 'meanwhile')
    again = await log_in('ann', seat, cluster)
    await again.roster()
    again.presence()
    await again.expect(is_message('meanwhile'), WAIT)
    await bob.expect(is_presence('ann@example.com/again'), WAIT)
    p = add_user(seat, 'made-while-%s-stood' % victim.name)
    assert p.returncode == 0, p.stderr
    # what ann's old stream still says must not count as said by her now
    ann.message('bob@example.com', 'from the old stream')
    step('%s goes on' % victim.name)
    victim.go_on()
    await until('the old stream ends', lambda: ann.closed)
    assert not any(s.startswith('<message') and body_of(s) == 'meanwhile' for s in ann.stanzas), 'delivered twice'
    await until('it is back by itself', victim.runs_services)
    # it registers anew, and takes no writes until that is applied
    await until('it takes writes', lambda: 'takes no writes now' not in add_user(victim, 'made-while-%s-stood' % victim.name).stderr)
    p = add_user(victim, 'made-while-%s-stood' % victim.name)
    assert p.returncode == 1 and 'exist' in p.stderr, p.stderr
    # the home moves back: ann's session ends there, and she is at home again
    await until('ann is at home again', lambda: seat.json('user', 'show', 'ann')['active_home'] == victim.name)
    await until('the session at the stand-in ends', lambda: again.closed)
    last = await log_in('ann', seat, cluster)
    last.presence()
    bob.message('ann@example.com', 'after')
    s = await last.expect(lambda s: s.startswith('<message'), WAIT)
    assert body_of(s) == 'after', 'came twice: %s' % s
    await last.close()
    await bob.close()
    sessions = {(s['user'], s['resource']) for s in seat.json('session', 'list')}
    assert ('ann', 'a') not in sessions, sessions


def test(cluster):
    cluster.start()
    n1, n2, n3 = cluster.nodes
    cluster.add_local_users(['ann', 'bob'])
    n1.cli('user', 'assign', 'bob', '--node', 'n2')

    async def main():
        a = await Client('ann', host=n1.address, ca=cluster.ca).log_in('s')
        b = await Client('bob', host=n2.address, ca=cluster.ca).log_in('s')
        for c in (a, b):
            await c.roster()
            c.presence()
        await befriend(a, b, WAIT)
        await a.close()
        await b.close()
        for victim in (cluster.leader(), n3):  # the leader, and a follower
            seat = n2 if victim is not n2 else n1
            n1.cli('user', 'assign', 'ann', '--node', victim.name)
            await until('ann has moved', lambda: seat.json('user', 'show', 'ann')['active_home'] == victim.name)
            await round_of(cluster, victim, seat)
            cluster.check_equal()
    asyncio.run(main())


if __name__ == '__main__':
    run_test(test)
