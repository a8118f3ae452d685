#!/usr/bin/python3
"""A join is interrupted everywhere: while it enrols, in the middle of the copy (the new node killed, its link cut, the source
killed, its disk full, the sources' disks full), while it verifies, and between the finished copy and the new store. Each time
it goes on or begins again by itself, and says how far it is and what is missing."""
import os
import re
import signal
import subprocess
import sys
import time

from harness import BUILD, Failed, is_dead, run_test, sh, step, wait

BIG_STATE = os.path.join(BUILD, 'tests', 'big', 'big_state')
DISK_MB = 500

if os.geteuid() == 0 and os.environ.get('IMP_TEST_MOUNTS') != '1':  # mounts of the test's own
    os.environ['IMP_TEST_MOUNTS'] = '1'
    os.execvp('unshare', ['unshare', '-m', sys.executable] + sys.argv)


def mount(node):
    os.mkdir(node.dir)
    sh('mount -t tmpfs -o size=%dm,mode=0700 tmpfs %s' % (DISK_MB, node.dir))


def fill(node, leave_mb):
    st = os.statvfs(node.dir)
    n = st.f_bavail * st.f_frsize - (leave_mb << 20)
    with open(os.path.join(node.dir, 'ballast'), 'ab', buffering=0) as f:
        while n > 0:
            try:
                n -= f.write(b'\0' * min(n, 1 << 20))
            except OSError:
                break


def give_back(node):
    os.remove(os.path.join(node.dir, 'ballast'))


def log_of(node):
    with open(node.log, errors='replace') as f:
        return f.read()


def state(member, name):
    return [n for n in member.json('dbreplication', 'runtimestate')['nodes'] if n['name'] == name][0]


def copied(member, name):
    """(MiB here, MiB in all) as the runtime state tells a person; None: no copy is under way."""
    m = re.search(r'receiving snapshot, (\d+) of (\d+) MiB \(\d+ %\)', state(member, name)['state_text'])
    return (int(m.group(1)), int(m.group(2))) if m else None


def in_the_middle(member, node):
    """Between a fifth and the end: the copy's progress is seen from another node."""
    def check():
        c = copied(member, node.name)
        return c and c[0] >= c[1] / 5
    wait('%s is in the middle of its copy' % node.name, check)


def kill_when(node, what, condition):
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            raise Failed('never came: ' + what)
        time.sleep(0.002)
    node.kill()


def enrol(node, member, token):
    """kill -9 of the enrolment once its key is there; the same command again finishes it."""
    command = node.command(os.path.join(BUILD, 'node', 'impnode'), 'join', member.address, '--token', token, '--data', node.dir,
                           '--name', node.name, '--address', node.address)
    for wanted in ('keys/node.key', 'keys/cluster.keys'):
        p = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while not os.path.exists(os.path.join(node.dir, wanted)) and p.poll() is None and time.monotonic() < end:
            time.sleep(0.001)
        p.send_signal(signal.SIGKILL)
        p.wait()
    node.join(member, token)


def test(cluster):
    n1, n2, n3 = cluster.nodes
    for node in cluster.nodes:
        mount(node)
    try:
        n1.init()
        n1.start()
        wait('n1 answers', lambda: n1.cli('node', 'list'))
        n1.stop()
        print(subprocess.run([BIG_STATE, n1.dir, '--users', '300', '--contacts', '20', '--messages', '28000', '--message-bytes',
                              '1024'], check=True, capture_output=True, text=True).stdout.strip())
        n1.start()
        wait('n1 answers', lambda: n1.cli('node', 'list'))
        cluster.add(n2, n1)
        cluster.wait_running([n1, n2])
        cluster.wait_voters = lambda: None
        # so that there is a middle
        sh('tc qdisc add dev vn3 root tbf rate 80mbit burst 256kb latency 100ms')

        step('the enrolment is killed')
        enrol(n3, n1, cluster.token())

        step('the new node is killed in the middle of the copy')
        n3.start()
        in_the_middle(n1, n3)
        text = state(n1, 'n3')['state_text']
        assert state(n1, 'n3')['state'] == 1, text
        n3.kill()
        n3.start()
        in_the_middle(n1, n3)
        assert log_of(n3).count('taking over a copy of the store from node') == 2, 'the copy did not begin again'

        step('its link is cut in the middle')
        before = copied(n1, 'n3')
        n3.cut()
        wait('the others miss it', lambda: not state(n1, 'n3')['rpc'])
        n3.heal()
        wait('the copy goes on where it was', lambda: (copied(n1, 'n3') or (0,))[0] > before[0], 30)
        assert log_of(n3).count('taking over a copy of the store from node') == 2, 'the copy began again'

        step('the source is killed in the middle')
        source = re.findall(r'taking over a copy of the store from node (\d)', log_of(n3))[-1]
        source = cluster.nodes[int(source) - 1]
        other = n1 if source is n2 else n2
        source.kill_worker()
        wait('another copy is begun', lambda: log_of(n3).count('taking over a copy of the store from node') == 3)
        in_the_middle(other, n3)

        step('its disk is full in the middle')
        fill(n3, 0)
        wait('it says so', lambda: re.search(r'[Nn]o space left|not enough disk', log_of(n3)), 40)
        give_back(n3)
        began = log_of(n3).count('taking over a copy of the store from node')
        wait('it begins again by itself', lambda: log_of(n3).count('taking over a copy of the store from node') > began, 30)
        n3.kill()

        step('the disks of all sources are too full for a copy')
        for node in (n1, n2):
            pid = node.worker_pid()
            node.kill_worker()
            wait('%s is back' % node.name, lambda: is_dead(pid) and node.worker_pid() != pid and node.runs_services())
            fill(node, 80)
        n3.start()
        wait('the new node says why nothing comes', lambda: re.search(r'; node [12] has none to give: .*no space',
                                                                      state(n1, 'n3')['state_text']), 40)
        assert all(n.runs_services() for n in (n1, n2)), 'a copy for others harmed a node that serves'
        for node in (n1, n2):
            give_back(node)
        wait('the copy comes by itself', lambda: copied(n1, 'n3'), 30)

        step('killed while it verifies')
        kill_when(n3, 'verifying', lambda: log_of(n3).count('MiB are here') == 1)
        n3.start()

        step('killed between the copy and the new store, the directories half swapped')
        marker = os.path.join(n3.dir, 'install.marker')
        if not os.path.exists(marker):  # the kill before may have come behind it
            kill_when(n3, 'the marker', lambda: os.path.exists(marker))
        else:
            n3.kill()
        if os.path.exists(marker) and os.path.exists(os.path.join(n3.dir, 'install.tmp')):
            os.rename(os.path.join(n3.dir, 'store'), os.path.join(n3.dir, 'store.old'))
        n3.start()
        cluster.wait_running([n3], 60)
        assert not os.path.exists(marker) and not os.path.exists(os.path.join(n3.dir, 'store.old'))

        step('the new node is as good as the others')
        sh('tc qdisc del dev vn3 root')
        n3.cli('user', 'add', 'zoe', '--password-stdin', stdin='secret\n')
        cluster.check_equal()
        wait('all nodes vote', lambda: sorted(n['raft'] for n in n1.json('node', 'list')) == ['leader', 'voter', 'voter'], 30)
    finally:
        for node in cluster.nodes:
            try:
                if node.process:
                    node.stop()
            except (Failed, OSError) as e:
                print(e)
            sh('umount -l %s' % node.dir)


if __name__ == '__main__':
    run_test(test, lan=True)
