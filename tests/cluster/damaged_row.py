#!/usr/bin/python3
"""One bit of a stored row flips on one node's disk. Its scrub finds it, the node's feature services are held back with an
alarm, and the others run on; taken out and joined anew, the cluster is whole again."""
import os

from harness import run_test, wait


def flip(path, text):
    with open(path, 'r+b') as f:
        data = f.read()
        at = data.find(text)
        assert at > 0, 'the row is not in the file'
        f.seek(at + 3)
        f.write(bytes([data[at + 3] ^ 4]))


def open_alarms(node):
    return [(a['name'], a['node']) for a in node.json('alarm', 'list')]


def test(cluster):
    cluster.start()
    n1, n2, n3 = cluster.nodes
    cluster.add_local_users(['filler%03d' % i for i in range(200)])
    n1.cli('user', 'add', 'victim-of-the-bit', '--password-stdin', stdin='secret\n')
    cluster.check_equal()
    n3.stop()
    flip(os.path.join(n3.dir, 'store', 'data.mdb'), b'victim-of-the-bit')
    n1.cli('settings', 'set', 'storage.scrub', '10')
    n3.start()
    wait('the alarm is raised', lambda: ('TablesDiffer', 'n3') in open_alarms(n1), 60)
    wait('n3 is held back', lambda: not n3.runs_services())
    for node in (n1, n2):
        assert node.runs_services()
    assert [a for a in open_alarms(n1) if a[0] == 'TablesDiffer'] == [('TablesDiffer', 'n3')]
    n1.cli('user', 'add', 'written-meanwhile', '--password-stdin', stdin='secret\n')

    n1.cli('node', 'drain', 'n3')
    wait('n3 has no users', lambda: n1.cli('user', 'balance') is not None and
         [n['users'] for n in n1.json('user', 'count') if n['node'] == 'n3'] == [0])
    n1.cli('node', 'remove', 'n3')
    n3.kill()
    cluster.nodes.remove(n3)
    n4 = cluster.new_node()
    n4.name, n4.address = 'n4', '127.0.0.4'
    n4.dir, n4.log = os.path.join(cluster.dir, 'n4'), os.path.join(cluster.dir, 'n4.log')
    cluster.add(n4, n2)
    cluster.wait_running()
    cluster.check_equal()
    wait('the alarm is over', lambda: not [a for a in open_alarms(n1) if a[0] == 'TablesDiffer'])


if __name__ == '__main__':
    run_test(test)
