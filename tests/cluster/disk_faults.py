#!/usr/bin/python3
"""A disk that fails, is read-only, slow, or does not answer. The node with it ends with a plain reason, or gives up what it cannot
do; its users are served elsewhere; nobody else notices; it comes back by itself within 5 s of the fault's end."""
import contextlib
import errno
import os
import statistics
import threading
import time

from faultfs import Faults
from harness import Failed, SLOW, run_test, sh, step, wait

BACK_S = 5


def patience():
    """How much slower than alone on its processors."""
    return SLOW * max(1, os.getloadavg()[0] / os.cpu_count())


class Writes:
    """Adds users through one node, one after the other, and notes how long each took."""

    def __init__(self, node, prefix):
        self.node, self.prefix, self.done, self.stopped = node, prefix, [], threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        n = 0
        while not self.stopped.is_set():
            name, began = '%s%d' % (self.prefix, n), time.monotonic()
            p = self.node.cli('user', 'import', '-', stdin=name + ',x\n', check=False)
            if p.returncode == 0:
                self.done.append((name, began, time.monotonic() - began))
            n += 1

    def more(self, n=1):
        at = len(self.done)
        wait('%d more writes through %s' % (n, self.node.name), lambda: len(self.done) >= at + n)

    def median_of(self, n):
        """Of the next N, begun from now on."""
        now = time.monotonic()
        wait('%d more writes' % n, lambda: len([d for d in self.done if d[1] > now]) >= n)
        return statistics.median(d[2] for d in self.done if d[1] > now)

    def stop(self):
        self.stopped.set()
        self.thread.join()


def log_of(node, since=0):
    with open(node.log, errors='replace') as f:
        f.seek(since)
        return f.read()


def leads(cluster, node):
    wait('%s leads' % node.name, lambda: cluster.nodes[0].json('dbreplication', 'runtimestate')['cluster']['leader'] == node.name)


def lead(cluster, node):
    if cluster.leader() is not node:
        cluster.nodes[0].cli('node', 'leader', node.name)
        leads(cluster, node)


def home_of(node):
    return node.json('user', 'show', 'ann')['active_home']


@contextlib.contextmanager
def back_soon(node, seat):
    """NODE is ill when this begins, and healed by its body."""
    yield
    began = time.monotonic()
    wait('%s runs again' % node.name, node.runs_services)
    wait('ann is at home', lambda: home_of(seat) == node.name)
    took = time.monotonic() - began
    step('%s was back after %.1f s' % (node.name, took))
    assert took < BACK_S * patience(), 'that took %.1f s' % took


def ends(node, pid, since, words):
    wait('the worker of %s ends' % node.name, lambda: 'starting it again' in log_of(node, since))
    said = log_of(node, since)
    reason = [line for line in said.splitlines() if any(w in line for w in words)]
    assert reason, '%s did not say why: %s' % (node.name, said)
    assert 'Sanitizer' not in said and 'assert' not in said.lower(), said
    step('  it says: %s' % reason[0].split(' ', 1)[-1][:150])


def errors(cluster, faults):
    """One operation of one file fails, once."""
    seat, node = cluster.nodes[0], cluster.nodes[2]
    fault = faults[node]
    for what, ops, path, number, words in (
            ('a write of the log', 'write', '/log/', errno.EIO, ['log: write']),
            ('a sync of the log', 'sync', '/log/', errno.EIO, ['log: sync']),
            ('a write of the store', 'write', 'data.mdb', errno.EIO, ['store']),
            ('a sync of the store', 'sync', 'data.mdb', errno.EIO, ['store']),
            ('the side file', 'name', '/store/point', errno.ENOSPC, ['store']),
            ('the vote file', 'sync', '/vote', errno.EIO, ['term and vote'])):
        since, pid = os.path.getsize(node.log), node.worker_pid()
        step('%s: %s' % (what, os.strerror(number)))
        rule = fault.rule(ops, path, number, count=1)
        if 'vote' in path:
            seat.cli('node', 'leader', 'n2' if cluster.leader() is seat else 'n1', check=False)
        wait('it fails', lambda: fault.hits(rule))
        with back_soon(node, seat):
            ends(node, pid, since, words)
            fault.clear()


def copies(cluster, faults):
    """A copy of the store that cannot be made, and one that cannot be written."""
    n1, n2, n3 = cluster.nodes
    step('a copy of the store')
    since = os.path.getsize(n3.log)
    for donor in (n1, n2):
        faults[donor].rule('write', '/snap/', errno.ENOSPC, count=1)
    rule = faults[n3].rule('write', '/install', errno.EIO, count=1)
    wait('n3 is told', lambda: n1.cli('dbreplication', 'repair', 'n3'))
    wait('its disk fails', lambda: faults[n3].hits(rule), 60)
    with back_soon(n3, n1):
        ends(n3, None, since, ['installing a copy', 'install'])
        for f in faults.values():
            f.clear()
    wait('it has taken a copy over', lambda: 'took over a copy' in log_of(n3, since) or n3.runs_services())


def read_only(cluster, faults):
    """The kernel makes a file system read-only under the node; the administrator makes it writable again."""
    seat, node = cluster.nodes[0], cluster.nodes[2]
    step('a read-only file system')
    since = os.path.getsize(node.log)
    faults[node].rule('all', '', errno.EROFS)
    ends(node, None, since, ['ead-only'])
    wait('it is so', lambda: os.system('mount -o remount,ro %s 2>/dev/null' % node.dir) == 0)
    faults[node].clear()
    tries = log_of(node).count('starting it again')
    wait('ann is served elsewhere', lambda: home_of(seat) != node.name)
    wait('it is tried again', lambda: log_of(node).count('starting it again') >= tries + 2)
    assert node.process.poll() is None, 'the supervisor has given up'
    assert 'ead-only file system' in log_of(node).splitlines()[-2] + log_of(node).splitlines()[-3], log_of(node)[-2000:]
    with back_soon(node, seat):
        sh('mount -o remount,rw %s' % node.dir)


