#!/usr/bin/python3
"""Five nodes on a LAN with faults, writers on each of them. After each fault: what was acknowledged is there on every node and
nothing came twice, the majority went on, the minority refused with a plain reason, and within 5 s of its end all nodes take
writes and run their services. One node stands still (SIGSTOP) for more than a minute meanwhile.

    faults.py [SCENARIO...]       IMP_PAUSE: how long that one node stands still, in seconds (default 61)
"""
import os
import random
import sys
import threading
import time

from harness import SLOW, Failed, run_test, step, wait
from rpc import Unanswered, call

SEED = int(os.environ.get('IMP_SEED', random.randrange(1 << 30)))
PAUSE = float(os.environ.get('IMP_PAUSE', '61'))
HEAL = 5 * SLOW
WORDS = sys.argv[1:]


class Writer(threading.Thread):
    """Adds users through one node: an added one tells a doubled write, as it exists then."""

    def __init__(self, node):
        super().__init__(daemon=True)
        self.node, self.stop, self.error, self.count = node, False, None, 0
        self.acknowledged, self.unknown, self.times, self.refused = [], [], [], []

    def run(self):
        while not self.stop:
            name = '%s-%05d' % (self.node.name, self.count)
            self.count += 1
            try:
                status, message, _ = call(self.node, 'user', 'add', name, options={'password-stdin': ''}, stdin='secret',
                                          timeout=3)
            except Unanswered as e:
                if e.sent:
                    self.unknown.append(name)
                time.sleep(0.05)
                continue
            if status == 0:
                self.acknowledged.append(name)
                self.times.append(time.monotonic())
            elif 'outcome unknown' in message:
                self.unknown.append(name)
            elif 'exist' in message:
                self.error = '%s was written twice: %s' % (name, message)
                return
            else:
                self.refused.append((time.monotonic(), message))
            time.sleep(0.05)

    def wrote_since(self, t):
        return bool(self.times) and self.times[-1] > t


class Load:
    def __init__(self, cluster):
        self.cluster = cluster
        self.writers = {n.name: Writer(n) for n in cluster.nodes}
        for w in self.writers.values():
            w.start()

    def of(self, nodes):
        return [self.writers[n.name] for n in nodes]

    def gap(self, nodes, since):
        """The longest time without an acknowledged write through any of NODES."""
        times = sorted([since] + [t for w in self.of(nodes) for t in w.times if t > since] + [time.monotonic()])
        return max(b - a for a, b in zip(times, times[1:]))

    def end(self):
        for w in self.writers.values():
            w.stop = True
        for w in self.writers.values():
            w.join()

    def check(self):
        """Nothing acknowledged is lost, on no node."""
        for node in self.cluster.nodes:
            there = {u['user'] for u in call(node, 'user', 'list', timeout=30 * SLOW)[2]}
            for w in self.writers.values():
                if w.error:
                    raise Failed(w.error)
                lost = set(w.acknowledged) - there
                assert not lost, '%s lost what %s acknowledged: %s' % (node.name, w.node.name, sorted(lost)[:5])


