#!/usr/bin/python3
"""kill -9 of the leader during a stream of writes through another node: no acknowledged write is missing, none is
doubled; writes go on; equal hashes after the restart."""
import statistics
import subprocess
import threading
import time

from harness import IMPCLI, SLOW, Failed, run_test, wait

ROUNDS = 5
WRITERS = 4


class Writer(threading.Thread):
    """Adds local users one after the other; each acknowledged name is noted with its time."""

    def __init__(self, node, prefix):
        super().__init__(daemon=True)
        self.node, self.prefix, self.stop = node, prefix, False
        self.acknowledged, self.unknown, self.times = [], [], []

    def run(self):
        i = 0
        while not self.stop:
            name = '%s%05d' % (self.prefix, i)
            i += 1
            # locking and unlocking would be cheaper, but an added user tells a doubled write: "exists"
            p = subprocess.run([IMPCLI, '--data', self.node.dir, 'user', 'add', name, '--password-stdin'], input='secret\n',
                               capture_output=True, text=True)
            if p.returncode == 0:
                self.acknowledged.append(name)
                self.times.append(time.monotonic())
            elif 'outcome unknown' in p.stderr or p.returncode == 3:
                self.unknown.append(name)
            elif 'exist' in p.stderr:
                raise AssertionError('%s was written twice: %s' % (name, p.stderr))


def users(node):
    return {u['user'] for u in node.json('user', 'list')}


def test(cluster):
    cluster.start()
    gaps = []
    writers = []
    for round in range(ROUNDS):
        leader = wait('there is a leader', cluster.leader)
        through = [n for n in cluster.nodes if n is not leader][round % 2]
        group = [Writer(through, 'r%dw%d-' % (round, i)) for i in range(WRITERS)]
        for w in group:
            w.start()
        wait('writes flow', lambda: sum(len(w.acknowledged) for w in group) > 20)
        killed = time.monotonic()
        leader.kill()
        wait('writes go on', lambda: sum(t > killed + 3 for w in group for t in w.times) > 10)
        # the longest time without an acknowledged write around the kill
        all_times = sorted(t for w in group for t in w.times)
        gap = max(b - a for a, b in zip(all_times, all_times[1:]) if b > killed)
        gaps.append(gap)
        for w in group:
            w.stop = True
        for w in group:
            w.join()
        writers += group
        leader.start()
        cluster.wait_running([leader])
        print('round %d: %s killed, %.2f s without a write, %d acknowledged, %d unknown' %
              (round, leader.name, gap, sum(len(w.acknowledged) for w in group), sum(len(w.unknown) for w in group)))
    cluster.check_equal()
    acknowledged = {name for w in writers for name in w.acknowledged}
    for node in cluster.nodes:
        missing = acknowledged - users(node)
        assert not missing, '%s lost acknowledged writes: %s' % (node.name, sorted(missing)[:10])
    print('%d acknowledged writes, all there; without a write: median %.2f s, longest %.2f s' %
          (len(acknowledged), statistics.median(gaps), max(gaps)))
    assert max(gaps) < 15 * SLOW, 'writes stood still for %.1f s' % max(gaps)


if __name__ == '__main__':
    run_test(test)
