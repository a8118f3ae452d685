#!/usr/bin/python3
"""Clients of all nodes write, read, compare-and-set settings and append to the audit, while the network is cut, nodes stand
still, die and the leadership moves. What all of them saw together must be what one node alone could have shown: the history
is checked by linear.py.

    linearizability.py [SECONDS [NODES]]        IMP_SEED repeats the choices (not the timing)
"""
import itertools
import os
import pickle
import random
import re
import sys
import threading
import time

from harness import SLOW, Failed, run_test, step, wait
from linear import INITIAL, UNKNOWN, Anomaly, Op, Tail, check
from rpc import Unanswered, call

SECONDS = int(sys.argv[1]) if len(sys.argv) > 1 else int(os.environ.get('IMP_LIN', '25'))
NODES = int(sys.argv[2]) if len(sys.argv) > 2 else 3
SEED = int(os.environ.get('IMP_SEED', random.randrange(1 << 30)))
CLIENTS = 3  # of each node
TIMEOUT = 4
TAIL = 1500  # of the audit, in one read
WHOLE = 10000
# Settings without effect on the test that take any of many numbers
REGISTERS = ['limits.vcard_bytes', 'node.n1.limits.vcard_bytes', 'node.n2.limits.vcard_bytes', 'node.n3.limits.vcard_bytes',
             'limits.output_bytes', 'node.n1.limits.output_bytes', 'node.n2.limits.output_bytes']
LISTS = ['node.n1.limits.connections_per_address', 'node.n2.limits.connections_per_address',
         'node.n3.limits.connections_per_address']
FIRST_VALUE = 100000
APPENDED = re.compile('settings set (%s) ([0-9]+)$' % '|'.join(re.escape(l) for l in LISTS))
# Answers after which the operation has not happened and never will.
NOT_DONE = re.compile('nothing was written|takes no writes now|too many writes')
NOT_KNOWN = re.compile('cannot know the current state|this node is stopping')


class Client(threading.Thread):
    """One after the other; an operation whose outcome it does not know is left behind for ever."""

    def __init__(self, node, number, values):
        super().__init__(daemon=True)
        self.node, self.values, self.label = node, values, '%s/%d' % (node.name, number)
        self.random = random.Random('%d %s' % (SEED, self.label))
        self.stop, self.error, self.history, self.not_done = False, None, [], 0
        self.known = {}  # what it saw last

    def run(self):
        try:
            while not self.stop:
                dice = self.random.random()
                if dice < 0.03:
                    self.read_lists(TAIL)
                elif dice < 0.2:
                    self.append()
                else:
                    self.random.choice([self.read, self.read, self.write, self.cas])(self.random.choice(REGISTERS))
                time.sleep(self.random.uniform(0, 0.05))
        except Exception as e:  # told to the test
            self.error = e

    def call(self, *words, options=None):
        """Began, ended, answer; the answer None: unknown. None: it was not done."""
        began = time.monotonic_ns()
        try:
            answer = call(self.node, *words, options=options, timeout=TIMEOUT * SLOW)
        except Unanswered as e:
            answer = None if e.sent else 'not sent'
        ended = time.monotonic_ns()
        if answer != 'not sent' and answer is not None and answer[0] and 'outcome unknown' in answer[1]:
            answer = None
        if answer == 'not sent' or answer is not None and answer[0] and NOT_DONE.search(answer[1]):
            self.not_done += 1
            return None
        return began, ended if answer else UNKNOWN, answer

    def note(self, kind, key, name, value, result, began, ended):
        self.history.append(Op((kind, key), name, value, result, began, ended, self.label))

    def set(self, kind, key, name, value, new, options=None):
        done = self.call('settings', 'set', key, new, options=options)
        if not done:
            return
        began, ended, answer = done
        result = None
        if answer and answer[0]:
            m = re.search("is '([0-9]+)' now: nothing was changed", answer[1])
            if name != 'cas' or not (m or 'is not set now: nothing was changed' in answer[1]):
                raise AssertionError('%s of %s on %s: %s' % (name, key, self.node.name, answer[1]))
            result = int(m.group(1)) if m else INITIAL
            self.known[key] = result
        elif answer:
            result = True if name == 'cas' else None
            self.known[key] = new
        self.note(kind, key, name, value, result, began, ended)

    def write(self, key):
        v = next(self.values)
        self.set('register', key, 'write', v, v)

    def append(self):
        v = next(self.values)
        self.set('list', self.random.choice(LISTS), 'append', v, v)

    def cas(self, key):
        old = self.known.get(key)
        if old is None:
            self.read(key)
            return
        v = next(self.values)
        self.set('register', key, 'cas', (old, v), v, options={'expect': str(old)})

    def ask(self, *words, options=None):
        """Began, ended, document; None: it was not told."""
        done = self.call(*words, options={'current': '', **(options or {})})
        if not done or done[2] is None:
            return None
        began, ended, (status, message, document) = done
        if status:
            if not NOT_KNOWN.search(message):
                raise AssertionError('a read on %s: %s' % (self.node.name, message))
            return None
        return began, ended, document

    def read(self, key):
        found = self.ask('settings', 'get', key)
        if found:
            began, ended, row = found
            value = self.known[key] = int(row['value']) if row['set'] else INITIAL
            self.note('register', key, 'read', None, value, began, ended)

    def read_lists(self, limit):
        found = self.ask('audit', 'list', options={'limit': str(limit)})
        if not found:
            return False
        began, ended, rows = found
        there = {l: [] for l in LISTS}
        for row in rows:
            m = APPENDED.match(row['command'])
            if m:
                there[m.group(1)].append(int(m.group(2)))
        for l, elements in there.items():
            self.note('list', l, 'read', None, Tail(tuple(elements), len(rows) < limit), began, ended)
        return True


