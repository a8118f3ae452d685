#!/usr/bin/python3
"""Joining: every refusal has its own message and leaves nothing half done; a half-made join is finished by the same
command; copied data directories are refused."""
import os
import shutil
import time

from harness import run_test, step, wait


def refused(node, member, token, *words, extra=()):
    p = node.join(member, token, check=False, extra=extra)
    assert p.returncode != 0, 'a join went through that must be refused (%s)' % ' '.join(words)
    text = (p.stdout + p.stderr).lower()
    for w in words:
        assert w in text, 'the refusal does not say %r: %s' % (w, text)


def names(node):
    return [n['name'] for n in node.json('node', 'list')]


def test(cluster):
    n1, n2, n3 = cluster.nodes
    n1.init()
    p = n1.run_once('init', '--data', n1.dir, '--name', 'x', '--address', '127.0.0.1', '--domain', 'example.com', check=False)
    assert p.returncode != 0 and 'empty' in (p.stdout + p.stderr), 'init took a directory in use: %s' % p.stderr
    n1.start()
    wait('n1 answers', lambda: n1.cli('node', 'list'))

    step('no member answers there')
    token = cluster.token()
    p = n2.join(n3, token, check=False)
    assert p.returncode != 0 and '127.0.0.3:7800' in p.stdout + p.stderr, p.stderr
    step('a mistyped token, a wrong one (of another secret)')
    refused(n2, n1, token[:-3] + 'AAA', 'token')
    step('a name, an address that is taken')
    n2.name, good = 'n1', n2.name
    refused(n2, n1, token, 'name', 'n1')
    n2.name = good
    n2.address, good = '127.0.0.1', n2.address
    refused(n2, n1, token, 'address')
    n2.address = good
    step('a refusal does not use the token up')
    n2.join(n1, token)
    assert names(n1) == ['n1', 'n2']
    step('the same command again is a finished join, another directory is a used token')
    n2.join(n1, token)
    refused(n3, n1, token, 'used')
    assert names(n1) == ['n1', 'n2']
    assert not os.path.exists(os.path.join(n3.dir, 'node.pem'))
    n2.start()
    cluster.wait_running([n1, n2])

    step('through any member')
    n3.join(n2, cluster.token(n2))
    n3.start()
    cluster.wait_running()
    cluster.wait_voters()

    step('a copied data directory does not start')
    copy = cluster.new_node()
    n3.stop()
    shutil.copytree(n3.dir, copy.dir)
    p = copy.run_once('run', '--data', copy.dir, check=False, timeout=20)
    assert p.returncode != 0 and 'cop' in (p.stdout + p.stderr).lower(), p.stderr
    n3.start()
    cluster.wait_running([n1, n2, n3])
    cluster.nodes.remove(copy)

    step('removed: it may not speak any more, its name is free again')
    n1.cli('node', 'remove', 'n3')
    assert names(n1) == ['n1', 'n2']
    n3.kill()
    shutil.rmtree(n3.dir)
    cluster.add(n3, n2)
    cluster.wait_running()
    cluster.check_equal()


if __name__ == '__main__':
    run_test(test)
