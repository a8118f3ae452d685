#!/usr/bin/python3
"""One node's disk fills up: first it is low, then nothing is left. Only that node suffers, it says why, and it goes on by itself
when there is room again."""
import os
import sys

from harness import Failed, run_test, sh, step, wait

if os.geteuid() == 0 and os.environ.get('IMP_TEST_MOUNTS') != '1':  # mounts of the test's own
    os.environ['IMP_TEST_MOUNTS'] = '1'
    os.execvp('unshare', ['unshare', '-m', sys.executable] + sys.argv)


def fill(node, leave):
    """All but LEAVE bytes of the node's disk."""
    st = os.statvfs(node.dir)
    n = st.f_bavail * st.f_frsize - leave
    with open(os.path.join(node.dir, 'ballast'), 'ab') as f:
        while n > 0:
            try:
                n -= f.write(b'\0' * min(n, 1 << 20))
                f.flush()
            except OSError:
                break


def add_user(node, name):
    return node.cli('user', 'add', name, '--password-stdin', stdin='secret\n')


def alarms(node):
    return [(a['name'], a['node']) for a in node.json('alarm', 'list')]


def log_of(node):
    with open(node.log, errors='replace') as f:
        return f.read()


def test(cluster):
    n1, n2, n3 = cluster.nodes
    os.mkdir(n3.dir)
    sh('mount -t tmpfs -o size=1g,mode=0700 tmpfs %s' % n3.dir)
    try:
        cluster.start()
        cluster.add_local_users(['ann'])
        n1.cli('user', 'assign', 'ann', '--node', 'n3')
        n1.cli('node', 'leader', 'n3')
        wait('n3 leads', lambda: n1.json('dbreplication', 'runtimestate')['cluster']['leader'] == 'n3')
        step('little room')
        fill(n3, 300 << 20)
        wait('there is an alarm', lambda: ('DiskLow', 'n3') in alarms(n1), 60)
        fill(n3, 30 << 20)
        wait('n3 gives up the leadership', lambda: n1.json('dbreplication', 'runtimestate')['cluster']['leader'] in ('n1', 'n2'))
        wait('ann is served elsewhere', lambda: n1.json('user', 'show', 'ann')['active_home'] in ('n1', 'n2'))
        add_user(n1, 'written-when-low')
        step('none at all')
        fill(n3, 0)
        before = len(log_of(n3))
        for i in range(300):
            if i % 100 == 0:
                cluster.add_local_users(['more%d-%d' % (i, k) for k in range(1000)], n1)
            if 'No space' in log_of(n3)[before:] or 'no space' in log_of(n3)[before:]:
                break
            wait('n1 and n2 run on', lambda: n1.runs_services() and n2.runs_services())
        add_user(n2, 'written-when-full')
        said = [line for line in log_of(n3)[before:].splitlines() if 'pace' in line or 'disk' in line]
        step('n3 says: %s' % (said or ['nothing'])[0])
        step('room again')
        os.unlink(os.path.join(n3.dir, 'ballast'))
        cluster.wait_running([n3])
        wait('the alarm is over', lambda: ('DiskLow', 'n3') not in alarms(n1), 60)
        wait('ann is at home', lambda: n1.json('user', 'show', 'ann')['active_home'] == 'n3')
        cluster.check_equal()
        assert {'written-when-low', 'written-when-full'} <= {u['user'] for u in n3.json('user', 'list')}
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
    run_test(test)