class Faults:
    def __init__(self, cluster):
        self.cluster, self.lan, self.nodes = cluster, cluster.switch, cluster.nodes
        self.random = random.Random(SEED)
        self.load = Load(cluster)
        self.stopped = []  # nodes that stand still: not counted
        self.healed = {}

    # ---- what is asked ----

    def running(self):
        return [n for n in self.nodes if n not in self.stopped]

    def leader(self, among=None):
        def find():
            for node in among or self.running():
                try:
                    c = call(node, 'dbreplication', 'runtimestate', node.name, timeout=2 * SLOW)[2]['cluster']
                except (Unanswered, TypeError):
                    continue
                for n in among or self.running():
                    if n.name == c['leader']:
                        return n
        return wait('there is a leader', find)

    def term(self):
        return max(call(n, 'dbreplication', 'runtimestate', n.name, timeout=5 * SLOW)[2]['cluster']['term']
                   for n in self.running())

    def is_well(self, node, since):
        state = call(node, 'dbreplication', 'runtimestate', node.name, timeout=2 * SLOW)[2]['nodes'][0]
        return self.load.writers[node.name].wrote_since(since) and state['services'] == 'running' and state['state'] == 2

    def goes_on(self, nodes, since, seconds):
        """Every one of NODES takes writes for SECONDS."""
        wait('writes go on through %s' % [n.name for n in nodes],
             lambda: all(w.wrote_since(since + seconds) for w in self.load.of(nodes)), 20)

    def heal(self, what, mend=None):
        """The end of the fault: how long until every node takes writes and serves."""
        if mend:
            mend()
        self.lan.heal()
        since = time.monotonic()
        todo = self.running()

        def well():
            for node in list(todo):
                try:
                    if self.is_well(node, since):
                        todo.remove(node)
                except Unanswered:
                    pass
            return not todo
        wait('%s: all are well' % what, well, 60)
        self.healed[what] = time.monotonic() - since
        step('%s: well after %.1f s' % (what, self.healed[what]))
        assert self.healed[what] < HEAL, '%s: it took %.1f s to heal' % (what, self.healed[what])

    def refuses(self, node, since, *words):
        """A node without a majority refuses, says why and what to do, and has acknowledged nothing."""
        w = self.load.writers[node.name]
        said = lambda: [m for t, m in w.refused if t > since]
        wait('%s refuses writes' % node.name, said, 15)
        text = said()[-1]
        for word in (node.name, 'nothing was written', 'impcli dbreplication runtimestate', *words):
            assert word in text, '%s refuses with: %s' % (node.name, text)
        # what it had sent before the cut may have been acknowledged in time
        assert not [t for t in w.times if t > since + 1 * SLOW], '%s acknowledged a write without a majority' % node.name
        p = node.cli('settings', 'get', 'axl.interval', '--current', check=False)
        assert p.returncode == 1 and 'cannot know the current state' in p.stderr, p.stderr
        node.cli('settings', 'get', 'axl.interval')
        leader = node.json('dbreplication', 'runtimestate', node.name)['cluster']['leader']
        assert not leader, '%s still tells of a leader: %s' % (node.name, leader)
        p = node.cli('service', 'stop', 'sync-agent', check=False)  # done here, so not refused; the audit cannot have it
        assert p.returncode == 0 and 'the audit cannot record it' in p.stdout, (p.stdout, p.stderr)
        node.cli('service', 'start', 'sync-agent')

    # ---- the faults ----

    def cut_off(self):
        """The leader alone, its cable pulled out: the others go on; it refuses, and gives its users up."""
        off = self.leader()
        others = [n for n in self.running() if n is not off]
        since = time.monotonic()
        off.cut()
        self.goes_on(others, since, 3)
        self.refuses(off, since, 'no contact to a majority of the voters', others[0].name)
        wait('%s is down for the others' % off.name, lambda: any(
            n['name'] == off.name and not n['up'] for n in others[0].json('node', 'list')))
        wait('there is an alarm', lambda: any(a['node'] == off.name and a['name'] == 'NodeDown'
                                              for a in others[0].json('alarm', 'list')))
        print('cut_off: %.1f s without a write' % self.load.gap(others, since))
        self.heal('cut_off', off.heal)

    def deaf(self):
        """The leader can send, but hears nobody: it must not keep the others from electing."""
        off = self.leader()
        others = [n for n in self.running() if n is not off]
        since = time.monotonic()
        for n in self.nodes:
            if n is not off:
                self.lan.cut(n.name, off.name)
        self.goes_on(others, since, 2)
        self.refuses(off, since)
        self.heal('deaf')

    def mute(self):
        """The leader hears all, but nobody hears it."""
        off = self.leader()
        others = [n for n in self.running() if n is not off]
        since = time.monotonic()
        for n in self.nodes:
            if n is not off:
                self.lan.cut(off.name, n.name)
        self.goes_on(others, since, 2)
        self.refuses(off, since)
        self.heal('mute')

    def one_way(self):
        """A follower no longer hears the leader, which hears it: it has no part for a while, but disturbs nobody."""
        leader = self.leader()
        off = self.random.choice([n for n in self.running() if n is not leader])
        others = [n for n in self.running() if n is not off]
        term, since = self.term(), time.monotonic()
        self.lan.cut(leader.name, off.name)
        self.goes_on(others, since, 5)
        assert self.term() <= term + 1, 'it disturbed the others: term %d became %d' % (term, self.term())
        self.heal('one_way')

    def flapping(self):
        """A link that comes and goes: no endless elections, and the majority goes on."""
        leader = self.leader()
        off = self.random.choice([n for n in self.running() if n is not leader])
        others = [n for n in self.running() if n is not off]
        term, since = self.term(), time.monotonic()
        for _ in range(6):
            off.cut()
            time.sleep(self.random.uniform(0.3, 1.2))
            off.heal()
            time.sleep(self.random.uniform(0.3, 0.8))
        gap = self.load.gap(others, since)
        self.heal('flapping')
        assert self.term() <= term + 2, 'endless elections: term %d became %d' % (term, self.term())
        assert gap < 3 * SLOW, 'the others stood still for %.1f s' % gap

    def flapping_leader(self):
        """The same with whoever leads."""
        term, since = self.term(), time.monotonic()
        for _ in range(4):
            off = self.leader()
            self.lan.split([off.name], [n.name for n in self.nodes if n is not off])
            time.sleep(self.random.uniform(0.3, 2))
            self.lan.heal()
            time.sleep(self.random.uniform(0.3, 2))
        self.heal('flapping_leader')
        assert self.term() <= term + 12, 'endless elections: term %d became %d' % (term, self.term())

    def bad_network(self):
        """Loss, delay, jitter, repeated and overtaking packets: slow, but everybody goes on."""
        names = [n.name for n in self.nodes]
        self.lan.everywhere(names, loss=self.random.randrange(5, 15), delay=3, jitter=10, dup=5, reorder=10)
        since = time.monotonic()
        self.goes_on(self.running(), since, 3)
        self.lan.heal()
        self.lan.everywhere(names, loss=20)
        since = time.monotonic()
        wait('writes go on at 20 %', lambda: any(w.wrote_since(since + 2) for w in self.load.of(self.running())), 20)
        self.heal('bad_network')

    def kills(self):
        """The leader's worker; another's supervisor, which takes its worker along; both of one more, one after the other."""
        since = time.monotonic()
        self.leader().kill_worker()
        self.goes_on(self.running(), since, 2)
        one = self.random.choice(self.running())
        since = time.monotonic()
        one.kill_supervisor()
        self.goes_on([n for n in self.running() if n is not one], since, 2)
        one.start()
        self.goes_on([one], time.monotonic(), 0)
        two = self.leader()
        two.kill()
        self.goes_on([n for n in self.running() if n is not two], time.monotonic(), 2)
        self.heal('kills', two.start)

    def two_of_five(self):
        """Two at once, the leader among them; one by kill -9, one cut off: three go on."""
        killed = self.leader()
        off = self.random.choice([n for n in self.nodes if n is not killed])
        others = [n for n in self.nodes if n not in (killed, off)]
        since = time.monotonic()
        self.lan.split([off.name], [n.name for n in self.nodes if n is not off])
        killed.kill()
        self.goes_on(others, since, 3)
        self.refuses(off, since, killed.name)
        self.heal('two_of_five', killed.start)

    def split(self):
        """Two and three, the leader with the two."""
        leader = self.leader()
        others = [n for n in self.nodes if n is not leader]
        self.random.shuffle(others)
        minority, majority = [leader, others[0]], others[1:]
        since = time.monotonic()
        self.lan.split([n.name for n in minority], [n.name for n in majority])
        self.goes_on(majority, since, 3)
        for node in minority:
            self.refuses(node, since, 'no contact to a majority of the voters', *[n.name for n in majority])
        print('split: %.1f s without a write' % self.load.gap(majority, since))
        self.heal('split')

    def sweep(self):
        """By hand: silent cuts of many lengths, as TCP and the back-offs are in another state after each."""
        for seconds in (1, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8.5, 10, 12, 15, 20, 30):
            off = self.random.choice(self.running())
            self.lan.split([off.name], [n.name for n in self.nodes if n is not off])
            time.sleep(seconds)
            self.heal('%s cut off for %.1f s' % (off.name, seconds))

    def all_at_once(self):
        """kill -9 of every worker."""
        for node in self.nodes:
            node.kill_worker()
        self.heal('all_at_once')


