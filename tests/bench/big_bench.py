#!/usr/bin/python3
"""Big states: how a new node catches up with one beside what link and disk allow, how long the loops are blocked meanwhile, what
memory it takes, what idle nodes cost, and how long a start after a crash takes. tools/bench runs it, as root.

Sizes are a tenth of a large installation; BIG_FULL=1: 75,000 users with 50 contacts each and 1 GB of messages. BIG_USERS,
BIG_CONTACTS, BIG_MESSAGES, BIG_MESSAGE_BYTES, BIG_LOG (entries behind a crash), BIG_IDLE_S, BIG_SESSIONS.
"""
import asyncio
import multiprocessing
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'cluster'))
from harness import BUILD, Failed, run_test, wait  # noqa: E402
from xmpp import Client  # noqa: E402

FULL = os.environ.get('BIG_FULL') == '1'


def size(name, small, full):
    return int(os.environ.get('BIG_' + name, full if FULL else small))


USERS = size('USERS', 7500, 75000)
CONTACTS = size('CONTACTS', 50, 50)
MESSAGES = size('MESSAGES', 100000, 1000000)
MESSAGE_BYTES = size('MESSAGE_BYTES', 1024, 1024)
LOG = size('LOG', 100000, 100000)
IDLE_S = size('IDLE_S', 20, 20)
SESSIONS = size('SESSIONS', 100, 300)
BIG_STATE = os.path.join(BUILD, 'tests', 'big', 'big_state')
CHUNK = 1 << 20


def row(what, value):
    print('%-62s %s' % (what, value), flush=True)


# ---- what is read of a node ----

def own_mib(node):
    """Memory of its own, without the pages of mapped files."""
    with open('/proc/%d/status' % node.worker_pid()) as f:
        return [int(line.split()[1]) for line in f if line.startswith('RssAnon')][0] / 1024


def metrics(node):
    text = subprocess.run(['curl', '-sk', 'https://%s:8443/metrics' % node.address], capture_output=True, text=True, check=True).stdout
    return {line.rsplit(' ', 1)[0]: float(line.rsplit(' ', 1)[1]) for line in text.splitlines() if line and line[0] != '#'}


def longest_turns(node):
    m = metrics(node)
    longest = {k.split('"')[1]: v * 1000 for k, v in m.items() if k.startswith('imp_loop_turn_seconds_max')}
    shards = max(v for k, v in longest.items() if k.startswith('shard'))
    slow = sum(int(v) for k, v in m.items() if k.startswith('imp_loop_slow_turns_total'))
    return 'raft %3.0f ms, control %3.0f ms, shards %3.0f ms; %d above 50 ms' % (longest['raft'], longest['control'], shards, slow)


class Peak(threading.Thread):
    """The highest figure of own memory meanwhile."""

    def __init__(self, nodes):
        super().__init__(daemon=True)
        self.nodes, self.peak, self.done = nodes, [0.0] * len(nodes), False
        self.start()

    def run(self):
        while not self.done:
            for i, node in enumerate(self.nodes):
                try:
                    self.peak[i] = max(self.peak[i], own_mib(node))
                except (OSError, ValueError, IndexError):
                    pass
            time.sleep(0.05)

    def end(self):
        self.done = True
        self.join()
        return self.peak


# ---- what link and disk allow: one TLS connection, then write and fdatasync ----

def give(path, port, cert):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert)
    with socket.create_server(('127.0.0.9', port)) as listener:
        raw = listener.accept()[0]
        with context.wrap_socket(raw, server_side=True) as s, open(path, 'rb', buffering=0) as f:
            while data := f.read(CHUNK):
                s.sendall(data)


def baseline(path, scratch):
    cert = os.path.join(scratch, 'baseline.pem')
    subprocess.run(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '1',
                    '-subj', '/CN=x', '-keyout', cert, '-out', cert + '.crt'], check=True, capture_output=True)
    with open(cert, 'ab') as f, open(cert + '.crt', 'rb') as c:
        f.write(c.read())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    giver = multiprocessing.Process(target=give, args=(path, 7999, cert))
    giver.start()
    raw = wait('the baseline listens', lambda: socket.create_connection(('127.0.0.9', 7999)))
    target, n = os.path.join(scratch, 'baseline'), 0
    view = memoryview(bytearray(CHUNK))
    began = time.monotonic()
    with context.wrap_socket(raw) as s, open(target, 'wb', buffering=0) as f:
        at = 0
        while k := s.recv_into(view[at:]):
            at += k
            if at == CHUNK:
                f.write(view)
                n, at = n + at, 0
        f.write(view[:at])
        n += at
        os.fdatasync(f.fileno())
    took = time.monotonic() - began
    giver.join()
    os.remove(target)
    return n, took


# ---- the parts ----

def make_state(cluster, node, *extra):
    node.init()
    node.start()
    wait('%s answers' % node.name, lambda: node.cli('node', 'list'))
    empty = own_mib(node)
    node.stop()
    p = subprocess.run([BIG_STATE, node.dir, '--users', str(USERS), '--contacts', str(CONTACTS), '--messages', str(MESSAGES),
                        '--message-bytes', str(MESSAGE_BYTES), *extra], check=True, capture_output=True, text=True)
    print(p.stdout.strip())
    return empty


def start_time(node):
    """From exec until everything that was committed is applied and the services run; the log's clock says when."""
    began = time.time()
    node.start()
    wait('%s runs its services' % node.name, node.runs_services, 120)
    with open(node.log) as f:
        stamps = [line.split()[0] for line in f if 'replication is set up' in line]
    stamp = stamps[-1]
    seconds = time.mktime(time.strptime(stamp[:19], '%Y-%m-%dT%H:%M:%S')) - time.timezone + float(stamp[19:-1])
    return seconds - began


