#!/usr/bin/python3
"""impcli on a real cluster: any node answers, what belongs to another node reaches it, roles move, a node is taken out, put
back and removed, a certificate is replaced, group imp-admin may administer, others may not."""
import json
import os
import ssl
import subprocess
import urllib.error
import urllib.request

from harness import IMPCLI, Failed, run_test, sh, step, wait


def rows(node, *args):
    return {r['name']: r for r in node.json(*args)}


def cluster_facts(node):
    return node.json('dbreplication', 'runtimestate')['cluster']


def refused(node, *args, words=(), stdin=None):
    p = node.cli(*args, check=False, stdin=stdin)
    assert p.returncode == 1, '%s: status %d, %s' % (args, p.returncode, p.stderr)
    for w in words:
        assert w in p.stderr, '%s does not say %r: %s' % (args, w, p.stderr)


def fetch(node, path):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen('https://%s:8443%s' % (node.address, path), context=context, timeout=10) as r:
            return r.status, r.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


def services(node, of):
    return {s['name']: s for s in node.json('service', 'list', of.name)}


def self_signed(cluster, domain):
    cert, key = os.path.join(cluster.dir, 'new.pem'), os.path.join(cluster.dir, 'new.key')
    subprocess.run(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '30', '-subj',
                    '/CN=' + domain, '-addext', 'subjectAltName=DNS:' + domain, '-keyout', key, '-out', cert], check=True,
                   stderr=subprocess.DEVNULL)
    return cert, key


def presented(node):
    pem = ssl.get_server_certificate((node.address, 5223), timeout=10)
    return subprocess.run(['openssl', 'x509', '-noout', '-issuer'], input=pem, capture_output=True, text=True, check=True).stdout


def permissions(n1):
    step('members of imp-admin may, others may not')
    uid = subprocess.run(['id', '-u', 'nobody'], capture_output=True, text=True).stdout.strip()
    gid = subprocess.run(['getent', 'group', 'imp-admin'], capture_output=True, text=True).stdout.split(':')
    if not uid or not os.access(IMPCLI, os.X_OK):
        return

    def as_user(*groups):
        return subprocess.run(['setpriv', '--reuid', uid, '--regid', groups[0], '--clear-groups', IMPCLI, '--socket',
                               os.path.join(n1.dir, 'admin.sock'), 'node', 'list'], capture_output=True, text=True)
    p = as_user('65534')
    assert p.returncode == 1 and 'imp-admin' in p.stderr, 'a stranger: status %d, %s' % (p.returncode, p.stderr)
    if len(gid) > 2:
        p = as_user(gid[2])
        assert p.returncode == 0, 'imp-admin: status %d, %s' % (p.returncode, p.stderr)


