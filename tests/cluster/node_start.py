#!/usr/bin/python3
"""What impnode says and does when a person or a disk made a mistake: each start is refused once, with one plain message, and not
tried for ever; secrets are nowhere in logs and files; every impcli command with wrong arguments helps."""
import os
import re
import resource
import shutil
import socket
import subprocess

from harness import IMPCLI, IMPNODE, SLOW, run_test, step, wait


def refused(node, *words, data=None, limit=None, user=None):
    command = [IMPNODE, 'run', '--data', data or node.dir]
    if user:
        command = ['setpriv', '--reuid', user, '--regid', user, '--clear-groups'] + command
    p = subprocess.run(command, capture_output=True, text=True, timeout=30 * SLOW,
                       preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))) if limit else None)
    text = p.stdout + p.stderr
    assert p.returncode not in (0, 2), 'status %d: %s' % (p.returncode, text)
    for w in words:
        assert w in text, 'it does not say %r: %s' % (w, text)
    assert 'starting it again' not in text, 'tried for ever: %s' % text
    assert 'Sanitizer' not in text, text
    return text


def damaged(node, name, how, *words):
    """HOW(path) damages one file of a stopped node; afterwards it is as before."""
    path, keep = os.path.join(node.dir, name), os.path.join(node.cluster.dir, 'keep')
    assert os.path.exists(path), '%s is no file of a node: %s' % (name, os.listdir(node.dir))
    os.rename(path, keep)  # the file itself comes back: a node knows its identity by the inode too
    shutil.copy2(keep, path)
    how(path)
    text = refused(node, *words)
    assert len(text.strip().splitlines()) <= 4, text
    print('%s: %s' % (name, text.strip().splitlines()[-1]))
    if os.path.exists(path):
        os.unlink(path)
    os.rename(keep, path)


def garble(path):
    with open(path, 'r+b') as f:
        n = os.path.getsize(path)
        f.seek(0)
        f.write(b'\xff' * min(n, 64))


def write(text):
    def how(path):
        with open(path, 'w') as f:
            f.write(text)
    return how


def append(text):
    def how(path):
        with open(path, 'a') as f:
            f.write(text)
    return how


def files(node):
    step('files that are missing or garbled')
    damaged(node, 'impnode.yaml', append('lisen-xmpp: 5222\n'), 'impnode.yaml', 'lisen-xmpp')
    damaged(node, 'impnode.yaml', append('shards: many\n'), 'impnode.yaml', 'shards')
    damaged(node, 'impnode.yaml', write('{[\n'), 'impnode.yaml')
    damaged(node, 'impnode.yaml', os.unlink, 'impnode.yaml')
    for name in ('identity', 'node.pem', 'ca.pem', 'keys/cluster.keys', 'keys/node.key'):
        damaged(node, name, os.unlink, node.dir)
        damaged(node, name, garble, node.dir)
        damaged(node, name, lambda p: os.truncate(p, 0), node.dir)
    step('no directory, another file, not readable')
    refused(node, 'nowhere', data=os.path.join(node.cluster.dir, 'nowhere'))
    refused(node, data='/etc/passwd')
    os.chmod(node.cluster.dir, 0o755)
    text = refused(node, node.dir, user='65534')
    assert 'ermission denied' in text, text


def ports(node):
    step('a port in use')
    for port in (7800, 5222):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((node.address, port))
        s.listen()
        p = subprocess.Popen([IMPNODE, 'run', '--data', node.dir], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            for line in p.stdout:
                if str(port) in line and 'in use' in line:
                    break
            else:
                raise AssertionError('the port %d was not named, status %s' % (port, p.wait()))
        finally:
            p.terminate()
            p.communicate(timeout=30 * SLOW)
            s.close()


def twice(node):
    step('twice on one directory')
    text = refused(node, node.dir)
    assert 'in use' in text or 'already' in text or 'another' in text, text
    assert node.runs_services()


def few_files(node):
    step('few open files')
    out = os.path.join(node.cluster.dir, 'few.log')
    with open(out, 'w') as f:
        p = subprocess.Popen([IMPNODE, 'run', '--data', node.dir], stdout=f, stderr=f,
                             preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80)))
    wait('it runs or says why not', lambda: p.poll() is not None or node.runs_services())
    socks = []
    try:
        for _ in range(100):
            s = socket.socket()
            s.settimeout(1)
            s.connect((node.address, 5222))
            socks.append(s)
    except OSError:
        pass
    for s in socks:
        s.close()
    wait('it answers afterwards', lambda: node.cli('node', 'list'))
    p.terminate()
    assert p.wait(30 * SLOW) == 0
    with open(out) as f:
        text = f.read()
    assert 'open files' in text, text
    assert 'starting it again' not in text, text
    assert len(text) < 200000, 'the log was flooded: %d bytes' % len(text)