# with one node standing still one more may be lost
BESIDE = ['cut_off', 'deaf', 'mute', 'one_way', 'flapping', 'flapping_leader', 'bad_network', 'kills']
AFTER = ['two_of_five', 'split']
BY_HAND = ['sweep']


def test(cluster):
    step('seed %d' % SEED)
    cluster.start()
    f = Faults(cluster)
    # right after the last join: the stores know less than the log
    f.all_at_once()
    wait('all write', lambda: all(len(w.acknowledged) > 3 for w in f.load.writers.values()))
    wanted = lambda names: [n for n in names if not WORDS or n in WORDS]
    if wanted(BESIDE):
        still = cluster.nodes[4]
        if f.leader() is still:
            cluster.nodes[0].cli('node', 'leader', 'n1')
        paused = time.monotonic()
        still.pause()
        f.stopped.append(still)
        for name in wanted(BESIDE):
            step(name)
            getattr(f, name)()
        wait('it has stood still for %.0f s' % PAUSE, lambda: time.monotonic() > paused + PAUSE, PAUSE)
        assert not f.load.writers[still.name].wrote_since(paused + 2)
        f.stopped.remove(still)
        f.heal('paused for %.0f s' % (time.monotonic() - paused), still.go_on)
    for name in wanted(AFTER) + [w for w in WORDS if w in BY_HAND]:
        step(name)
        getattr(f, name)()
    f.load.end()
    cluster.check_equal()
    f.load.check()
    writers = f.load.writers.values()
    print('seed %d: %d acknowledged, all there; %d unknown, %d refused; healed after: %s; frames: %s' % (
        SEED, sum(len(w.acknowledged) for w in writers), sum(len(w.unknown) for w in writers),
        sum(len(w.refused) for w in writers), {k: round(v, 1) for k, v in f.healed.items()}, cluster.switch.counts()))
    wait('no alarm is left', lambda: not cluster.nodes[0].json('alarm', 'list'))
    assert WORDS or cluster.switch.counts()['dropped'] > 1000


if __name__ == '__main__':
    run_test(test, n=5, faults=SEED)
