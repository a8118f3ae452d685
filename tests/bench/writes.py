#!/usr/bin/python3
"""Replicated writes of 256 bytes: three imp nodes and three etcd nodes on the loopback, with the writes of a 4 KiB append +
fdatasync loop on the same file system taken between. All in one run, in turn, in a network namespace of its own.

etcd is left out where it is not installed (Debian: etcd-server). BENCH_SECONDS: of each load (3). BENCH_ROUNDS (3): the medians of the
ratios within a round are printed, as a machine's speed changes from minute to minute."""
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), 'cluster'))
from harness import BUILD, Cluster, sh, wait  # noqa: E402

LOAD = os.path.join(BUILD, 'tests', 'bench', 'write_load')
SECONDS = os.environ.get('BENCH_SECONDS', '3')
ROUNDS = int(os.environ.get('BENCH_ROUNDS', '3'))
IN_FLIGHT = (1, 16, 256)


def load(*args):
    p = subprocess.run([LOAD, *map(str, args)], capture_output=True, text=True)
    if p.returncode:
        sys.exit('%s: %s' % (' '.join(map(str, args)), p.stderr.strip()))
    return json.loads(p.stdout)


def cpu_seconds(pids):
    ticks = 0
    for pid in pids:
        with open('/proc/%d/stat' % pid) as f:
            fields = f.read().rsplit(')', 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf('SC_CLK_TCK')


class Imp:
    name = 'imp'

    def __init__(self):
        self.cluster = Cluster(3, node_args=['--log-level', 'warning'], domain='localhost').start()
        first = self.cluster.nodes[0]
        for key, value in (('xmpp.require_tls', 'false'), ('xmpp.plain_without_tls', 'true'),
                           ('limits.connections_per_address', '100000')):
            first.cli('settings', 'set', key, value)
        users = ['user%d' % i for i in range(max(IN_FLIGHT))]
        first.cli('user', 'import', '-', stdin=''.join('%s,secret\n' % u for u in users), timeout=120)
        self.leader = wait('there is a leader', self.cluster.leader)
        first.cli('user', 'assign', *users, '--node', self.leader.name)
        self.pids = [n.worker_pid() for n in self.cluster.nodes]
        self.write(max(IN_FLIGHT), '1')  # each first log-in derives its keys

    def write(self, n, seconds=SECONDS):
        return load('imp', self.leader.address, 5222, n, seconds)

    def close(self):
        self.cluster.close(False)


class Etcd:
    name = 'etcd'

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix='imp-test-etcd-')
        peers = ','.join('e%d=http://127.0.0.%d:2380' % (i, i) for i in (1, 2, 3))
        self.processes = []
        for i in (1, 2, 3):
            client, peer = 'http://127.0.0.%d:2379' % i, 'http://127.0.0.%d:2380' % i
            out = open(os.path.join(self.dir, 'e%d.log' % i), 'w')
            self.processes.append(subprocess.Popen(
                ['etcd', '--name', 'e%d' % i, '--data-dir', os.path.join(self.dir, 'e%d' % i), '--listen-client-urls', client,
                 '--advertise-client-urls', client, '--listen-peer-urls', peer, '--initial-advertise-peer-urls', peer,
                 '--initial-cluster', peers, '--initial-cluster-state', 'new', '--log-level', 'error'],
                stdout=out, stderr=out, stdin=subprocess.DEVNULL))
            out.close()
        self.pids = [p.pid for p in self.processes]
        self.leader = wait('etcd has a leader', self.find_leader)

    def find_leader(self):
        for i in (1, 2, 3):
            p = subprocess.run(['curl', '-sf', '-X', 'POST', '-d', '{}', 'http://127.0.0.%d:2379/v3/maintenance/status' % i],
                               capture_output=True, text=True)
            if p.returncode == 0:
                status = json.loads(p.stdout)
                if status.get('leader') and status['leader'] == status['header']['member_id']:
                    return '127.0.0.%d' % i
        return None

    def write(self, n, seconds=SECONDS):
        return load('etcd', self.leader, 2379, n, seconds)

    def close(self):
        for p in self.processes:
            p.terminate()
        for p in self.processes:
            p.wait()
        shutil.rmtree(self.dir)


def main():
    if os.geteuid() != 0:
        sys.exit('writes.py: needs root, for a network namespace')
    if os.environ.get('IMP_TEST_NAMESPACE') != '1':
        os.environ['IMP_TEST_NAMESPACE'] = '1'
        os.execvp('unshare', ['unshare', '-n', sys.executable] + sys.argv)
    sh('ip link set lo up')
    imp = Imp()
    servers = [imp]
    if shutil.which('etcd') and shutil.which('curl'):
        servers.append(Etcd())
        servers[-1].write(16, '1')
    else:
        print('etcd is not installed: imp alone')
    results = {}
    for _ in range(ROUNDS):
        for n in IN_FLIGHT:
            # from a start of which the same can be said each time
            time.sleep(1)
            disk = load('disk', os.path.join(imp.cluster.dir, 'disk'), SECONDS)
            results.setdefault(('disk', n), []).append(disk)
            for s in servers:
                before = cpu_seconds(s.pids)
                r = s.write(n)
                r['cpu_us'] = (cpu_seconds(s.pids) - before) * 1e6 / r['writes']
                results.setdefault((s.name, n), []).append(r)
    for s in servers:
        s.close()

    def median(name, n, key):
        return statistics.median(r[key] for r in results[name, n])

    def ratio(a, b, n, key):
        return statistics.median(x[key] / y[key] for x, y in zip(results[a, n], results[b, n]))
    print('%-9s %6s %12s %9s %9s %14s %10s %10s %12s' %
          ('', 'flying', 'writes/s', 'p50 ms', 'p99 ms', 'CPU us/write', ': disk', ': etcd', 'p99 : disk'))
    for n in IN_FLIGHT:
        for name in ['disk'] + [s.name for s in servers]:
            row = '%-9s %6s %12.0f %9.3f %9.3f' % (name, '' if name == 'disk' else n, median(name, n, 'rate'),
                                                    median(name, n, 'p50_us') / 1e3, median(name, n, 'p99_us') / 1e3)
            if name != 'disk':
                row += ' %14.0f %10.2f' % (median(name, n, 'cpu_us'), ratio(name, 'disk', n, 'rate'))
                row += ' %10s' % ('%.1f' % ratio(name, 'etcd', n, 'rate') if name == 'imp' and len(servers) > 1 else '')
                row += ' %12.1f' % ratio(name, 'disk', n, 'p99_us')
            print(row)
    print(json.dumps({'%s-%d' % k: v for k, v in results.items()}), file=open(os.path.join(BUILD, 'writes.json'), 'w'))


if __name__ == '__main__':
    main()