class Nemesis:
    """Breaks one or two things, waits, mends them, waits."""

    def __init__(self, cluster):
        self.cluster, self.lan, self.random = cluster, cluster.switch, random.Random(SEED)
        self.paused, self.done = [], {}

    def leader(self):
        for node in self.cluster.nodes:
            try:
                name = call(node, 'dbreplication', 'runtimestate', node.name, timeout=2 * SLOW)[2]['cluster']['leader']
            except (Unanswered, TypeError):
                continue
            for n in self.cluster.nodes:
                if n.name == name:
                    return n
        return self.random.choice(self.cluster.nodes)

    def some(self):
        """The leader, half of the time."""
        return self.leader() if self.random.random() < 0.5 else self.random.choice(self.cluster.nodes)

    def others(self, node):
        return [n for n in self.cluster.nodes if n is not node]

    def must_run(self, node):
        if not node.process:
            raise OSError('%s is dead already' % node.name)

    def one_off(self):
        node = self.some()
        self.lan.split([node.name], [n.name for n in self.others(node)])
        return node.name

    def halves(self):
        names = [n.name for n in self.cluster.nodes]
        self.random.shuffle(names)
        at = self.random.randrange(1, len(names))
        self.lan.split(names[:at], names[at:])
        return '%s | %s' % (names[:at], names[at:])

    def all_apart(self):
        self.lan.split(*[[n.name] for n in self.cluster.nodes])

    def deaf(self):
        node = self.some()
        for n in self.others(node):
            self.lan.cut(n.name, node.name)
        return node.name

    def mute(self):
        node = self.some()
        for n in self.others(node):
            self.lan.cut(node.name, n.name)
        return node.name

    def one_way(self):
        a = self.some()
        b = self.random.choice(self.others(a))
        self.lan.cut(a.name, b.name)
        return '%s -> %s' % (a.name, b.name)

    def two_apart(self):
        a = self.some()
        b = self.random.choice(self.others(a))
        self.lan.split([a.name], [b.name])
        return '%s | %s' % (a.name, b.name)

    def lossy(self):
        percent = self.random.randrange(5, 20)
        self.lan.everywhere([n.name for n in self.cluster.nodes], loss=percent)
        return '%d %%' % percent

    def slow(self):
        self.lan.everywhere([n.name for n in self.cluster.nodes], delay=self.random.randrange(5, 40),
                            jitter=self.random.randrange(60), dup=5, reorder=10)

    def pause(self):
        node = self.some()
        if node not in self.paused:
            self.must_run(node)
            node.pause()
            self.paused.append(node)
        return node.name

    def kill_worker(self):
        node = self.some()
        self.must_run(node)
        self.go_on(node)
        node.kill_worker()
        return node.name

    def kill_supervisor(self):
        node = self.some()
        self.must_run(node)
        self.go_on(node)
        node.kill_supervisor()
        return node.name

    def kill_both(self):
        node = self.some()
        self.must_run(node)
        self.go_on(node)
        node.kill()
        return node.name

    def kill_all_workers(self):
        for node in self.cluster.nodes:
            if node.process:
                self.go_on(node)
                node.kill_worker()

    def transfer(self):
        node = self.random.choice(self.others(self.leader()))
        call(self.cluster.nodes[0], 'node', 'leader', node.name, timeout=5 * SLOW)
        return node.name

    def go_on(self, node):
        if node in self.paused:
            node.go_on()
            self.paused.remove(node)

    def mend(self):
        self.lan.heal()
        for node in list(self.paused):
            self.go_on(node)
        for node in self.cluster.nodes:
            if not node.process:
                node.start()

    KINDS = [(one_off, 3), (halves, 2), (all_apart, 1), (deaf, 2), (mute, 2), (one_way, 2), (two_apart, 2), (lossy, 2), (slow, 1),
             (pause, 4), (kill_worker, 3), (kill_supervisor, 1), (kill_both, 2), (kill_all_workers, 1), (transfer, 3)]

    def go(self, until):
        kinds, weights = zip(*self.KINDS)
        while time.monotonic() < until:
            for fault in self.random.choices(kinds, weights, k=self.random.choice([1, 1, 2])):
                try:
                    what = fault(self)
                except (OSError, ValueError, Unanswered):
                    continue  # who should break is dead, or nobody could move the leadership
                self.done[fault.__name__] = self.done.get(fault.__name__, 0) + 1
                step('%s %s' % (fault.__name__, what or ''))
                time.sleep(self.random.uniform(0, 0.5))
            time.sleep(self.random.uniform(0.3, 4))
            self.mend()
            time.sleep(self.random.uniform(0.3, 2.5))


