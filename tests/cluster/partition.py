#!/usr/bin/python3
"""The leader is cut off while clients write through it and through the others: no acknowledged write is lost, the minority
refuses with a plain reason, and all is whole again soon after the link is back."""
import time

from harness import SLOW, run_test, step, wait
from kill_leader import Writer, users


def cluster_facts(node):
    return node.json('dbreplication', 'runtimestate')['cluster']


def one_round(cluster, number):
    leader = wait('there is a leader', cluster.leader)
    others = [n for n in cluster.nodes if n is not leader]
    step('round %d: %s is cut off' % (number, leader.name))
    group = [Writer(n, 'p%d-%s-' % (number, n.name)) for n in cluster.nodes]
    for w in group:
        w.start()
    wait('writes flow', lambda: all(len(w.acknowledged) > 5 for w in group))
    leader.cut()
    cut = time.monotonic()
    wait('writes go on in the majority', lambda: all(any(t > cut + 2 for t in w.times) for w in group if w.node is not leader))
    wait('the majority has a leader', lambda: cluster_facts(others[0])['leader'] in [n.name for n in others])
    wait('the minority has been alone for a while', lambda: time.monotonic() > cut + 8)
    p = leader.cli('user', 'add', 'minority%d' % number, '--password-stdin', stdin='secret\n', check=False)
    assert p.returncode == 1 and 'majority' in p.stderr, 'the minority answers %d: %s' % (p.returncode, p.stderr)
    late = [t for w in group if w.node is leader for t in w.times if t > cut + 5 * SLOW]
    assert not late, 'the minority acknowledged writes'
    wait('it says that it is not served', lambda: not leader.runs_services() or cluster_facts(leader)['leader'] in (None, ''))
    wait('there is an alarm', lambda: any(a['node'] == leader.name and a['name'] == 'NodeDown'
                                          for a in others[0].json('alarm', 'list')))
    leader.heal()
    healed = time.monotonic()
    wait('%s is back' % leader.name, lambda: leader.runs_services() and leader.cli('user', 'add', 'healed%d' % number,
                                                                                  '--password-stdin', stdin='secret\n'))
    took = time.monotonic() - healed
    assert took < 10 * SLOW, 'healing took %.1f s' % took
    for w in group:
        w.stop = True
    for w in group:
        w.join()
    cluster.check_equal()
    for node in cluster.nodes:
        there = users(node)
        for w in group:
            missing = set(w.acknowledged) - there
            assert not missing, '%s lost acknowledged writes of %s: %s' % (node.name, w.node.name, sorted(missing)[:5])
    print('round %d: whole again %.1f s after the link was back; %s acknowledged, %s unknown' %
          (number, took, [len(w.acknowledged) for w in group], [len(w.unknown) for w in group]))


def test(cluster):
    cluster.start()
    for number in range(2):
        one_round(cluster, number)
    wait('no alarm is left', lambda: not [a for a in cluster.nodes[0].json('alarm', 'list') if a['name'] != 'NoRedundancy'])


if __name__ == '__main__':
    run_test(test, lan=True)
