#!/usr/bin/python3
"""A node started a second time on a copy of its data directory, beside the original or instead of it, on this machine and in another
network; and the deaths of worker and supervisor, one at a time: one node is one process, and the cluster notices nothing of the rest."""
import os
import shutil
import signal
import subprocess

from harness import IMPNODE, SLOW, Failed, is_dead, run_test, sh, step, wait
from node_start import refused

REMEDY = ('two copies of a node would forge votes', 'impcli node remove n3', 'impnode join')


def epochs(cluster):
    return {n['name']: n.get('epoch') for n in cluster.nodes[0].json('node', 'list')}


def term_of(cluster):
    return cluster.nodes[0].json('dbreplication', 'runtimestate')['cluster']['term']


def unharmed(cluster, term):
    for node in cluster.nodes:
        if node.process:
            wait('%s runs' % node.name, node.runs_services)
    assert term_of(cluster) == term, 'there was an election'
    cluster.nodes[0].cli('user', 'add', 'u%d' % len(cluster.nodes[0].json('user', 'list')), '--password-stdin', stdin='secret\n')


def copies(cluster):
    n3 = cluster.nodes[2]
    copy, term = os.path.join(cluster.dir, 'copy'), term_of(cluster)
    step('a copy beside the original')
    sh('cp -a %s %s && rm -f %s/admin.sock' % (n3.dir, copy, copy))
    refused(n3, *REMEDY, data=copy)
    unharmed(cluster, term)
    step('the same copy with the right inodes written into it: the other members refuse it')
    forge(copy)
    p = run_copy(copy)
    out = wait_end(p)
    assert p.returncode not in (0, None), out
    assert 'another process with this node\'s identity' in out or 'second living copy' in out or 'in use' in out, out
    unharmed(cluster, term)
    step('the original is stopped, the copy takes its place')
    n3.stop()
    shutil.rmtree(copy)
    sh('cp -a %s %s' % (n3.dir, copy))
    refused(n3, *REMEDY, data=copy)
    step('the disk of the original in another machine')
    with open(os.path.join(cluster.dir, 'machine-id'), 'w') as f:
        f.write('0123456789abcdef' * 2 + '\n')
    p = subprocess.run(['unshare', '-n', '-m', 'sh', '-c', 'mount --bind "$1" /etc/machine-id && exec "$2" run --data "$3"', 'sh', f.name,
                        IMPNODE, n3.dir], capture_output=True, text=True, timeout=30 * SLOW)
    assert p.returncode == 78 and 'another machine' in p.stderr, '%d %s' % (p.returncode, p.stderr)
    step('the original was moved away and its copy has its name')
    os.rename(n3.dir, n3.dir + '.moved')
    os.rename(copy, n3.dir)
    refused(n3, *REMEDY)
    shutil.rmtree(n3.dir)
    os.rename(n3.dir + '.moved', n3.dir)
    n3.start()
    cluster.wait_running([n3])


def forge(copy):
    """What an attacker or a clever restore would do: the identity file names the copy's own inodes."""
    path = os.path.join(copy, 'identity')
    with open(path) as f:
        lines = f.readlines()
    with open(path, 'w') as f:
        inode = {'directory-inode': os.stat(copy).st_ino, 'file-inode': os.stat(path).st_ino}
        for line in lines:
            key = line.split(':')[0]
            f.write('%s: %d\n' % (key, inode[key]) if key in inode else line)
    # another address, so that its ports are free; the others dial the one in the member table
    path = os.path.join(copy, 'impnode.yaml')
    with open(path) as f:
        text = f.read()
    with open(path, 'w') as f:
        f.write(text.replace('127.0.0.3', '127.0.0.33'))


def run_copy(copy):
    return subprocess.Popen([IMPNODE, 'run', '--data', copy], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_end(p):
    try:
        return p.communicate(timeout=30 * SLOW)[0]
    except subprocess.TimeoutExpired:
        p.kill()
        raise Failed('the copy runs on: %s' % p.communicate()[0][-2000:])


def deaths(cluster):
    n3 = cluster.nodes[2]
    pid_file = os.path.join(n3.dir, 'worker.pid')
    step('kill -9 of the worker')
    old = n3.worker_pid()
    n3.kill_worker()
    wait('another worker runs', lambda: n3.worker_pid() != old and n3.runs_services())
    step('kill -9 of the supervisor: the worker goes with it, and leaves its pid')
    old = n3.worker_pid()
    n3.process.kill()
    n3.process.wait()
    wait('the worker is gone', lambda: is_dead(old))
    assert os.path.exists(pid_file)
    step('kill -9 of the supervisor while the worker stands still')
    n3.start()
    wait('it runs', n3.runs_services)
    old = n3.worker_pid()
    os.kill(old, signal.SIGSTOP)
    n3.process.kill()
    n3.process.wait()
    wait('the worker is gone', lambda: is_dead(old))
    step('a pid file of a process that is somebody else now')
    with open(pid_file, 'w') as f:
        f.write('%d\n' % os.getpid())
    n3.start()
    wait('it runs', lambda: n3.runs_services() and n3.worker_pid() != os.getpid())
    step('twice at once, then the supervisor dies while another waits for the lock')
    second = subprocess.Popen([IMPNODE, 'run', '--data', n3.dir], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    n3.process.kill()
    n3.process.wait()
    n3.process = second
    wait('the second has taken over', lambda: not is_dead(n3.worker_pid()) and n3.runs_services())
    n3.stop()
    assert 'Sanitizer' not in second.stdout.read()
    n3.start()
    cluster.wait_running([n3])


def test(cluster):
    cluster.start()
    n3 = cluster.nodes[2]
    n3.stop()  # a copy that knows all members
    n3.start()
    cluster.wait_running([n3])
    copies(cluster)
    deaths(cluster)
    cluster.check_equal()


if __name__ == '__main__':
    run_test(test)
