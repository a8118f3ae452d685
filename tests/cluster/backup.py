#!/usr/bin/python3
"""A backup of a cluster under write load, and a new cluster made of it: users log in, get their rosters and stored messages,
the secrets open, a further node joins. The old cluster goes on beside it, and its nodes cannot speak to the new one, even
where it has the address of one of them. Damaged files, a wrong passphrase and a directory in use are refused."""
import asyncio
import os
import random
import socket
import ssl
import subprocess
import threading

from harness import IMPNODE, SLOW, run_test, step, wait
from xmpp import Client, body_of

PASSPHRASE = 'correct horse battery'


class Load(threading.Thread):
    def __init__(self, node, number):
        super().__init__(daemon=True)
        self.node, self.number, self.stop, self.done, self.error = node, number, False, [], None

    def run(self):
        while not self.stop:
            user = 'w%d-%d' % (self.number, len(self.done))
            p = self.node.cli('user', 'add', user, '--password-stdin', stdin='pw\n', check=False)
            if p.returncode:
                self.error = p.stderr
                return
            self.done.append(user)


def impnode(*args, stdin=None):
    return subprocess.run([IMPNODE] + [str(a) for a in args], capture_output=True, text=True, input=stdin, timeout=120 * SLOW)


async def prepare(cluster):
    """ann has bob on her roster and three messages wait for bob."""
    c = await Client('ann', host=cluster.nodes[0].address, ca=cluster.ca).log_in('a')
    await c.iq('set', "<query xmlns='jabber:iq:roster'><item jid='bob@example.com' name='Bob the builder'/></query>")
    for i in range(3):
        c.message('bob@example.com', 'waiting %d' % i)
    await c.iq('get', "<ping xmlns='urn:xmpp:ping'/>", id='p')
    await c.close()


async def use(node, ca):
    a = await Client('ann', host=node.address, ca=ca).log_in('a')
    assert 'Bob the builder' in await a.roster()
    b = await Client('bob', host=node.address, ca=ca).log_in('b')
    b.presence()
    for i in range(3):
        assert body_of(await b.expect(lambda s: s.startswith('<message'))) == 'waiting %d' % i
    a.message('bob@example.com', 'new')
    assert body_of(await b.expect(lambda s: s.startswith('<message'))) == 'new'
    await a.close()
    await b.close()