def verbs():
    """Every AREA VERB of impcli, from its help."""
    top = subprocess.run([IMPCLI, '--help'], capture_output=True, text=True).stdout
    for area in re.findall(r'^  ([a-z]+)  +\S', top.split('Areas:')[1], re.M):
        text = subprocess.run([IMPCLI, area, '--help'], capture_output=True, text=True)
        assert text.returncode == 0, area
        for verb in re.findall(r'^  ([a-z-]+)(?: |$)', text.stdout, re.M):
            yield area, verb


def wrong_arguments(node):
    step('impcli with wrong arguments')
    n = 0
    for area, verb in verbs():
        for args in (['--no-such-option'], ['a', 'b', 'c', 'd', 'e', 'f', '--json=1']):
            p = node.cli(area, verb, *args, check=False)
            assert p.returncode == 2 and p.stderr.strip(), '%s %s %s: %d %s' % (area, verb, args, p.returncode, p.stderr)
            n += 1
    assert n > 80, 'only %d commands were found' % n
    for args in (['user', 'show', 'nobody'], ['user', 'lock', 'nobody'], ['user', 'remove', 'nobody'], ['node', 'show', 'n9'],
                 ['node', 'remove', 'n9'], ['node', 'promote', 'n9'], ['node', 'drain', 'n9'], ['node', 'leader', 'n9'],
                 ['service', 'stop', 'nothing'], ['service', 'list', 'n9'], ['settings', 'get', 'no.such'],
                 ['settings', 'set', 'limits.stanza_bytes', 'much'], ['settings', 'set', 'limits.stanza_bytes', '1'],
                 ['settings', 'set', 'auth.mode', 'magic'], ['settings', 'set', 'node.n9.auth.mode', 'local'],
                 ['user', 'assign', 'nobody', '--node', 'n1'], ['session', 'kick', 'nobody'], ['alarm', 'ack', '999'],
                 ['cert', 'show', 'other.org'], ['user', 'import', '/no/such/file'], ['user', 'add', 'a b', '--password-stdin'],
                 ['user', 'mode', 'sometimes'], ['dbreplication', 'repair', 'n9'], ['node', 'token', '--ttl', 'soon']):
        p = node.cli(*args, check=False, stdin='secret\n')
        assert p.returncode in (1, 2) and p.stderr.strip(), '%s: %d %s' % (args, p.returncode, p.stderr)
    p = subprocess.run([IMPCLI, '--data', '/nowhere', 'node', 'list'], capture_output=True, text=True)
    assert p.returncode == 3 and 'nowhere' in p.stderr, p.stderr
    for args in (['user', 'add', 'x', '--password-stdin'], ['settings', 'set', 'axl.password']):
        p = node.cli(*args, check=False, stdin='')
        assert p.returncode in (1, 2) and p.stderr.strip(), '%s with no password: %d' % (args, p.returncode)


def secrets(node):
    step('secrets are nowhere')
    words = ['top-secret-of-axl', 'top-secret-of-a-user', 'changed-top-secret']
    node.cli('settings', 'set', 'axl.password', stdin=words[0] + '\n')
    node.cli('user', 'add', 'ann', '--password-stdin', stdin=words[1] + '\n')
    node.cli('user', 'passwd', 'ann', '--password-stdin', stdin=words[2] + '\n')
    node.cli('settings', 'set', 'axl.password', words[0] + 'x', check=False)
    node.stop()
    for where, _, names in os.walk(node.cluster.dir):
        for name in names:
            with open(os.path.join(where, name), 'rb') as f:
                data = f.read()
            for w in words:
                assert w.encode() not in data, '%s has a password' % os.path.join(where, name)


def test(cluster):
    node = cluster.nodes[0]
    node.init()
    files(node)
    ports(node)
    node.start()
    wait('it runs', node.runs_services)
    twice(node)
    wrong_arguments(node)
    secrets(node)
    few_files(node)
    node.start()
    wait('it runs', node.runs_services)


if __name__ == '__main__':
    run_test(test, n=1)