def test(cluster):
    cluster.start()
    n1, n2, n3 = cluster.nodes
    sh('chmod 755 %s' % cluster.dir)

    step('every node answers every command alike')
    names = [n['name'] for n in n1.json('node', 'list')]
    assert names == ['n1', 'n2', 'n3'], names
    for node in cluster.nodes:
        assert [n['name'] for n in node.json('node', 'list')] == names
        facts = cluster_facts(node)
        assert facts['publisher'] == 'n1' and facts['leader'], facts
        assert len(node.json('service', 'list')) == 30, 'three nodes, ten services'
        text = node.cli('dbreplication', 'runtimestate')
        assert text.count('(2) Setup Completed') == 3 and text.count('Y/Y/Y') == 3, text
        assert fetch(node, '/healthz') == (200, 'ok\n')
        status, body = wait('%s is ready' % node.name, lambda: (lambda r: r if r[0] == 200 else None)(fetch(node, '/readyz')))
        assert json.loads(body)['ready'] is True
        assert 'imp_raft_commit_index' in fetch(node, '/metrics')[1]
    permissions(n1)

    step('settings: all or nothing, one node may differ, secrets are not shown')
    refused(n2, 'settings', 'apply', '-', stdin='axl.interval: 5\naxl.interval2: 6\n', words=['line 2', 'axl.interval2'])
    assert n1.cli('settings', 'get', 'axl.interval') == '10\n'
    n2.cli('settings', 'apply', '-', stdin='# two\naxl.interval: 5\nnode.n3.limits.sessions_per_user: 3\n')
    wait('n3 has it', lambda: n3.cli('settings', 'get', 'axl.interval') == '5\n')
    for i in range(20):  # sealed bytes are random
        n3.cli('settings', 'set', 'axl.password', stdin='geheim%d\n' % i)
    for node in cluster.nodes:
        wait('the secret is set', lambda: node.cli('settings', 'get', 'axl.password') == '(set)\n')
    n1.cli('settings', 'unset', 'axl.password')
    audit = n2.json('audit', 'list')
    assert any(a['command'] == 'settings set axl.password' and a['who'] == 'root' and a['node'] == 'n3' for a in audit), audit[-3:]
    assert 'geheim' not in json.dumps(audit)

    step('services of another node')
    n1.cli('service', 'stop', 'xmpp', 'n3')
    assert services(n2, n3)['xmpp']['state'] == 'stopped'
    status, body = fetch(n3, '/readyz')
    assert status == 503 and 'xmpp' in body, body
    n2.cli('service', 'start', 'xmpp', 'n3')
    wait('xmpp of n3 is back', lambda: services(n1, n3)['xmpp']['state'] == 'started')
    n1.cli('service', 'deactivate', 'xmpp', 'n2')
    wait('xmpp of n2 stops', lambda: services(n3, n2)['xmpp']['state'] == 'stopped')
    n3.cli('service', 'activate', 'xmpp', 'n2')
    wait('xmpp of n2 is back', lambda: services(n1, n2)['xmpp']['state'] == 'started')

    step('roles move')
    for target in ('n2', 'n3', 'n1'):
        n1.cli('node', 'leader', target)
        wait('%s leads' % target, lambda: cluster_facts(n2)['leader'] == target)
    n3.cli('node', 'promote', 'n2')
    wait('n2 is the publisher', lambda: cluster_facts(n1)['publisher'] == 'n2')
    assert n3.json('sync', 'status')['node'] == 'n2'
    n1.cli('node', 'promote', 'n1')
    wait('n1 is the publisher', lambda: cluster_facts(n3)['publisher'] == 'n1')

    step('a certificate for clients')
    cert, key = self_signed(cluster, 'example.com')
    refused(n2, 'cert', 'import', '--domain', 'other.org', '--cert', cert, '--key', key, words=['other.org'])
    assert 'imp CA' in presented(n3)
    n2.cli('cert', 'import', '--domain', 'example.com', '--cert', cert, '--key', key)
    for node in cluster.nodes:
        wait('%s presents it' % node.name, lambda: 'example.com' in presented(node))

    step('users: homes, lock, kick')
    cluster.add_local_users(['u%d' % i for i in range(9)], n2)
    assert all(r['users'] == 3 for r in n3.json('user', 'count') if r['node'].startswith('n')), n3.json('user', 'count')
    n3.cli('user', 'assign', 'u0', 'u1', '--node', 'n3')
    assert n1.json('user', 'show', 'u0')['assigned_by'] == 'manual'
    n1.cli('user', 'balance')
    assert n2.json('user', 'show', 'u1')['home'] == 'n3'
    n1.cli('user', 'lock', 'u2')
    assert n2.json('user', 'show', 'u2') is not None
    refused(n1, 'session', 'kick', 'u2', words=['no such session'])

    step('drain, undrain, remove')
    n1.cli('node', 'drain', 'n2')
    wait('u1 stays, users of n2 are served elsewhere',
         lambda: all(n1.json('user', 'show', u['user'])['active_home'] != 'n2' for u in n1.json('user', 'list', '--node', 'n2')))
    status, body = fetch(n2, '/readyz')
    assert status == 503 and 'drained' in body, body
    n2.cli('node', 'undrain', 'n2')
    wait('n2 is ready', lambda: fetch(n2, '/readyz')[0] == 200)
    step('a fresh copy')
    pid = n3.worker_pid()
    n1.cli('dbreplication', 'repair', 'n3')
    wait('n3 has started again', lambda: n3.worker_pid() != pid)
    cluster.wait_running([n3])
    cluster.check_equal()
    refused(n2, 'node', 'remove', 'n1', words=['publisher'])
    n2.cli('node', 'remove', 'n3')
    wait('n3 is gone', lambda: [n['name'] for n in n1.json('node', 'list')] == ['n1', 'n2'])
    assert sum(r['users'] for r in n1.json('user', 'count')) == 9
    wait('two voters are no redundancy', lambda: any(a['name'] == 'NoRedundancy' for a in n1.json('alarm', 'list')))
    cluster.nodes.remove(n3)
    n3.kill()
    cluster.check_equal()

    step('a witness')
    w = cluster.new_node()
    w.name, w.index = 'n4', 4
    w.dir, w.address = os.path.join(cluster.dir, 'n4'), '127.0.0.4'
    w.log = w.dir + '.log'
    w.join(n2, cluster.token(n2), extra=['--witness'])
    w.start()
    wait('three voters', lambda: not any(a['name'] == 'NoRedundancy' for a in n1.json('alarm', 'list')), 60)
    assert rows(n1, 'node', 'list')['n4']['role'] == 'witness'
    assert all(r['users'] == 0 for r in n1.json('user', 'count') if r['node'] == 'n4')
    cluster.check_equal()


if __name__ == '__main__':
    run_test(test)