def refusals(cluster, path, old):
    """Each with its own message."""
    size = os.path.getsize(path)
    with open(path, 'rb') as f:
        data = f.read()
    bad = path + '.bad'
    rng = random.Random(7)
    for at in [3, 7, 9, 40, size // 2, size - 1] + [rng.randrange(size) for _ in range(4)]:
        with open(bad, 'wb') as f:
            f.write(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1:])
        p = impnode('restore', bad, '--dry-run')
        assert p.returncode == 1 and p.stderr, 'a changed byte at %d is not noticed: %s' % (at, p.stdout)
    with open(bad, 'wb') as f:
        f.write(data[:size * 2 // 3])
    p = impnode('restore', bad, '--dry-run')
    assert p.returncode == 1 and 'cut short' in p.stderr, p.stderr
    where = ['--data', os.path.join(cluster.dir, 'x'), '--name', 'x', '--address', '127.0.0.9']
    p = impnode('restore', bad, *where, '--without-keys')
    assert p.returncode == 1 and 'cut short' in p.stderr, p.stderr
    p = impnode('restore', path, *where, '--passphrase-stdin', stdin='wrong\n')
    assert p.returncode == 1 and 'passphrase is wrong' in p.stderr, p.stderr
    p = impnode('restore', path, *where, stdin='')
    assert p.returncode == 1 and '--passphrase-stdin' in p.stderr, p.stderr
    p = impnode('restore', path, '--data', old.dir, '--name', 'x', '--address', '127.0.0.9', '--without-keys')
    assert p.returncode == 1 and ('not empty' in p.stderr or 'impnode.yaml' in p.stderr or old.dir in p.stderr), p.stderr


def tail(node, begin):
    with open(node.log, errors='replace') as f:
        f.seek(begin)
        return f.read()


def speak_as(old, node, alpn):
    """With the old node's certificate, and not caring about the other side's."""
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    tls.load_cert_chain(os.path.join(old.dir, 'node.pem'), os.path.join(old.dir, 'keys', 'node.key'))
    tls.set_alpn_protocols([alpn])
    try:
        with socket.create_connection((node.address, 7800), timeout=10 * SLOW) as raw:
            with tls.wrap_socket(raw) as s:
                data = s.recv(100)
    except (ssl.SSLError, ConnectionError) as e:
        assert 'timed out' not in str(e), e
        data = b''
    assert not data, '%s: an old node was let in and heard %r' % (alpn, data)


def test(cluster):
    cluster.start()
    n1, n2, n3 = cluster.nodes
    cluster.add_local_users(['ann', 'bob'] + ['user%03d' % i for i in range(100)])
    n1.cli('user', 'assign', 'ann', '--node', 'n2')
    n1.cli('settings', 'set', 'axl.password', stdin='secret\n')
    n1.cli('settings', 'set', 'limits.sessions_per_user', '7')
    n1.cli('settings', 'set', 'node.n1.limits.sessions_per_user', '5')
    asyncio.run(prepare(cluster))

    step('a backup under load')
    loads = [Load(node, i) for i, node in enumerate((n1, n3))]
    for load in loads:
        load.start()
    wait('there is load', lambda: all(len(load.done) > 5 for load in loads))
    before = [list(load.done) for load in loads]
    n2_applied = n2.json('user', 'list', '--current')
    path = os.path.join(cluster.dir, 'backup')
    made = n2.json('backup', path, '--passphrase-stdin', stdin=PASSPHRASE + '\n')
    st = os.stat(path)
    assert st.st_mode & 0o777 == 0o600 and st.st_size == made['bytes'] and made['keys'], (st, made)
    for load in loads:
        load.stop = True
        load.join(60 * SLOW)
        assert not load.error, load.error
    p = n2.cli('backup', path, '--without-keys', check=False)
    assert p.returncode == 1 and 'exists already' in p.stderr and os.stat(path).st_size == st.st_size
    wait('the audit has it', lambda: any(a['command'].startswith('backup /') and a['node'] == 'n2' and a['result'] == 'done'
                                         for a in n1.json('audit', 'list')))
    assert not [f for f in os.listdir(cluster.dir) if f.startswith('backup') and f != 'backup']
    assert PASSPHRASE not in n1.cli('audit', 'list')
    refusals(cluster, path, n1)

    step('a new cluster, at the address of an old node')
    n3.stop()
    tried_from = os.path.getsize(n1.log)
    r1 = cluster.new_node()
    r1.name, r1.address = 'r1', n3.address
    r1.dir, r1.log = os.path.join(cluster.dir, 'r1'), os.path.join(cluster.dir, 'r1.log')
    p = impnode('restore', path, '--data', r1.dir, '--name', 'r1', '--address', r1.address, '--passphrase-stdin',
                stdin=PASSPHRASE + '\n')
    assert p.returncode == 0 and '1 secrets are sealed' in p.stdout, p.stdout + p.stderr
    r1.start()
    wait('r1 answers', lambda: r1.cli('node', 'list'))
    cluster.wait_running([r1])
    state = r1.json('dbreplication', 'runtimestate')
    assert [n['name'] for n in state['nodes']] == ['r1'] and state['cluster']['publisher'] == 'r1', state
    assert state['cluster']['id'] != n1.json('dbreplication', 'runtimestate')['cluster']['id']
    users = {u['user']: u for u in r1.json('user', 'list')}
    for done in before:
        assert set(done) <= set(users), 'acknowledged before the backup and not in it: %s' % (set(done) - set(users))
    assert {u['user'] for u in n2_applied} <= set(users)
    assert set(users) <= {u['user'] for u in n1.json('user', 'list')}, 'users that never were'
    assert {u['home'] for u in users.values()} == {'r1'}
    assert r1.cli('settings', 'get', 'limits.sessions_per_user').strip() == '7'
    assert not [s for s in r1.json('settings', 'list') if s['key'].startswith('node.n1.')]
    assert any('impnode restore' in a['command'] for a in r1.json('audit', 'list'))
    ca = os.path.join(r1.dir, 'ca.pem')
    asyncio.run(use(r1, ca))

    step('the old nodes cannot speak to it')
    wait('n1 has tried and found another cluster', lambda: 'names another cluster' in tail(n1, tried_from))
    for alpn in ('imp-raft/1', 'imp-link/1'):
        speak_as(n1, r1, alpn)
    wait('r1 says that it has refused somebody', lambda: 'names another cluster' in tail(r1, 0))
    old = {n['name']: n for n in n1.json('dbreplication', 'runtimestate')['nodes']}
    assert not old['n3']['rpc'] and old['n3']['age_ms'] < 0, old['n3']
    assert [n['name'] for n in r1.json('node', 'list')] == ['r1']
    n1.cli('user', 'add', 'only-old', '--password-stdin', stdin='pw\n')
    r1.cli('user', 'add', 'only-new', '--password-stdin', stdin='pw\n')
    assert 'only-old' not in r1.cli('user', 'list') and 'only-new' not in n1.cli('user', 'list')

    step('a further node joins')
    r2 = cluster.new_node()
    cluster.add(r2, r1)
    cluster.wait_running([r2])
    assert {u['user'] for u in r2.json('user', 'list')} == set(users) | {'only-new'}
    wait('equal tables', lambda: (lambda s: s['match'] and len(s['nodes']) == 2)(r1.json('dbreplication', 'status')))
    r2.cli('settings', 'set', 'axl.password', stdin='another\n')


if __name__ == '__main__':
    run_test(test)
