#!/usr/bin/python3
"""Power losses of one node, of the leader, and of all of them, at random moments of a write load, also while a node still starts or
takes a copy of the store over: of what was not synced each sector is old or new, names come and go; sometimes one operation of the
start fails with an I/O error or for want of space as well. Every acknowledged write is there afterwards, the tables are equal, and
no node refuses to start. IMP_ROUNDS and IMP_SEED: more of it, or the same again. With IMP_FAULT_LIES=/log/ (or any other part of a
path) syncs there do nothing, and the test must fail."""
import errno
import os
import random
import threading
import time

from faultfs import Faults
from harness import SLOW, run_test, step, wait

SEED = int(os.environ.get('IMP_SEED', random.randrange(1 << 30)))
ROUNDS = int(os.environ.get('IMP_ROUNDS', '12'))
BATCH = 20


class Load:
    """Adds users through one node, all the time. A batch counts when impcli has said that it is done."""

    def __init__(self, node):
        self.node, self.acknowledged, self.stopped = node, [], threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        n = 0
        while not self.stopped.is_set():
            names = ['%s-%d-%d' % (self.node.name, n, i) for i in range(BATCH)]
            n += 1
            try:
                p = self.node.cli('user', 'import', '-', stdin=''.join(name + ',x\n' for name in names), check=False, timeout=30)
            except Exception:  # it hung: killed under its feet
                continue
            if p.returncode == 0:
                self.acknowledged += names
            else:
                self.stopped.wait(0.05)

    def stop(self):
        self.stopped.set()
        self.thread.join()


def answers(node):
    if node.process.poll() is not None:
        raise AssertionError('%s refuses to start' % node.name)
    return node.json('dbreplication', 'runtimestate', node.name)['nodes'][0]['state'] == 2


def n_copies(node):
    with open(node.log, errors='replace') as f:
        return sum('continuing with the copy' in line for line in f)


def be_a_disk(fault):
    fault.clear()
    fault.rule('sync', '/log/', delay_ms=5)  # most moments are between a write and its sync


def lose_power(rng, cluster, faults, victims):
    for v in victims:
        v.process.kill()  # all at one moment, as near as can be; the worker goes with its parent
    for v in victims:
        v.kill()
        step('  %s: lost %s' % (v.name, faults[v].lose_power(rng)))
        be_a_disk(faults[v])
        if rng.random() < 0.3:
            faults[v].rule('all', '', rng.choice([errno.EIO, errno.ENOSPC]), skip=rng.randrange(60), count=1)
        v.start()


def check_running(cluster, loads):
    for node in cluster.nodes:
        wait('%s answers' % node.name, lambda: answers(node), 60)
    before = [len(load.acknowledged) for load in loads]
    wait('every node writes', lambda: all(len(load.acknowledged) > b for load, b in zip(loads, before)), 60)


def one_round(rng, cluster, faults, loads, number):
    """Does not wait until all is well again: the next loss may find nodes that still start. Now and then it does."""
    kind = ('all', 'one', 'leader')[number % 3]  # first of all: the members have just joined
    leader = cluster.leader() if kind == 'leader' else None
    victims = {'one': [rng.choice(cluster.nodes)], 'leader': [leader or rng.choice(cluster.nodes)], 'all': list(cluster.nodes)}[kind]
    step('round %d: power loss of %s (%s)' % (number, ', '.join(v.name for v in victims), kind))
    before = sum(len(load.acknowledged) for load in loads)
    if number % 4 == 1:  # while it takes a copy of the store over, or swaps it in
        victims[0].cli('dbreplication', 'repair', victims[0].name, check=False)
        time.sleep(rng.uniform(0.2, 1.2) * SLOW)
    lose_power(rng, cluster, faults, victims)
    if rng.random() < 0.5:
        wait('somebody writes', lambda: sum(len(load.acknowledged) for load in loads) > before, 60)
    if number % 5 == 4:
        check_running(cluster, loads)
    time.sleep(rng.uniform(0, 0.5) * SLOW)


def test(cluster):
    step('seed %d' % SEED)
    rng = random.Random(SEED)
    faults = {node: Faults(node, journal=True) for node in cluster.nodes}
    cluster.start()
    for f in faults.values():
        be_a_disk(f)
    loads = [Load(node) for node in cluster.nodes]
    try:
        for number in range(ROUNDS):
            one_round(rng, cluster, faults, loads, number)
    finally:
        for load in loads:
            load.stop()
    cluster.wait_running()
    assert all(v.process.poll() is None for v in cluster.nodes)
    acknowledged = {name for load in loads for name in load.acknowledged}
    step('%d acknowledged, %d copies taken over' % (len(acknowledged), sum(n_copies(node) for node in cluster.nodes)))
    for node in cluster.nodes:
        lost = acknowledged - {u['user'] for u in node.json('user', 'list')}
        assert not lost, '%s has lost %d acknowledged writes: %s' % (node.name, len(lost), sorted(lost)[:20])
    cluster.check_equal()


if __name__ == '__main__':
    run_test(test)