def stamp_of(node, text):
    with open(node.log) as f:
        line = [line for line in f if text in line][-1]
    stamp = line.split()[0]
    return time.mktime(time.strptime(stamp[:19], '%Y-%m-%dT%H:%M:%S')) + float(stamp[19:-1])


def bench_join(cluster, n1, n2):
    data = os.path.join(n1.dir, 'store', 'data.mdb')
    before = baseline(data, cluster.dir)
    peak = Peak([n1, n2])
    n2.join(n1, cluster.token())
    n2.start()
    wait('n2 runs its services', n2.runs_services, 300)
    own = peak.end()
    with open(n2.log) as f:
        text = f.read()
    n_mib = int(re.search(r'all (\d+) MiB are here', text).group(1))
    needed = stamp_of(n2, 'a copy of the store is needed')
    here, verified, ready = (stamp_of(n2, t) for t in ('MiB are here', 'took over a copy', 'replication is set up'))
    rate = n_mib * 1.048576 / (ready - needed)
    # the machine is not equally fast all the time: the better of before and after counts
    links = [n / took / 1e6 for n, took in (before, baseline(data, cluster.dir))]
    link = max(links)
    row('TLS over loopback, write, fdatasync: what link and disk allow', '%.0f and %.0f MB/s, before and after' % tuple(links))
    row('copy of %d MiB: here after' % n_mib, '%.1f s' % (here - needed))
    row('  verified after', '%.1f s' % (verified - needed))
    row('  started again and caught up after', '%.1f s: %.0f MB/s, %.0f %% of what link and disk allow'
        % (ready - needed, rate, 100 * rate / link))
    row('longest turns of the source', longest_turns(n1))
    row('longest turns of the new node since it started again', longest_turns(n2))
    row('own memory at most meanwhile', 'source %.0f MiB, new node %.0f MiB' % (own[0], own[1]))


def bench_load(cluster, n1, n2):
    """Every user moves, which every loop hears of, while all rows are read and checked."""
    peak = Peak([n1, n2])
    n1.cli('settings', 'set', 'storage.scrub', '1')
    began = time.monotonic()
    said = n1.cli('user', 'balance', timeout=300).strip().splitlines()[-1]
    wait('n2 has applied it', lambda: len({n['applied_index'] for n in n1.json('dbreplication', 'runtimestate')['nodes']}) == 1)
    row('users balanced over two nodes (%s), with a scrub beside' % said, '%.1f s' % (time.monotonic() - began))
    n1.cli('settings', 'set', 'storage.scrub', '0')
    row('longest turns of n1', longest_turns(n1))
    row('longest turns of n2', longest_turns(n2))
    row('own memory at most meanwhile', 'n1 %.0f MiB, n2 %.0f MiB' % tuple(peak.end()))


def usage(node):
    pid = node.worker_pid()
    with open('/proc/%d/stat' % pid) as f:
        fields = f.read().rsplit(')', 1)[1].split()
    with open('/proc/%d/io' % pid) as f:
        io = dict(line.split(': ') for line in f.read().splitlines())
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK'), int(io['write_bytes'])


async def log_in(cluster, n):
    clients = []
    for i in range(n):
        node = cluster.nodes[i % len(cluster.nodes)]
        client = await Client('idle%d' % i, host=node.address, ca=cluster.ca).log_in('x')
        client.presence()
        clients.append(client)
    return clients


def bench_idle(cluster):
    names = ['idle%d' % i for i in range(SESSIONS)]
    for at in range(0, SESSIONS, 100):
        cluster.add_local_users(names[at:at + 100])

    async def idle():
        clients = await log_in(cluster, SESSIONS)
        end = time.monotonic() + 60
        before = [usage(n)[1] for n in cluster.nodes]
        while time.monotonic() < end:  # until what the log-ins have left is written
            await asyncio.sleep(5)
            now = [usage(n)[1] for n in cluster.nodes]
            if now == before:
                break
            before = now
        before = [usage(n) for n in cluster.nodes]
        await asyncio.sleep(IDLE_S)
        after = [usage(n) for n in cluster.nodes]
        for client in clients:
            await client.close()
        return before, after
    before, after = asyncio.run(idle())
    for node, a, b in zip(cluster.nodes, before, after):
        row('idle for %d s, %d sessions: %s' % (IDLE_S, SESSIONS, node.name),
            '%.2f %% of a core, %d bytes written' % (100 * (b[0] - a[0]) / IDLE_S, b[1] - a[1]))


def test(cluster):
    n1, n2, n3, lone = cluster.nodes
    print('== a big state')
    empty = make_state(cluster, n1)
    row('start with it', '%.2f s' % start_time(n1))
    row('own memory after the start', '%.1f MiB, empty %.1f MiB: %.0f bytes a user' % (
        own_mib(n1), empty, max(0.0, own_mib(n1) - empty) * (1 << 20) / USERS))
    print('\n== a new node')
    bench_join(cluster, n1, n2)
    print('\n== load')
    bench_load(cluster, n1, n2)
    print('\n== idle')
    cluster.add(n3, n1)
    cluster.nodes = [n1, n2, n3]
    cluster.wait_running()
    bench_idle(cluster)
    for node in cluster.nodes:
        node.stop()
    print('\n== start after a crash')
    cluster.nodes.append(lone)
    make_state(cluster, lone, '--log-entries', str(LOG))
    row('until %d entries are applied and the services run' % LOG, '%.2f s' % start_time(lone))


if __name__ == '__main__':
    try:
        run_test(test, n=4)
    except Failed as e:
        print(e)
