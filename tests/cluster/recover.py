#!/usr/bin/python3
"""Two of three machines are gone for good: the third goes on as a cluster of its own, the lost ones cannot come back with
their old data, new ones join under their old names."""
import os
import shutil
import subprocess

from adminrpc import call
from harness import IMPNODE, SLOW, run_test, step, wait


def recover(node, answer=None, data=None):
    return subprocess.run([IMPNODE, 'recover', '--data', data or node.dir, '--force-new-cluster'] + ([] if answer else ['--yes']),
                          input=answer, capture_output=True, text=True, timeout=60 * SLOW)


def refused(p, *words):
    assert p.returncode == 1, '%d: %s%s' % (p.returncode, p.stdout, p.stderr)
    for w in words:
        assert w in p.stderr, '%r is not in %r' % (w, p.stderr)


def members(node):
    return {n['name']: n for n in node.json('node', 'list')}


def test(cluster):
    cluster.start()
    n1, n2, n3 = cluster.nodes
    cluster.add_local_users(['u%d' % i for i in range(9)])
    n1.cli('settings', 'set', 'axl.password', stdin='secret\n')
    refused(recover(n3), 'another impnode process')
    for node in (n1, n2):
        node.kill()
    wait('n3 is alone', lambda: n3.json('dbreplication', 'runtimestate')['cluster']['leader'] in (None, ''))
    n3.kill()

    step('what is refused')
    refused(recover(n3, data=os.path.join(cluster.dir, 'nowhere')), 'nowhere')
    p = recover(n3, answer='no\n')
    refused(p, 'nothing was changed')
    assert 'lost' in p.stdout and 'applied index' in p.stdout, p.stdout
    n3.start()
    wait('n3 still waits for the others', lambda: n3.cli('node', 'list') and
         n3.json('dbreplication', 'runtimestate')['cluster']['leader'] in (None, ''))
    n3.kill()

    step('n3 goes on alone')
    p = recover(n3, answer='yes\n')
    assert p.returncode == 0 and 'node remove' in p.stdout and 'publisher' in p.stdout, p.stdout + p.stderr
    n3.start()
    cluster.wait_running([n3])
    assert call(n3, 'user', 'lock', 'u1')[0] == 0, 'writes go on'
    state = members(n3)
    assert (state['n1']['state'], state['n2']['state'], state['n3']['state']) == ('lost', 'lost', 'member'), state
    assert state['n3']['role'] == 'publisher' and state['n3']['raft'] == 'leader'
    assert len(n3.json('user', 'list')) == 9
    p = n3.cli('node', 'promote', 'n1', check=False)
    assert p.returncode == 1 and 'lost' in p.stderr, p.stderr

    step('the lost ones wake up: they are told, and end')
    index = n3.json('dbreplication', 'runtimestate')['cluster']['commit_index']
    for node in (n1, n2):
        node.start()
    for node in (n1, n2):
        assert node.process.wait(60 * SLOW) == 78, '%s runs on' % node.name
        node.process = None
        with open(node.log) as f:
            assert 'was removed from the cluster' in f.read()
    assert call(n3, 'user', 'unlock', 'u1')[0] == 0
    # the driver publishes what it knows a moment after it has told who proposed
    wait('n3 shows the write', lambda: n3.json('dbreplication', 'runtimestate')['cluster']['commit_index'] > index)
    assert n3.json('dbreplication', 'runtimestate')['cluster']['leader'] == 'n3'
    assert n3.json('user', 'show', 'u1'), 'nothing was taken back'
    n3.kill()
    n1.start()
    n3.start()
    cluster.wait_running([n3])
    wait('n1 has ended once more', lambda: n1.process.poll() == 78, 60)
    n1.process = None

    step('they are removed, and join with their old names')
    for node in (n1, n2):
        n3.cli('node', 'remove', node.name)
        shutil.rmtree(node.dir)
    assert {u['home'] for u in n3.json('user', 'list')} == {'n3'}
    for node in (n1, n2):
        node.join(n3, cluster.token(n3))
        node.start()
    cluster.wait_running()
    cluster.wait_voters()
    n3.cli('user', 'balance')
    assert {u['home'] for u in n1.json('user', 'list')} == {'n1', 'n2', 'n3'}
    assert n1.cli('settings', 'get', 'axl.password') == '(set)\n'
    cluster.check_equal()


if __name__ == '__main__':
    run_test(test)
