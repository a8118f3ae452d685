#!/usr/bin/python3
"""An idle cluster writes nothing: not the log, not the store, not the disk; and it hardly works."""
import asyncio
import os
import time

from harness import run_test, step, wait
from xmpp import Client

USERS = ['ann', 'bob', 'cid', 'dan', 'eve', 'fay']
WATCHED_S = 10
QUIET_S = 3


def written(node):
    """Bytes that the node has caused to be written to disk, and what says where to: log, durable points, applied index. And when
    the kernel last cleaned and the node dirtied again the store's table of readers, which is in memory only: its pages count as
    bytes then, as often as somebody else's sync or writing makes the kernel clean them."""
    with open('/proc/%d/io' % node.worker_pid()) as f:
        io = dict(line.split(': ') for line in f.read().splitlines())
    files, readers = [('.', node.log, os.stat(node.log).st_size, 0)], 0
    for folder in ('.', 'keys', 'log', 'store', 'snap'):
        try:
            for name in sorted(os.listdir(os.path.join(node.dir, folder))):
                st = os.stat(os.path.join(node.dir, folder, name))
                if name == 'lock.mdb':
                    readers = st.st_mtime_ns
                else:
                    files.append((folder, name, st.st_size, st.st_mtime_ns))
        except FileNotFoundError:
            pass
    return int(io['write_bytes']), readers, files


def difference(before, now):
    """What was written between the two, in words; empty: nothing. None: bytes, which may all be of the table of readers."""
    changed = sorted(set(now[2]) ^ set(before[2]))
    if changed:
        return 'changed files: %s' % changed
    n = now[0] - before[0]
    return '' if not n else None if now[1] != before[1] else '%d bytes' % n


async def check_bytes(node):
    """In moments in which the table of readers was left alone; there are some on all but the busiest disks."""
    for _ in range(10):
        before = written(node)
        await asyncio.sleep(0.5)
        what = difference(before, written(node))
        assert not what, '%s wrote while idle: %s' % (node.name, what)
        if what == '':
            return
    step('%s: only its files were looked at, the disk is too busy' % node.name)


def cpu_s(node):
    with open('/proc/%d/stat' % node.worker_pid()) as f:
        fields = f.read().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


async def watch(cluster):
    clients = []
    for i, user in enumerate(USERS):
        client = await Client(user, host=cluster.nodes[i % 3].address, ca=cluster.ca).log_in('x')
        client.presence()
        clients.append(client)
    # What the start, the members and the log-ins have left to write comes to an end.
    last, since = None, 0

    def is_quiet():
        nonlocal last, since
        now = [written(n) for n in cluster.nodes]
        if last is None or any(difference(a, b) for a, b in zip(last, now)):
            since = time.monotonic()
        last = now
        return time.monotonic() > since + QUIET_S
    await asyncio.to_thread(wait, 'nothing is written any more', is_quiet, 60)
    before, cpu = [written(n) for n in cluster.nodes], [cpu_s(n) for n in cluster.nodes]
    await asyncio.sleep(WATCHED_S)
    after, cpu = [written(n) for n in cluster.nodes], [cpu_s(n) - used for n, used in zip(cluster.nodes, cpu)]
    for node, was, now, used in zip(cluster.nodes, before, after, cpu):
        what = difference(was, now)
        assert not what, '%s wrote while idle: %s' % (node.name, what)
        if what is None:
            await check_bytes(node)
        step('%s: %.2f %% of a core' % (node.name, 100 * used / WATCHED_S))
    for client in clients:
        assert not client.closed, 'a client was dropped'
        await client.close()


def test(cluster):
    cluster.start()
    cluster.add_local_users(USERS)
    asyncio.run(watch(cluster))


if __name__ == '__main__':
    run_test(test)
