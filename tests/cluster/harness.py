"""A cluster of real impnode processes for tests, in a network namespace of the test's own.

Every test runs through run_test() in a fresh network namespace, so that the default ports are free and several tests
can run side by side. Shapes: Cluster(3) has its nodes on 127.0.0.1, 127.0.0.2, ... of that namespace;
Cluster(3, lan=True) gives every node a namespace of its own on a bridge, so that links can be cut; Cluster(3, faults=SEED)
on a switch that drops, delays and repeats (lan.py).

The programs come from $IMP_BUILD (default build/asan, then build/dev, build/release).
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

from lan import Lan

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SIM_HOST = '127.0.0.10'


def build_dir():
    wanted = os.environ.get('IMP_BUILD')
    for d in [wanted] if wanted else ['build/asan', 'build/dev', 'build/release']:
        d = os.path.join(ROOT, d)
        if os.path.exists(os.path.join(d, 'node', 'impnode')):
            return d
    sys.exit('no impnode found: build first, or set IMP_BUILD')


BUILD = build_dir()
IMPNODE = os.path.join(BUILD, 'node', 'impnode')
# the release before, which knows a lower feature level
IMPNODE_BEFORE = os.path.join(BUILD, 'tests', 'cluster', 'impnode_before')
IMPCLI = os.path.join(BUILD, 'cli', 'impcli')
UCMSIM = os.path.join(BUILD, 'tools', 'ucmsim', 'ucmsim')
# sanitizers make everything several times slower: every deadline is multiplied
SLOW = 3 if 'san' in os.path.basename(BUILD) else 1


class Failed(Exception):
    pass


BEGAN = time.monotonic()


def step(what):
    print('%6.1f s  %s' % (time.monotonic() - BEGAN, what), flush=True)


def wait(what, condition, timeout=30):
    """Until condition() is true; returns its value. Errors inside count as not yet."""
    began = time.monotonic()
    end = began + timeout * SLOW
    last = None
    while time.monotonic() < end:
        try:
            value = condition()
            if value:
                if time.monotonic() > began + 1:
                    step('waited %.1f s until %s' % (time.monotonic() - began, what))
                return value
            last = value
        except (Failed, OSError, KeyError, IndexError, ValueError, subprocess.SubprocessError) as e:
            last = e
        time.sleep(0.05)
    raise Failed('gave up waiting until %s (last: %r)' % (what, last))


def sh(command):
    subprocess.run(command, shell=True, check=True)


def is_dead(pid):
    """Gone, or a zombie that nobody has waited for yet."""
    try:
        with open('/proc/%d/stat' % pid) as f:
            return f.read().rsplit(')', 1)[1].split()[0] in 'ZX'
    except FileNotFoundError:
        return True


class Node:
    def __init__(self, cluster, index):
        self.cluster, self.index = cluster, index
        self.name = 'n%d' % index
        self.dir = os.path.join(cluster.dir, self.name)
        self.log = os.path.join(cluster.dir, self.name + '.log')
        self.process = None
        self.args = []
        self.env = {}
        self.program = cluster.program
        if cluster.lan:
            self.address = '10.77.0.%d' % index
            self.netns = 'imp%d-%s' % (os.getpid(), self.name)
        else:
            self.address, self.netns = '127.0.0.%d' % index, None

    def command(self, *args):
        prefix = ['ip', 'netns', 'exec', self.netns] if self.netns else []
        return prefix + [str(a) for a in args]

    def make_namespace(self):
        n, port = self.netns, 'v%s' % self.name
        if self.cluster.switch:
            sh('ip netns add %s && ip -n %s link set lo up' % (n, n))
            self.cluster.switch.add(self.name, n, self.address)
            return
        sh('ip netns add %s && ip link add %s type veth peer name eth0 netns %s' % (n, port, n))
        sh('ip link set %s master br0 up && ip -n %s link set lo up' % (port, n))
        sh('ip -n %s addr add %s/24 dev eth0 && ip -n %s link set eth0 up' % (n, self.address, n))

    def cut(self):
        """The cable is pulled out: the node sees that."""
        if self.cluster.switch:
            self.cluster.switch.plug(self.name, 0)
        else:
            sh('ip link set v%s down' % self.name)

    def heal(self):
        if self.cluster.switch:
            self.cluster.switch.plug(self.name, 1)
        else:
            sh('ip link set v%s up' % self.name)

    def init(self):
        self.run_once('init', '--data', self.dir, '--name', self.name, '--address', self.address, '--domain', self.cluster.domain,
                      *self.cluster.config)

    def run_once(self, *args, check=True, timeout=60):
        p = subprocess.run(self.command(self.program, *args), capture_output=True, text=True, timeout=timeout * SLOW,
                           env={**os.environ, **self.env})
        with open(self.log, 'a') as f:
            f.write('$ impnode %s\n%s%s' % (' '.join(map(str, args)), p.stdout, p.stderr))
        if check and p.returncode:
            raise Failed('impnode %s: exit %d: %s' % (args[0], p.returncode, p.stderr.strip()))
        return p

    def join(self, member, token, check=True, timeout=60, extra=()):
        return self.run_once('join', member.address, '--token', token, '--data', self.dir, '--name', self.name, '--address',
                             self.address, *self.cluster.config, *extra, check=check, timeout=timeout)

    def start(self):
        out = open(self.log, 'a')
        self.process = subprocess.Popen(self.command(self.program, 'run', '--data', self.dir, *self.args), stdout=out, stderr=out,
                                        stdin=subprocess.DEVNULL, start_new_session=True, env={**os.environ, **self.env})
        out.close()

    def worker_pid(self):
        with open(os.path.join(self.dir, 'worker.pid')) as f:
            pid = int(f.read())
        # of a worker that was killed the file stays, and the number may be somebody else's now
        with open('/proc/%d/comm' % pid) as f:
            if f.read().strip() != 'impnode':
                raise ProcessLookupError('the worker of %s is gone' % self.name)
        return pid

    def kill(self):
        """kill -9 of supervisor and worker: the machine is gone."""
        pid = None
        try:
            pid = self.worker_pid()
        except (OSError, ValueError):
            pass
        self.process.kill()
        if pid:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        if pid:
            wait('%s is dead' % self.name, lambda: is_dead(pid))
        self.process = None

    def kill_worker(self):
        """kill -9 of the worker alone: the supervisor starts it again."""
        os.kill(self.worker_pid(), signal.SIGKILL)

    def kill_supervisor(self):
        """kill -9 of the supervisor alone: the worker ends with it, and nobody starts it again."""
        pid = self.worker_pid()
        self.process.kill()
        self.process.wait()
        wait('the worker of %s has ended with its supervisor' % self.name, lambda: is_dead(pid))
        self.process = None

    def pause(self):
        os.kill(self.worker_pid(), signal.SIGSTOP)

    def go_on(self):
        os.kill(self.worker_pid(), signal.SIGCONT)

    def stop(self, timeout=30):
        if not self.process:
            return
        self.process.terminate()
        try:
            status = self.process.wait(timeout * SLOW)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed('%s did not stop' % self.name)
        self.process = None
        if status:
            raise Failed('%s ended with status %d' % (self.name, status))

    def cli(self, *args, check=True, stdin=None, timeout=60):
        p = subprocess.run([IMPCLI, '--data', self.dir] + [str(a) for a in args], capture_output=True, text=True, input=stdin,
                           timeout=timeout * SLOW)
        if check and p.returncode:
            raise Failed('impcli %s on %s: exit %d: %s' % (' '.join(map(str, args)), self.name, p.returncode, p.stderr.strip()))
        return p.stdout if check else p

    def json(self, *args, **kw):
        return json.loads(self.cli('--json', *args, **kw))

    def runs_services(self):
        st = self.json('dbreplication', 'runtimestate', self.name)
        return st['nodes'][0]['services'] == 'running' and st['nodes'][0]['state'] == 2

    def rss_kib(self):
        with open('/proc/%d/status' % self.worker_pid()) as f:
            return int([line for line in f if line.startswith('VmRSS')][0].split()[1])


class Cluster:
    def __init__(self, n=3, lan=False, users=None, node_args=(), config=(), domain='example.com', faults=None, program=IMPNODE):
        """node_args: for impnode run; config: for init and join, kept in impnode.yaml; faults: the seed of a faulty LAN;
        program: of which release."""
        self.lan, self.config, self.domain, self.program = lan or faults is not None, list(config), domain, program
        self.switch = Lan(faults) if faults is not None else None
        self.dir = tempfile.mkdtemp(prefix='imp-test-')
        self.nodes = []
        self.sim = None
        self.node_args = list(node_args)
        if self.switch:
            self.switch.add('host', None, '10.77.0.254')
        elif lan:
            # An address of its own: else it takes the lowest of its ports', another one when a node is added, and drops what
            # the others still send to the one before until they ask for it again, which may be half a minute.
            sh('ip link add br0 address 02:00:00:00:00:fe type bridge && ip addr add 10.77.0.254/24 dev br0 && ip link set br0 up')
        for i in range(n):
            self.new_node()
        self.users = users

    def new_node(self):
        node = Node(self, len(self.nodes) + 1)
        node.args = list(self.node_args)
        if self.lan:
            node.make_namespace()
        self.nodes.append(node)
        return node

    @property
    def ca(self):
        return os.path.join(self.nodes[0].dir, 'ca.pem')

    def start(self):
        """init, run, join; every node runs its services."""
        first = self.nodes[0]
        first.init()
        first.start()
        wait('n1 answers', lambda: first.cli('node', 'list'))
        for node in self.nodes[1:]:
            self.add(node, first)
        self.wait_running()
        if self.users:
            self.start_sync(self.users)
        self.wait_voters()
        step('the cluster runs')
        return self

    def wait_voters(self):
        """Every node has its part in the quorum (five at most)."""
        def done():
            roles = [n['raft'] for n in self.nodes[0].json('node', 'list')]
            n = min(len(self.nodes), 5)
            return 'leader' in roles and roles.count('voter') == (n if n < 3 or n % 2 else n - 1) - 1
        wait('all nodes vote', done)

    def token(self, member=None):
        return wait('a token is made', lambda: (member or self.nodes[0]).cli('node', 'token').strip())

    def add(self, node, member=None):
        member = member or self.nodes[0]
        node.join(member, self.token(member))
        node.start()

    def wait_running(self, nodes=None, timeout=60):
        for node in nodes or self.nodes:
            wait('%s runs its services' % node.name, node.runs_services, timeout)

    def start_sim(self, users, *args):
        host = '10.77.0.254' if self.lan else SIM_HOST
        self.sim_ca = os.path.join(self.dir, 'ucmsim.pem')
        out = open(os.path.join(self.dir, 'ucmsim.log'), 'a')
        self.sim = subprocess.Popen([UCMSIM, '--axl', host + ':8444', '--control', host + ':8080', '--cert-out', self.sim_ca,
                                     '--users', str(users), *args], stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        self.sim_control = 'http://%s:8080' % host
        self.axl_url = 'https://%s:8444/axl/' % host
        wait('ucmsim listens', lambda: os.path.getsize(self.sim_ca) > 0)

    def configure_sync(self):
        first = self.nodes[0]
        with open(self.sim_ca) as f:
            first.cli('settings', 'set', 'axl.ca', f.read())
        first.cli('settings', 'set', 'axl.user', 'axluser')
        first.cli('settings', 'set', 'axl.password', stdin='axlpassword\n')
        first.cli('settings', 'set', 'axl.url', self.axl_url)

    def start_sync(self, users):
        self.start_sim(users)
        self.configure_sync()
        self.nodes[0].cli('sync', 'start', '--full')
        wait('the users are there', lambda: self.sync_status()['completed'] and self.sync_status()['ok'], 120)

    def sync_status(self, node=None):
        return (node or self.nodes[0]).json('sync', 'status')

    def add_local_users(self, names, node=None):
        lines = ''.join('%s,pw-%s\n' % (n, n) for n in names)
        (node or self.nodes[0]).cli('user', 'import', '-', stdin=lines, timeout=120)

    def leader(self):
        for node in self.nodes:
            if not node.process:
                continue
            try:
                name = node.json('dbreplication', 'runtimestate')['cluster']['leader']
            except (Failed, subprocess.SubprocessError, ValueError):
                continue
            for other in self.nodes:
                if other.name == name and other.process:
                    return other
        return None

    def check_equal(self, node=None, timeout=60):
        """Every node answers with the same hashes at one index."""
        node = node or self.nodes[0]

        def equal():
            st = node.json('dbreplication', 'status')
            if not st['match']:
                raise AssertionError('tables differ: %s' % [t for t in st['tables'] if not t['match']])
            return not st['no_answer'] and len(st['nodes']) == len([n for n in self.nodes if n.process])
        wait('all nodes tell equal hashes', equal, timeout)

    def report(self):
        for node in self.nodes:
            print('--- last lines of %s' % node.log)
            try:
                with open(node.log, errors='replace') as f:
                    # each call of an administrator is one of them
                    print(''.join([line for line in f if ' admin INFO ' not in line][-40:]))
            except OSError as e:
                print(e)
        for node in self.nodes:
            if node.process:
                try:
                    p = node.cli('dbreplication', 'runtimestate', check=False, timeout=10)
                    print('--- runtime state as %s sees it\n%s%s' % (node.name, p.stdout, p.stderr))
                    break
                except subprocess.TimeoutExpired:
                    print('--- %s does not answer' % node.name)

    def sanitizer_line(self):
        """The first line in which a sanitizer tells of a fault, or None."""
        for node in self.nodes:
            try:
                with open(node.log, errors='replace') as f:
                    for line in f:
                        if 'Sanitizer' in line or 'runtime error' in line:
                            return '%s: %s' % (node.log, line.strip())
            except OSError:
                pass
        return None

    def close(self, failed):
        for node in self.nodes:
            try:
                if node.process and failed:
                    node.kill()
                else:
                    node.stop()
            except (Failed, OSError, ValueError) as e:
                if not failed:
                    raise
                print(e)
        if self.sim:
            self.sim.terminate()
            self.sim.wait()
        if self.switch:
            self.switch.close()
        if self.lan:
            for node in self.nodes:
                subprocess.run(['ip', 'netns', 'del', node.netns])
        # a sanitizer's report must not go unseen
        if not failed:
            line = self.sanitizer_line()
            if line:
                raise Failed(line)
            shutil.rmtree(self.dir)


def reason(e):
    """What failed and where in the test, for the very end of what is printed: a log may be cut above it."""
    here = [f for f in traceback.extract_tb(e.__traceback__) if f.filename.startswith(os.path.join(ROOT, 'tests'))]
    where = ' (%s)' % ', '.join('%s:%d' % (os.path.basename(f.filename), f.lineno) for f in here[-3:]) if here else ''
    return '%s: %s%s' % (type(e).__name__, e, where)


def run_test(test, n=3, **kw):
    """main of every test file: test(cluster) with a cluster that is not started yet."""
    if os.geteuid() != 0:
        print('SKIP: needs root, for network namespaces')
        sys.exit(77)
    if os.environ.get('IMP_TEST_NAMESPACE') != '1':
        os.environ['IMP_TEST_NAMESPACE'] = '1'
        os.execvp('unshare', ['unshare', '-n', sys.executable] + sys.argv)
    sh('ip link set lo up')
    cluster = Cluster(n, **kw)
    why = []
    try:
        test(cluster)
    except Exception as e:
        why.append(reason(e))
        traceback.print_exc()
        cluster.report()
        if cluster.sanitizer_line():
            why.append(cluster.sanitizer_line())
    try:
        cluster.close(bool(why))
    except Exception as e:
        why.append(reason(e))
        traceback.print_exc()
    sys.stderr.flush()
    print('FAILED, files in %s\n%s' % (cluster.dir, '\n'.join(why)) if why else 'passed')
    sys.exit(1 if why else 0)
