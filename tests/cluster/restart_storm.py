#!/usr/bin/python3
"""Random kill -9 of workers under messages and presence. Afterwards all is right by itself: who is connected is seen, who is not
is unavailable to everybody who may see it, no session is left over, and the tables are equal. IMP_SEED repeats a run."""
import asyncio
import os
import random
import re

from harness import SLOW, run_test, step, wait
from pause import log_in, until
from xmpp import Client, Closed, is_presence

WAIT = 20 * SLOW
SECONDS = int(os.environ.get('IMP_STORM', '20'))
SEED = int(os.environ.get('IMP_SEED', random.randrange(1 << 30)))
USERS = ['user%d' % i for i in range(9)]
EYES = ['eye%d' % i for i in range(3)]  # one at home on each node; each is a contact of all users


async def subscriptions(cluster):
    node = cluster.nodes[0]
    eyes = [await log_in(e, node, cluster) for e in EYES]
    for e in eyes:
        await e.roster()
        e.presence()
    for u in USERS:
        c = await log_in(u, node, cluster)
        await c.roster()
        c.presence()
        for e in eyes:
            jid = e.jid.split('/')[0]
            e.presence(to='%s@example.com' % u, type='subscribe')
            await c.expect(is_presence(jid, 'subscribe'), WAIT)
            c.presence(to=jid, type='subscribed')
            await e.expect(is_presence('%s@example.com' % u, 'subscribed'), WAIT)
        await c.close()
    for e in eyes:
        await e.close()


async def live(cluster, rng, user, stop):
    """Logs in anywhere, shows itself, talks, changes its presence, leaves or is thrown out, again and again."""
    n = 0
    while not stop.is_set():
        try:
            node = rng.choice(cluster.nodes)
            c = await asyncio.wait_for(Client(user, host=node.address, ca=cluster.ca).log_in('r%d' % rng.randrange(3)), 5 * SLOW)
        except (Closed, OSError, asyncio.TimeoutError):
            await asyncio.sleep(0.1)
            continue
        c.on_stanza = lambda s: None
        c.presence()
        for _ in range(rng.randrange(5, 60)):
            if c.closed or stop.is_set():
                break
            c.message('%s@example.com' % rng.choice(USERS), '%s %d' % (user, n))
            n += 1
            if rng.random() < 0.1:
                c.presence('<show>%s</show>' % rng.choice(['away', 'dnd', 'chat']))
            await asyncio.sleep(0.05)
        if rng.random() < 0.5:
            await c.close()
        else:  # without a good-bye
            c.task.cancel()
            c.writer.transport.abort()
    return n


async def storm(cluster, rng):
    stop = asyncio.Event()
    tasks = [asyncio.ensure_future(live(cluster, rng, u, stop)) for u in USERS]
    end = asyncio.get_event_loop().time() + SECONDS
    kills = 0
    while asyncio.get_event_loop().time() < end:
        await asyncio.sleep(rng.uniform(0.2, 2.5))
        try:
            rng.choice(cluster.nodes).kill_worker()
            kills += 1
        except (OSError, ValueError):
            pass
    stop.set()
    sent = sum(await asyncio.gather(*tasks))
    step('%d kills, %d messages sent' % (kills, sent))


def available(eye):
    """Resources that this eye sees, from all that it has received."""
    seen = set()
    for s in eye.stanzas:
        m = re.match(r"""<presence[^>]*\bfrom=['"](user[^'"]*)['"]""", s)
        if m and "type='unavailable'" in s[:s.index('>')]:
            seen.discard(m.group(1))
        elif m and 'type=' not in s[:s.index('>')]:
            seen.add(m.group(1))
    return seen


async def check(cluster, rng):
    connected = {}
    for i, u in enumerate(USERS):
        if i % 2 == 0:
            connected['%s@example.com/end' % u] = c = await log_in(u, rng.choice(cluster.nodes), cluster, 'end')
            c.presence()
    want = set(connected)
    for i, e in enumerate(EYES):
        eye = await log_in(e, cluster.nodes[(i + 1) % 3], cluster)
        await eye.roster()
        eye.presence()
        await until('%s sees who is there: %s, not %s' % (e, sorted(want), sorted(available(eye))), lambda: available(eye) == want)
        await eye.close()
    sessions = {(s['user'], s['resource']) for s in cluster.nodes[0].json('session', 'list')}
    left = {s for s in sessions if s[1] != 'end' and s[0] in USERS}
    assert not left, 'sessions of nobody: %s' % left
    for c in connected.values():
        assert not c.closed
        await c.close()
    await until('no session is left', lambda: not cluster.nodes[1].json('session', 'list'))


def test(cluster):
    step('seed %d' % SEED)
    rng = random.Random(SEED)
    cluster.start()
    n1 = cluster.nodes[0]
    cluster.add_local_users(USERS + EYES)
    for i, node in enumerate(cluster.nodes):
        n1.cli('user', 'assign', EYES[i], *USERS[i::3], '--node', node.name)

    async def main():
        await subscriptions(cluster)
        await storm(cluster, rng)
        cluster.wait_running()
        await until('every user is at home', lambda: all(n1.json('user', 'show', u)['active_home'] == n1.json('user', 'show', u)['home']
                                                         for u in USERS + EYES))
        await check(cluster, rng)
    asyncio.run(main())
    cluster.check_equal()


if __name__ == '__main__':
    run_test(test)