def test(cluster):
    step('seed %d' % SEED)
    cluster.start()
    values = itertools.count(FIRST_VALUE)
    clients = [Client(node, i, values) for node in cluster.nodes for i in range(CLIENTS)]
    for c in clients:
        c.start()
    nemesis = Nemesis(cluster)
    try:
        nemesis.go(time.monotonic() + SECONDS)
    finally:
        nemesis.mend()
    mended = time.monotonic()
    wait('writes are acknowledged on every node', lambda: all(
        not call(n, 'settings', 'set', 'xmpp.offline_limit', '999', timeout=5 * SLOW)[0] for n in cluster.nodes))
    healed = time.monotonic() - mended
    for c in clients:
        c.stop = True
    for c in clients:
        c.join()
        if c.error:
            raise Failed('client %s: %r' % (c.label, c.error))
    for node in cluster.nodes:
        last = Client(node, 99, values)
        wait('%s tells its lists' % node.name, lambda: last.read_lists(WHOLE))
        for key in REGISTERS:
            wait('%s tells %s' % (node.name, key), lambda: last.read(key) or last.history[-1].object[1] == key)
        clients.append(last)
    history = [op for c in clients for op in c.history]
    with open(os.path.join(cluster.dir, 'history'), 'wb') as f:
        pickle.dump(history, f)
    began = time.process_time()
    try:
        sizes = check(history)
    except Anomaly as e:
        raise Failed('not linearizable, seed %d: %s' % (SEED, e)) from None
    n_unknown = sum(op.ended == UNKNOWN for op in history)
    kinds = {}
    for op in history:
        kinds[op.name] = kinds.get(op.name, 0) + 1
    print('seed %d: %d operations on %d objects in %d s are linearizable: %s; %d of unknown outcome, %d not done; checked in %.1f s;'
          ' writes on every node %.1f s after the last fault; faults: %s; frames: %s' %
          (SEED, len(history), len(sizes), SECONDS, kinds, n_unknown, sum(c.not_done for c in clients),
           time.process_time() - began, healed, nemesis.done, cluster.switch.counts()))
    assert len(history) - n_unknown > 15 * SECONDS / SLOW, 'too little was done to say anything'
    assert cluster.switch.counts()['dropped'] > 0 or SECONDS < 20
    cluster.wait_running()
    cluster.check_equal()


if __name__ == '__main__':
    run_test(test, n=NODES, faults=SEED)
