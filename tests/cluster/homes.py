#!/usr/bin/python3
"""Users move between homes while they log in, talk and show presence: by assignment, balance, drain and undrain, a restart of their
home, a pause past its lease and a jump of its clock.

An observer that shares nothing with the nodes reads their logs: when each of them took a user and when it let the user go, by a clock
that all processes of a machine share. No two of these intervals may overlap. Every message carries a number: nothing may come twice or
out of its sender's order, and what the sender's home has acknowledged (it answered a ping sent behind the message) may not be lost
where all homes live on."""
import asyncio
import random
import re
import time

from faultfs import Faults
from harness import SLOW, run_test, step
from pause import log_in, until
from xmpp import Client, Closed, body_of

USERS = ['u%d' % i for i in range(9)]
PAIRS = {u: [USERS[(i + k) % len(USERS)] for k in (1, 4)] for i, u in enumerate(USERS)}
TAKEN = re.compile(r'user (\d+) taken at (\d+) ms')
LEFT = re.compile(r'user (\d+) left at (\d+) ms, the lease ran until (\d+)')
PING_MS = 250  # a shard may have seen the lease a ping's time before it was renewed


def boot_ms():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000000


class Talker:
    """One user's client: always logged in somewhere, writes to its partners, notes what it gets."""

    def __init__(self, user, world):
        self.user, self.world = user, world
        self.sent = {to: [] for to in PAIRS[user]}  # (number, boot ms)
        self.acked = {to: set() for to in PAIRS[user]}
        self.refused = {to: set() for to in PAIRS[user]}
        self.got = {}  # by sender: numbers in the order in which they came
        self.when = {}
        self.numbers = dict.fromkeys(PAIRS[user], 0)
        self.waiting = {}
        self.n_logins = self.n_pings = 0
        self.longest = 0
        self.online = None

    def on_stanza(self, s):
        if s.startswith('<iq') and "id='p" in s.replace('"', "'"):
            key = re.search(r'''id=['"](p\d+)''', s).group(1)
            for to, number in self.waiting.pop(key, []):
                self.acked[to].add(number)
        elif s.startswith('<message'):
            who, number = body_of(s).split()
            if re.match(r'''<message[^>]*\btype=['"]error''', s):
                to = re.search(r'''from=['"](u\d+)@''', s).group(1)
                self.refused[to].add(int(number))
            else:
                self.got.setdefault(who, []).append(int(number))
                self.when.setdefault((who, int(number)), []).append((boot_ms(), 'log-in %d' % self.n_logins, s))

    async def connect(self):
        began = time.monotonic()
        while not self.world.stop:
            node = random.choice(self.world.edges)
            c = Client(self.user, host=node.address, ca=self.world.cluster.ca)
            c.on_stanza = self.on_stanza
            try:
                await asyncio.wait_for(c.log_in('r'), 8 * SLOW)
            except (Closed, OSError, asyncio.TimeoutError):
                try:
                    c.writer.close()
                except AttributeError:
                    pass
                await asyncio.sleep(0.05)
                continue
            c.presence()
            self.n_logins += 1
            self.longest = max(self.longest, time.monotonic() - began)
            return c
        return None

    def write_some(self, c):
        batch = []
        for to in PAIRS[self.user]:
            if self.world.quiet & {self.user, to}:
                continue
            self.numbers[to] += 1
            number = self.numbers[to]
            c.message('%s@example.com' % to, '%s %d' % (self.user, number))
            self.sent[to].append((number, boot_ms()))
            batch.append((to, number))
        self.n_pings += 1
        key = 'p%d' % self.n_pings
        self.waiting[key] = batch
        c.write("<iq type='get' id='%s' to='example.com'><ping xmlns='urn:xmpp:ping'/></iq>" % key)
        if self.n_pings % 10 == 0:
            c.presence('<show>%s</show>' % random.choice(['away', 'xa', 'dnd']))

    async def run(self):
        while True:
            c = self.online = await self.connect()
            if not c:
                return
            while not c.closed:
                if self.world.stop and not self.waiting:
                    await asyncio.sleep(1)  # what is on its way to it
                    await c.close()
                    return
                if not self.world.stop:
                    try:
                        self.write_some(c)
                    except (ConnectionError, RuntimeError):
                        break
                await asyncio.sleep(0.04 * SLOW)
            self.waiting.clear()  # never answered: nobody promised anything


