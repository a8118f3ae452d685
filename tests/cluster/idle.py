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
    """Bytes that the node has caused to be written to disk, and what says where to: log, durable points, applied index."""
    with open('/proc/%d/io' % node.worker_pid()) as f:
        io = dict(line.split(': ') for line in f.read().splitlines())
    files = []
    for folder in ('.', 'log', 'store', 'snap'):
        try:
            for name in sorted(os.listdir(os.path.join(node.dir, folder))):
                st = os.stat(os.path.join(node.dir, folder, name))
                if name != 'lock.mdb':  # the table of readers, in memory only
                    files.append((folder, name, st.st_size, st.st_mtime_ns))
        except FileNotFoundError:
            pass
    return int(io['write_bytes']), files


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
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() > since + QUIET_S
    await asyncio.to_thread(wait, 'nothing is written any more', is_quiet, 60)
    before, cpu = [written(n) for n in cluster.nodes], [cpu_s(n) for n in cluster.nodes]
    await asyncio.sleep(WATCHED_S)
    for node, (n_bytes, files), used in zip(cluster.nodes, before, cpu):
        now_bytes, now_files = written(node)
        changed = sorted(set(now_files) ^ set(files))
        assert not changed, '%s has changed files while idle: %s' % (node.name, changed)
        assert now_bytes == n_bytes, '%s wrote %d bytes while idle' % (node.name, now_bytes - n_bytes)
        step('%s: %.2f %% of a core' % (node.name, 100 * (cpu_s(node) - used) / WATCHED_S))
    for client in clients:
        assert not client.closed, 'a client was dropped'
        await client.close()


def test(cluster):
    cluster.start()
    cluster.add_local_users(USERS)
    asyncio.run(watch(cluster))


if __name__ == '__main__':
    run_test(test)