def slow(cluster, faults):
    n1, n2, n3 = cluster.nodes
    lead(cluster, n1)
    writes = Writes(n1, 'slow')
    try:
        step('a follower syncs slowly')
        quick = writes.median_of(10)
        faults[n3].rule('sync', '', delay_ms=700)
        slowed = writes.median_of(10)
        step('  median of a write: %.0f ms before, %.0f ms with a slow follower' % (quick * 1e3, slowed * 1e3))
        assert slowed < max(3 * quick, quick + 0.2 * patience()), 'a slow follower slows the others down'
        faults[n3].clear()
        step('the leader syncs slowly')
        since = os.path.getsize(n1.log)
        faults[n1].rule('sync', '', delay_ms=1500)
        wait('the leadership moves', lambda: 'behind those of the other nodes' in log_of(n1, since) and
             cluster.nodes[1].json('dbreplication', 'runtimestate')['cluster']['leader'] in ('n2', 'n3'))
        other = Writes(n2, 'other')
        try:
            assert other.median_of(10) < max(3 * quick, quick + 0.3 * patience())
        finally:
            other.stop()
            faults[n1].clear()
    finally:
        writes.stop()


def silent(cluster, faults):
    """Nothing comes back from a disk: first of the leader, whose raft thread waits for it too, then only from the log."""
    n1, n2, n3 = cluster.nodes
    for what, ops, path, alarm in (('the disk of the leader', 'write sync name', '', 'NodeDown'),
                                   ('the log of a follower', 'sync', '.log', 'DiskSilent')):
        step('%s does not answer' % what)
        lead(cluster, n2 if path else n3)
        since = os.path.getsize(n3.log)
        rule = faults[n3].rule(ops, path, delay_ms=600000)
        writes = Writes(n2, alarm)
        try:
            wait('it hangs', lambda: faults[n3].hits(rule))
            wait('ann is served elsewhere', lambda: home_of(n1) in ('n1', 'n2'))
            writes.more(3)
            wait('it says so', lambda: 'does not answer' in log_of(n3, since) or 'stands still' in log_of(n3, since))
            wait('there is an alarm', lambda: (alarm, 'n3') in [(a['name'], a['node']) for a in n1.json('alarm', 'list')])
            with back_soon(n3, n1):
                faults[n3].clear()
            wait('the alarm is over', lambda: 'n3' not in [a['node'] for a in n1.json('alarm', 'list')])
        finally:
            faults[n3].clear()
            writes.stop()


def low(cluster, faults):
    """No room for the alarm in one step: it is raised all the same."""
    n1, n3 = cluster.nodes[0], cluster.nodes[2]
    step('63 MiB are left, at once')
    faults[n3].free_bytes(63 << 20)
    wait('there is an alarm', lambda: ('DiskLow', 'n3') in [(a['name'], a['node']) for a in n1.json('alarm', 'list')], 20)
    wait('ann is served elsewhere', lambda: home_of(n1) != 'n3')
    with back_soon(n3, n1):
        faults[n3].free_bytes(None)
    wait('that is over', lambda: 'n3' not in [a['node'] for a in n1.json('alarm', 'list')])
    step('nothing is left, at once')
    since = os.path.getsize(n3.log)
    faults[n3].free_bytes(0)
    faults[n3].rule('write size open', '', errno.ENOSPC)
    ends(n3, None, since, ['o space left'])
    wait('the next life is over as well', lambda: log_of(n3, since).count('starting it again') > 1)
    with back_soon(n3, n1):
        faults[n3].clear()
        faults[n3].free_bytes(None)
    wait('it tells afterwards', lambda: any('was full' in a['text'] for a in n1.json('alarm', 'list', '--all') if a['node'] == 'n3'))
    wait('that is over', lambda: 'n3' not in [a['node'] for a in n1.json('alarm', 'list')])


def test(cluster):
    n1, n2, n3 = cluster.nodes
    faults = {node: Faults(node) for node in cluster.nodes}
    os.mkdir(n3.dir)
    sh('mount -t tmpfs -o size=1g,mode=0700 tmpfs %s' % n3.dir)
    try:
        cluster.start()
        cluster.add_local_users(['ann'])
        n1.cli('user', 'assign', 'ann', '--node', 'n3')
        wait('ann is at home', lambda: home_of(n1) == 'n3')
        writes = Writes(n1, 'write')
        try:
            errors(cluster, faults)
            copies(cluster, faults)
            read_only(cluster, faults)
            low(cluster, faults)
        finally:
            writes.stop()
        slow(cluster, faults)
        silent(cluster, faults)
        cluster.check_equal()
        assert {name for name, _, _ in writes.done} <= {u['user'] for u in n3.json('user', 'list')}
    except Exception:
        cluster.report()
        raise
    finally:
        try:
            n3.stop()
        except (Failed, OSError):
            pass
        sh('umount -l %s' % n3.dir)


if __name__ == '__main__':
    import sys
    if os.geteuid() == 0 and os.environ.get('IMP_TEST_MOUNTS') != '1':  # mounts of the test's own
        os.environ['IMP_TEST_MOUNTS'] = '1'
        os.execvp('unshare', ['unshare', '-m', sys.executable] + sys.argv)
    run_test(test, node_args=os.environ.get("IMP_ARGS", "").split())