class World:
    def __init__(self, cluster):
        self.cluster, self.edges, self.stop, self.quiet = cluster, list(cluster.nodes), False, set()
        self.lossy = []  # (from, to) boot ms: a home died or stood still
        self.killed = {}
        self.talkers = {u: Talker(u, self) for u in USERS}

    def seat(self, *but):
        return [n for n in self.cluster.nodes if n not in but][0]

    async def run(self, *args, node=None):
        """impcli without stopping the clients."""
        node = node or self.seat()
        return await asyncio.get_event_loop().run_in_executor(None, lambda: node.cli(*args, check=False))

    async def call(self, fn, *args):
        return await asyncio.get_event_loop().run_in_executor(None, fn, *args)

    async def all_online(self, what):
        await until('all are logged in %s' % what, lambda: all(t.online and not t.online.closed for t in self.talkers.values()))


async def moves(w):
    names = [n.name for n in w.cluster.nodes]
    for i in range(12):
        users = random.sample(USERS, 3)
        for target in random.sample(names, 2):  # there, and on at once
            p = await w.run('user', 'assign', *users, '--node', target, node=random.choice(w.cluster.nodes))
            assert p.returncode == 0, p.stderr
        await asyncio.sleep(random.choice([0, 0.1, 0.3]) * SLOW)
    p = await w.run('user', 'unassign', *USERS)
    assert p.returncode == 0, p.stderr
    p = await w.run('user', 'balance')
    assert p.returncode == 0, p.stderr
    await w.all_online('after the moves')


async def drain(w):
    victim = w.cluster.nodes[2]
    w.edges = w.cluster.nodes[:2]
    for _ in range(2):
        p = await w.run('node', 'drain', victim.name)
        assert p.returncode == 0, p.stderr
        await until('nobody is served by the drained node',
                    lambda: not any(s['node'] == victim.name for s in w.seat().json('session', 'list')))
        await until('it holds no lease any more', lambda: not w.seat().json('node', 'show', victim.name)['up'])
        p = await w.run('node', 'undrain', victim.name)
        assert p.returncode == 0, p.stderr
        await until('it is up', lambda: w.seat().json('node', 'show', victim.name)['up'])
    w.edges = list(w.cluster.nodes)
    await w.all_online('after drain and undrain')


async def restart(w):
    """It stops in order; its users go to stand-ins, and home again at its node_up."""
    victim = w.cluster.nodes[2]
    for u in USERS[:3]:
        await w.run('user', 'assign', u, '--node', victim.name)
    await w.all_online('before the restart')
    began = boot_ms()
    await w.call(victim.stop)
    w.edges = w.cluster.nodes[:2]
    w.lossy.append((began - 1000 * SLOW, boot_ms() + 3000 * SLOW))
    await w.all_online('at stand-ins')
    await w.call(victim.start)
    await until('its users are at home again', lambda: all(
        w.seat().json('user', 'show', u)['active_home'] == victim.name for u in USERS[:3]))
    w.edges = list(w.cluster.nodes)
    await w.all_online('at home again')
    await until('their sessions are there', lambda: {s['user'] for s in victim.json('session', 'list') if s['node'] == victim.name}
                >= set(USERS[:3]))


async def pause(w, faults):
    """Past its lease, and with another time of day when it wakes up."""
    victim = w.cluster.nodes[2]
    began = boot_ms()
    victim.pause()
    w.edges = w.cluster.nodes[:2]
    faults.clock(86400)
    await until('it is down', lambda: not w.seat().json('node', 'show', victim.name)['up'])
    for u in USERS[:3]:  # others serve its users
        probe = await log_in(u, w.seat(), w.cluster, 'probe')
        await probe.close()
    victim.go_on()
    await until('it is up again', lambda: w.seat().json('node', 'show', victim.name)['up'])
    w.lossy.append((began - 1000 * SLOW, boot_ms() + 1000 * SLOW))
    faults.clock(-86400)
    w.edges = list(w.cluster.nodes)
    await w.all_online('after the pause')
    faults.clock(0)


