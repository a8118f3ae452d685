#!/usr/bin/python3
"""Members leave and come: who may not be removed and why, a node that removes itself, a removed one that is started again,
two nodes with and without a witness, a machine that is lost and comes back under its old name."""
import os
import shutil
import subprocess

from adminrpc import call
from harness import IMPNODE, SLOW, Failed, run_test, step, wait


def refused(node, *args, words=()):
    p = node.cli(*args, check=False)
    assert p.returncode == 1, '%s: status %d, %s' % (args, p.returncode, p.stderr)
    for w in words:
        assert w in p.stderr, '%s does not say %r: %s' % (args, w, p.stderr)


def members(node):
    return {n['name']: n for n in node.json('node', 'list')}


def is_open(node, name):
    return any(a['name'] == name for a in node.json('alarm', 'list'))


def writes(node, timeout=20):
    wait('writes go on', lambda: call(node, 'settings', 'set', 'replication.timeout', '300', timeout=5)[0] == 0, timeout)


def homes(node):
    return {u['home'] for u in node.json('user', 'list')}


def remove_oneself(cluster):
    step('who may not be removed')
    n1, n2, n3 = cluster.nodes
    refused(n2, 'node', 'remove', 'n1', words=['publisher', 'promote'])
    refused(n2, 'node', 'remove', 'n9', words=['no node'])
    n2.kill()
    wait('n1 misses n2', lambda: is_open(n1, 'NodeDown'))
    refused(n1, 'node', 'remove', 'n3', words=['n2', '1 of 2 voters', 'first'])
    n2.start()
    cluster.wait_running([n2])
    assert set(members(n1)) == {'n1', 'n2', 'n3'}

    step('n3 leads, and removes itself')
    cluster.add_local_users(['u%d' % i for i in range(12)])
    assert homes(n1) == {'n1', 'n2', 'n3'}
    n1.cli('node', 'leader', 'n3')
    said = n3.cli('node', 'remove', 'n3')
    assert 'removed' in said, said
    wait('the others have forgotten it', lambda: set(members(n1)) == set(members(n2)) == {'n1', 'n2'})
    assert homes(n1) == {'n1', 'n2'}, 'its users have moved'
    assert n3.process.wait(20 * SLOW) == 78, 'refused, not tried again'
    n3.process = None
    writes(n1)
    p = subprocess.run([IMPNODE, 'run', '--data', n3.dir], capture_output=True, text=True, timeout=30 * SLOW)
    assert p.returncode == 78 and 'was removed from the cluster' in p.stderr and 'delete it' in p.stderr, p.stderr
    wait('two voters are no redundancy', lambda: is_open(n1, 'NoRedundancy'))
    audit = [a for a in n2.json('audit', 'list') if a['command'].startswith('node remove')]
    assert [a['result'] == 'done' for a in audit] == [False, False, False, True], audit


def come_back(cluster):
    step('n3 comes back with its old name')
    n1, n2, n3 = cluster.nodes
    p = n3.join(n1, cluster.token(), check=False)
    assert 'has joined already' in p.stdout + p.stderr
    shutil.rmtree(n3.dir)
    n3.join(n1, cluster.token())
    n3.start()
    cluster.wait_running([n3])
    wait('three voters', lambda: not is_open(n1, 'NoRedundancy'))


def lost_machine(cluster):
    step('a machine is lost with its disk')
    n1, n2, n3 = cluster.nodes
    n2.kill()
    shutil.rmtree(n2.dir)
    token = cluster.token()
    p = n2.join(n1, token, check=False)
    assert p.returncode == 1 and 'n2' in p.stderr and 'impcli node remove n2' in p.stderr, p.stderr
    before = n1.json('node', 'show', 'n2')['id']
    n3.cli('node', 'remove', 'n2')
    n2.join(n3, token)
    n2.start()
    cluster.wait_running([n2])
    assert n1.json('node', 'show', 'n2')['id'] > before
    cluster.wait_voters()
    cluster.check_equal()


def witness(cluster):
    step('two nodes, one of them goes: nothing to win, the other one goes on alone')
    n1, n2, n3 = cluster.nodes
    n1.cli('node', 'remove', 'n3')
    wait('n3 has ended', lambda: n3.process.poll() == 78)
    n3.process = None
    n1.cli('node', 'remove', 'n2')
    wait('n2 has ended', lambda: n2.process.poll() == 78)
    n2.process = None
    writes(n1)
    assert set(members(n1)) == {'n1'} and members(n1)['n1']['raft'] == 'leader'
    refused(n1, 'node', 'remove', 'n1', words=['publisher'])
    assert homes(n1) == {'n1'}

    step('two nodes and a witness: each of the three may die')
    for node in (n2, n3):
        shutil.rmtree(node.dir)
    n2.join(n1, cluster.token())
    n2.start()
    cluster.wait_running([n2])
    wait('two voters are no redundancy', lambda: is_open(n1, 'NoRedundancy'))
    n3.join(n1, cluster.token(), extra=['--witness'])
    n3.start()
    wait('the witness votes', lambda: members(n1)['n3']['raft'] in ('voter', 'leader') and not is_open(n1, 'NoRedundancy'))
    assert members(n1)['n3']['role'] == 'witness'
    refused(n1, 'node', 'promote', 'n3', words=['witness'])
    for node in cluster.nodes:
        other = [n for n in cluster.nodes if n is not node][0]
        node.kill()
        writes(other)
        node.start()
        wait('%s is back' % node.name, lambda: node.cli('node', 'list') and cluster.leader())
        if node is not n3:
            cluster.wait_running([node])
    n1.cli('user', 'balance')
    assert 'n3' not in homes(n1), 'a witness is nobody\'s home'
    cluster.check_equal()


def test(cluster):
    cluster.start()
    remove_oneself(cluster)
    come_back(cluster)
    lost_machine(cluster)
    witness(cluster)


if __name__ == '__main__':
    run_test(test)
