#!/usr/bin/python3
"""10,000 users from the call manager: evenly assigned over three nodes; 100 moved by hand stay put through balance and
another full sync; changes come in by the feed; what is gone there goes here."""
import json
import time
import urllib.request

from harness import run_test, wait

N = 10000


def counts(node):
    return {c['node']: c['users'] for c in node.json('user', 'count')}


def control(cluster, method, path, body=None):
    r = urllib.request.Request(cluster.sim_control + path, method=method,
                               data=json.dumps(body).encode() if body is not None else None)
    with urllib.request.urlopen(r, timeout=10) as f:
        return f.read()


def full_sync(cluster):
    before = cluster.sync_status()['completed']
    time.sleep(1.1)  # the time stamp has seconds
    cluster.nodes[0].cli('sync', 'start', '--full')
    wait('the full sync has run', lambda: cluster.sync_status()['completed'] != before, 120)


def test(cluster):
    n1, n2, n3 = cluster.nodes
    cluster.start()
    cluster.start_sim(N)
    began = time.monotonic()
    cluster.configure_sync()
    n1.cli('sync', 'start', '--full')
    wait('the users are there', lambda: cluster.sync_status()['ok'], 180)
    st = cluster.sync_status()
    print('sync of %d users: %.2f s in all, the run itself %d ms' % (N, time.monotonic() - began, st['duration_ms']))
    c = counts(n2)
    assert c.pop('(unassigned)') == 0
    assert sum(c.values()) == N and max(c.values()) - min(c.values()) <= 1, c

    # 100 by hand from n1 to n3
    moved = [u['user'] for u in n1.json('user', 'list', '--node', 'n1')][:100]
    n2.cli('user', 'assign', *moved, '--node', 'n3')
    plan = n1.json('user', 'balance', '--dry-run')
    assert plan['moves'] > 0, plan
    n1.cli('user', 'balance')
    full_sync(cluster)
    on_n3 = {u['user']: u['assigned_by'] for u in n3.json('user', 'list', '--node', 'n3')}
    assert all(on_n3.get(u) == 'manual' for u in moved), 'pinned users moved'
    c = counts(n3)
    assert max(c[n] for n in ('n1', 'n2', 'n3')) - min(c[n] for n in ('n1', 'n2', 'n3')) <= 1, c

    # the change feed: an added, a removed and a renamed user
    n1.cli('settings', 'set', 'axl.interval', '1')
    control(cluster, 'POST', '/users', {'userid': 'newcomer', 'firstName': 'New', 'lastName': 'Comer'})
    control(cluster, 'DELETE', '/users/user0005')
    wait('the change feed brings the newcomer', lambda: n2.json('user', 'show', 'newcomer')['home'])
    wait('the removed one goes', lambda: n2.cli('user', 'show', 'user0005', check=False).returncode == 1)
    cluster.check_equal()


if __name__ == '__main__':
    run_test(test)