# ---- what the observer finds ----

def intervals(cluster):
    found = {}
    for node in cluster.nodes:
        open_ones = {}
        with open(node.log, errors='replace') as f:
            for line in f:
                m = TAKEN.search(line)
                if m:
                    open_ones[m.group(1)] = int(m.group(2))
                m = LEFT.search(line)
                if m and m.group(1) in open_ones:
                    end = min(int(m.group(2)), int(m.group(3)) + PING_MS)
                    found.setdefault(m.group(1), []).append((open_ones.pop(m.group(1)), end, node.name))
        for uid, since in open_ones.items():
            found.setdefault(uid, []).append((since, boot_ms(), node.name))
    return found


def check_homes(cluster):
    n = n_changes = 0
    for uid, list_of in intervals(cluster).items():
        list_of.sort()
        for a, b in zip(list_of, list_of[1:]):
            assert b[0] >= a[1] or a[2] == b[2], 'user %s is at home twice: %r and %r' % (uid, a, b)
            n_changes += a[2] != b[2]
        n += len(list_of)
    assert n_changes > 3 * len(USERS), 'only %d changes of homes' % n_changes
    return n, n_changes


def is_known_repeat(w, times):
    """A home that is lost at once may not have said what it delivered in its last second: it comes again, with the same id."""
    ids = {re.search(r"<stanza-id[^>]*\bid='(.*?)'", stanza) for _, _, stanza in times}
    return None not in ids and len({m.group(1) for m in ids}) == 1 and any(a <= times[-1][0] <= b for a, b in w.lossy)


def check_messages(w):
    n = n_refused = 0
    for user, t in w.talkers.items():
        for to, sent in t.sent.items():
            got = w.talkers[to].got.get(user, [])
            twice = [w.talkers[to].when[(user, x)] for x in got if got.count(x) > 1]
            twice = [times for times in twice if not is_known_repeat(w, times)]
            assert not twice, '%s to %s twice: %r' % (user, to, twice[:2])
            got = list(dict.fromkeys(got))
            late = [(x, w.talkers[to].when[(user, y)]) for x, y in zip(got, got[1:]) if x > y]
            assert not late, '%s to %s out of order: %r' % (user, to, late[:3])
            have = set(got)
            for number, at in sent:
                exempt = any(a <= at <= b for a, b in w.lossy)
                if number in t.acked[to] and number not in have | t.refused[to] and not exempt:
                    raise AssertionError('%s to %s: message %d of %d was acknowledged and is lost' % (user, to, number, len(sent)))
            n += len(got)
            n_refused += len(t.refused[to])
    return n, n_refused


def test(cluster):
    faults = Faults(cluster.nodes[2])
    cluster.start()
    cluster.add_local_users(USERS)
    seed = int(time.time())
    random.seed(seed)
    step('seed %d' % seed)

    async def main():
        w = World(cluster)
        tasks = [asyncio.ensure_future(t.run()) for t in w.talkers.values()]
        await w.all_online('at first')
        for name, part in (('moves', moves(w)), ('drain', drain(w)), ('restart', restart(w)), ('pause', pause(w, faults))):
            step(name)
            await part
        w.stop = True
        await asyncio.wait(tasks, timeout=30 * SLOW)
        for task in tasks:
            assert task.done(), 'a client does not end'
            task.result()
        n_homes, n_changes = check_homes(cluster)
        n, n_refused = check_messages(w)
        step('%d stays of users at homes, %d changes of homes, %d messages, %d told to be refused, %d log-ins, the longest took %.1f s'
             % (n_homes, n_changes, n, n_refused, sum(t.n_logins for t in w.talkers.values()),
                max(t.longest for t in w.talkers.values())))
        assert n_refused * 20 < n, 'too many were refused'
    asyncio.run(main())
    cluster.check_equal()


if __name__ == '__main__':
    run_test(test, node_args=['--log-level', 'debug'])
