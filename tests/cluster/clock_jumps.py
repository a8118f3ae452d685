#!/usr/bin/python3
"""Clocks that jump by hours, forth and back: of a follower, of the leader, of all nodes, and of a node that starts meanwhile. Nobody is
at home twice, no lease is lost and no client disconnected by it, a leader with a wrong clock hands over, ClockSkew says whose it is, and
all is well when the clock is right again."""
import asyncio
import calendar
import time

from faultfs import Faults
from harness import SLOW, Failed, run_test, step
from pause import log_in, until
from xmpp import say

USERS = ['ann', 'bob', 'cat']
WAIT = 20 * SLOW


def leader_name(node):
    return node.json('dbreplication', 'runtimestate')['cluster']['leader']


def time_of(text):
    return calendar.timegm(time.strptime(text[:19], '%Y-%m-%dT%H:%M:%S'))


def skewed(node):
    return {a['node'] for a in node.json('alarm', 'list') if a['name'] == 'ClockSkew'}


def homes(cluster):
    """As each node sees them: the same everywhere."""
    return [[n.json('user', 'show', u)['active_home'] for u in USERS] for n in cluster.nodes]


class Watch:
    """The users stay connected, talk to each other, and are where they belong."""

    def __init__(self, cluster, clients):
        self.cluster, self.clients, self.n = cluster, clients, 0

    async def talk(self):
        self.n += 1
        for i, c in enumerate(self.clients):
            assert not c.closed, '%s was disconnected: %s' % (c.user, c.stanzas[-2:])
            to = self.clients[(i + 1) % 3]
            text = 'round %d of %s' % (self.n, c.user)
            await say(c, to, text, WAIT)
        for node in self.cluster.nodes:
            node.cli('user', 'add', 'w%d-%s' % (self.n, node.name), '--password-stdin', stdin='secret\n')
        await until('every node sees all at home', lambda: homes(self.cluster) == [['n1', 'n2', 'n3']] * 3)
        sessions = sorted(s['user'] for s in self.cluster.nodes[0].json('session', 'list'))
        assert sessions == USERS, 'sessions: %s' % sessions


def lost_leases(cluster):
    n = 0
    for node in cluster.nodes:
        with open(node.log, errors='replace') as f:
            n += sum('did not renew its lease' in line for line in f)
    return n


async def jumps(cluster, faults, watch):
    n1, n2, n3 = cluster.nodes
    await until('n1 leads', lambda: leader_name(n1) == 'n1' or n1.cli('node', 'leader', 'n1', check=False) and False)
    before = lost_leases(cluster)
    for hours in (5, -7):
        step('the clock of a follower: %+d h' % hours)
        faults[n3].clock(hours * 3600)
        await watch.talk()
        await until('there is an alarm', lambda: skewed(n1) == {'n3'})
        assert leader_name(n2) == 'n1'
        if hours < 0:
            await restart(cluster, n3, watch)  # certificates seem to be of the future
    faults[n3].clock(0)
    await until('the alarm is over', lambda: not skewed(n1))
    await watch.talk()
    for hours in (-6, 4):
        leader = next(n for n in cluster.nodes if n.name == leader_name(n1))
        step('the clock of the leader, %s: %+d h' % (leader.name, hours))
        faults[leader].clock(hours * 3600)
        await watch.talk()
        await until('it hands over', lambda: leader_name(n1) not in (None, leader.name))
        await until('there is an alarm', lambda: skewed(n1) == {leader.name})
        await watch.talk()
        assert leader_name(n1) != leader.name, 'a node with a wrong clock leads again'
        ahead = max(time_of(a['raised_at']) for a in n1.json('alarm', 'list', '--all')) - time.time()
        assert ahead < 3600, 'the time of the cluster went %d s ahead with its leader' % ahead
        faults[leader].clock(0)
        await until('the alarm is over', lambda: not skewed(n1))
    for hours in (3, -8, 0):
        step('the clocks of all: %+d h' % hours)
        for f in faults.values():
            f.clock(hours * 3600)
        await watch.talk()
    await until('no alarm is left', lambda: not skewed(n1))
    await watch.talk()
    assert lost_leases(cluster) - before <= 1, 'leases were lost: %d' % (lost_leases(cluster) - before)  # n3, when it was killed


async def restart(cluster, node, watch):
    step('  %s starts with it' % node.name)
    node.kill_worker()
    client = watch.clients[2]

    def is_back():
        try:
            return node.runs_services()
        except Failed:
            return False
    await until('%s is back' % node.name, is_back)
    await client.close()
    watch.clients[2] = await log_in(client.user, node, cluster)
    watch.clients[2].presence()
    await watch.talk()


def test(cluster):
    faults = {node: Faults(node) for node in cluster.nodes}
    cluster.start()
    n1 = cluster.nodes[0]
    cluster.add_local_users(USERS)

    async def main():
        for user, node in zip(USERS, cluster.nodes):
            n1.cli('user', 'assign', user, '--node', node.name)
        await until('everybody is assigned', lambda: homes(cluster) == [['n1', 'n2', 'n3']] * 3)
        clients = [await log_in(user, node, cluster) for user, node in zip(USERS, cluster.nodes)]
        for c in clients:
            c.presence()
        watch = Watch(cluster, clients)
        await watch.talk()
        await jumps(cluster, faults, watch)
        for c in watch.clients:
            await c.close()
    asyncio.run(main())
    step('a node joins, with a token of an hour')
    cluster.add(cluster.new_node())
    cluster.wait_running()
    cluster.check_equal()


if __name__ == '__main__':
    run_test(test)
