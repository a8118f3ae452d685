#!/usr/bin/python3
"""Machines get other addresses: one after the other by itself; all at once with a hint on one of them; names and ports too."""
import os

from adminrpc import call
from harness import run_test, step, wait


def edit(node, **keys):
    """Sets keys of impnode.yaml, as an administrator would with an editor."""
    path = os.path.join(node.dir, 'impnode.yaml')
    with open(path) as f:
        lines = [line for line in f if line.split(':')[0].replace('-', '_') not in keys]
    lines += ['%s: %s\n' % (k.replace('_', '-'), v) for k, v in keys.items() if v is not None]
    with open(path, 'w') as f:
        f.writelines(lines)


def move(node, address, **keys):
    edit(node, address=address, **keys)
    node.address = address


def rows(node):
    return {n['name']: n['address'] for n in node.json('node', 'list')}


def all_know(cluster, **also):
    wanted = {n.name: n.address for n in cluster.nodes}
    for node in cluster.nodes:
        wait('%s knows where all are' % node.name, lambda: rows(node) == wanted)
    for node in cluster.nodes:
        wait('%s is linked with all' % node.name, lambda: all(
            n['rpc'] and n['ping_ms'] is not None and n['state'] == 2 for n in node.json('dbreplication', 'runtimestate')['nodes']))


def test(cluster):
    cluster.start()
    n1, n2, n3 = cluster.nodes
    cluster.add_local_users(['w'])

    step('one after the other, the leader last')
    n1.cli('node', 'leader', 'n1')
    for i, node in enumerate([n2, n3, n1]):
        node.stop()
        move(node, '127.0.1.%d' % (node.index), listen_cluster='7801' if node is n3 else None)
        node.start()
        cluster.wait_running([node])
        all_know(cluster)
    assert call(n2, 'user', 'lock', 'w')[0] == 0
    assert n1.json('node', 'show', 'n3')['cluster_port'] == 7801

    step('a machine that died comes back elsewhere')
    n2.kill()
    move(n2, '127.0.5.2')
    n2.start()
    cluster.wait_running([n2])
    all_know(cluster)

    step('the whole site at once: one is told where the others are')
    for node in cluster.nodes:
        node.kill()
    for node in cluster.nodes:
        move(node, '127.0.9.%d' % node.index)
    edit(n1, peers='n2=127.0.9.2')
    edit(n2, peers='n3=127.0.9.3:7801,gone=127.0.9.9')
    for node in cluster.nodes:
        node.start()
    cluster.wait_running()
    all_know(cluster)
    assert call(n3, 'user', 'unlock', 'w')[0] == 0
    for node in cluster.nodes:
        node.kill()
    for node in cluster.nodes:
        edit(node, peers=None)
        node.start()
    cluster.wait_running()

    step('another timing is refused')
    n3.stop()
    edit(n3, timing='lan')
    n3.start()

    def is_told():
        with open(n3.log) as f:
            return 'all nodes must have the same' in f.read()
    wait('n3 is told', is_told)
    assert call(n1, 'user', 'lock', 'w')[0] == 0
    assert all(s['state'] != 'started' for s in n3.json('service', 'list', 'n3') if s['kind'] == 'feature')
    n3.kill()
    edit(n3, timing=None)
    n3.start()
    cluster.wait_running([n3])

    step('a bad hint is refused')
    n3.stop()
    edit(n3, peers='n1')
    p = n3.run_once('run', '--data', n3.dir, check=False)
    assert p.returncode == 78 and 'NAME=ADDR' in p.stderr, p.stderr
    edit(n3, peers=None)
    n3.start()
    cluster.wait_running([n3])
    cluster.check_equal()


if __name__ == '__main__':
    run_test(test)
