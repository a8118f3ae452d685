#!/usr/bin/python3
"""Keys and certificates under load: another key is nobody, the cluster key and the CA are changed while the leader dies at
every step and a node is away, a removed node's directory is worthless, certificates renew by themselves."""
import hashlib
import os
import random
import shutil
import socket
import ssl
import subprocess
import threading
import time

from adminrpc import Writers
from harness import IMPNODE, SLOW, Failed, run_test, step, wait


def openssl(*args, **kw):
    return subprocess.run(['openssl', *args], capture_output=True, text=True, check=True, **kw).stdout


def issuer(pem_file):
    return openssl('x509', '-in', pem_file, '-noout', '-issuer').strip()


def serial(pem_file):
    return openssl('x509', '-in', pem_file, '-noout', '-serial').strip()


def n_certs(pem_file):
    with open(pem_file) as f:
        return f.read().count('BEGIN CERTIFICATE')


def ring(node):
    """The cluster keys that a node holds."""
    with open(os.path.join(node.dir, 'keys', 'cluster.keys'), 'rb') as f:
        data = f.read()
    return [data[i:i + 32] for i in range(0, len(data) - 32, 32)]


def is_let_in(node, alpn, cert, key):
    """Does the node listen to who comes with this certificate?"""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols([alpn])
    with socket.create_connection((node.address, 7800), timeout=10) as raw:
        try:
            with context.wrap_socket(raw) as s:
                s.settimeout(1)
                try:
                    return s.recv(100) != b''
                except socket.timeout:
                    return True
        except OSError:
            return False


def forged(cluster, node_id):
    """A certificate of a CA of one's own for another's id."""
    d, cluster_id = cluster.dir, cluster.nodes[0].json('dbreplication', 'runtimestate')['cluster']['id']
    key, cert = os.path.join(d, 'forged.key'), os.path.join(d, 'forged.pem')
    openssl('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '30', '-subj',
            '/CN=%d' % node_id, '-addext', 'subjectAltName=URI:imp:cluster:%s,URI:imp:node:%d' % (cluster_id, node_id),
            '-keyout', key, '-out', cert)
    return cert, key


def who_may_speak(cluster):
    step('a member is known by its key')
    n1, n2, n3 = cluster.nodes[:3]
    for alpn in ('imp-raft/1', 'imp-link/1'):
        own = os.path.join(n2.dir, 'node.pem'), os.path.join(n2.dir, 'keys', 'node.key')
        assert is_let_in(n1, alpn, *own), 'n2 may speak %s' % alpn
        for node_id in (2, 3, 99):
            assert not is_let_in(n1, alpn, *forged(cluster, node_id)), 'a forged node %d may speak %s' % (node_id, alpn)


def remove_a_dead_one(cluster):
    step('n4 is away and is removed')
    n1, n4 = cluster.nodes[0], cluster.nodes[3]
    n4.kill()
    n1.cli('node', 'remove', 'n4')
    cluster.nodes.remove(n4)
    return n4


def change_keys(cluster, writers):
    step('the keys are changed; n3 is away, and whoever leads dies')
    n1, n2, n3 = cluster.nodes
    old_ring, old_ca = ring(n1), issuer(os.path.join(n1.dir, 'node.pem'))
    secret_before = n1.json('settings', 'get', 'axl.password')
    n1.cli('settings', 'set', 'certificates.life', '20')
    n3.kill()
    asked = subprocess.Popen(n2.command(os.path.join(os.path.dirname(IMPNODE), '..', 'cli', 'impcli'), '--data', n2.dir, 'node',
                                        'rotate-keys'), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    rng = random.Random(4)
    for i in range(4):
        time.sleep(rng.uniform(0.05, 0.4))
        leader = cluster.leader()
        try:
            if leader:
                leader.kill_worker()
        except OSError:
            continue
        wait('there is a leader again', cluster.leader, 60)
    out, err = asked.communicate(timeout=60 * SLOW)
    print('rotate-keys said: %s%s' % (out.strip(), err.strip()))

    def begun():
        return len(ring(n1)) > 1 or ring(n1) != old_ring
    if not begun():  # the leader died before it said so: once more is right
        wait('the change begins', lambda: n1.cli('node', 'rotate-keys', check=False).returncode == 0)
    wait('n1 and n2 have only the new key', lambda: len(ring(n1)) == len(ring(n2)) == 1 and ring(n1) == ring(n2) != old_ring, 60)
    for node in (n1, n2):
        wait('%s has a certificate of the new CA' % node.name, lambda: issuer(os.path.join(node.dir, 'node.pem')) != old_ca)
    p = n1.cli('node', 'rotate-keys', check=False)
    assert p.returncode == 1 and 'being changed already' in p.stderr, p.stderr
    assert ring(n3) == old_ring

    step('n3 comes back with its old key and certificate')
    n3.start()
    cluster.wait_running([n3])
    wait('n3 has the new key alone', lambda: ring(n3) == ring(n1))
    for node in cluster.nodes:
        wait('%s trusts the new CA alone' % node.name, lambda: n_certs(os.path.join(node.dir, 'ca.pem')) == 1)
        assert issuer(os.path.join(node.dir, 'node.pem')) != old_ca
    assert n3.json('settings', 'get', 'axl.password') == secret_before
    n3.cli('settings', 'set', 'axl.password', stdin='another\n')
    for node in cluster.nodes:
        node.kill_worker()
    cluster.wait_running()
    for node in cluster.nodes:
        with open(node.log, errors='replace') as f:
            tail = f.read().rsplit('pid ', 1)[1]
            assert 'cannot be opened' not in tail and 'does not have' not in tail, 'a secret is lost on %s' % node.name
    n1.cli('node', 'leader', 'n2')


def the_removed_one(cluster, n4):
    step('n4 is started again')
    n1 = cluster.nodes[0]
    for alpn in ('imp-link/1',):
        assert not is_let_in(n1, alpn, os.path.join(n4.dir, 'node.pem'), os.path.join(n4.dir, 'keys', 'node.key')), alpn
    p = subprocess.run([IMPNODE, 'run', '--data', n4.dir], capture_output=True, text=True, timeout=60 * SLOW)
    assert p.returncode == 78 and 'was removed from the cluster' in p.stderr, p.stderr
    n4.join(n1, cluster.token(), check=False)
    shutil.rmtree(n4.dir)
    n4.join(n1, cluster.token())
    n4.start()
    cluster.nodes.append(n4)
    cluster.wait_running([n4])
    assert ring(n4) == ring(n1)


def renewals(cluster, writers):
    step('certificates renew by themselves')
    pems = [os.path.join(n.dir, 'node.pem') for n in cluster.nodes]
    before = [serial(p) for p in pems]
    shown = ssl.get_server_certificate((cluster.nodes[0].address, 5223), timeout=10)
    wait('all have renewed', lambda: all(serial(p) != s for p, s in zip(pems, before)), 40)
    wait('clients see a new one', lambda: ssl.get_server_certificate((cluster.nodes[0].address, 5223), timeout=10) != shown, 40)
    time_left = openssl('x509', '-noout', '-checkend', '0', '-in', pems[0])
    assert 'will not expire' in time_left
    victim = cluster.nodes[1]
    victim.kill_worker()
    cluster.wait_running([victim])
    wait('the connections are there again', lambda: victim.json('dbreplication', 'runtimestate')['cluster']['leader'])
    for node in cluster.nodes:
        with open(node.log, errors='replace') as f:
            refusals = [line for line in f if 'refused imp-' in line and 'node 4' not in line and 
                        'another one' not in line and 'not known here' not in line]
            assert not refusals, '%s refused a member: %s' % (node.name, refusals[:3])


def test(cluster):
    cluster.start()
    n1 = cluster.nodes[0]
    cluster.add_local_users(['w%d' % i for i in range(2)])
    n1.cli('settings', 'set', 'axl.password', stdin='top secret\n')
    who_may_speak(cluster)
    n4 = remove_a_dead_one(cluster)
    writers = Writers(n1, ['w0', 'w1'])
    change_keys(cluster, writers)
    the_removed_one(cluster, n4)
    at = time.monotonic()
    renewals(cluster, writers)
    assert writers.count_after(at) > 50, 'writes go on'
    writers.end()
    cluster.check_equal()


if __name__ == '__main__':
    run_test(test, n=4)
