#!/usr/bin/python3
"""Every administrative write of impcli leaves a record with its result, whether it was done or refused: all of the
node's table of commands, so that a new command cannot be forgotten."""
import os
import re
import subprocess

from harness import ROOT, Failed, run_test, step, wait

# What to call each WRITE command with: what is done, and what is refused. Put in order.
CALLS = {
    ('user', 'add'): (['ann', '--password-stdin'], ['ann', '--password-stdin']),
    ('user', 'import'): (['-'], ['-']),
    ('user', 'passwd'): (['ann', '--password-stdin'], ['nobody', '--password-stdin']),
    ('user', 'lock'): (['ann'], ['nobody']),
    ('user', 'unlock'): (['ann'], ['nobody']),
    ('user', 'assign'): (['ann', '--node', 'n1'], ['ann', '--node', 'n9']),
    ('user', 'unassign'): (['ann'], ['nobody']),
    ('user', 'balance'): ([], None),
    ('user', 'mode'): (['none'], ['sometimes']),
    ('user', 'remove'): (['ann'], ['ann']),
    ('dbreplication', 'setrepltimeout'): (['120'], ['1']),
    ('dbreplication', 'repair'): (None, ['n9']),
    ('dbreplication', 'reset'): (None, ['n9']),
    ('node', 'token'): ([], ['--ttl', 'soon']),
    ('node', 'remove'): (None, ['n1']),
    ('node', 'promote'): (['n1'], ['n9']),
    ('node', 'leader'): (['n1'], ['n9']),
    ('node', 'drain'): (None, ['n1']),
    ('node', 'undrain'): (['n1'], ['n9']),
    ('node', 'rotate-keys'): ([], None),
    ('service', 'start'): (['xmpp'], ['nothing']),
    ('service', 'stop'): (['xmpp'], ['nothing']),
    ('service', 'restart'): (['xmpp'], ['nothing']),
    ('service', 'activate'): (['xmpp'], ['nothing']),
    ('service', 'deactivate'): (['xmpp'], ['nothing']),
    ('sync', 'start'): (None, []),
    ('sync', 'stop'): (None, []),
    ('settings', 'set'): (['axl.interval', '5'], ['axl.interval', '-5']),
    ('settings', 'unset'): (['axl.interval'], ['nothing.like.it']),
    ('settings', 'apply'): (['-'], ['-']),
    ('cert', 'import'): ('certificate', ['--domain', 'example.com', '--cert', '/dev/null', '--key', '/dev/null']),
    ('session', 'kick'): (None, ['nobody']),
    ('log', 'level'): (['info'], ['loud']),
    ('alarm', 'ack'): (None, ['4711']),
    ('backup', ''): ('backup', None),
}
INPUT = {'import': ('bob,secret\n', 'x y,secret\n'), 'apply': ('axl.interval: 7\n', 'axl.interval: no\n')}


def table():
    """Commands that write, from the table itself."""
    with open(os.path.join(ROOT, 'node', 'rpc', 'commands.def')) as f:
        lines = re.findall(r'^X\((.*)\)$', f.read(), re.M)
    out = []
    for line in lines:
        words = re.findall(r'"([^"]*)"', line)
        if re.search(r'\bWRITE\b', re.sub(r'"[^"]*"', '""', line)):
            out.append((words[0], words[1]))
    return out


def certificate(cluster):
    cert, key = os.path.join(cluster.dir, 'c.pem'), os.path.join(cluster.dir, 'c.key')
    subprocess.run(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '60', '-subj',
                    '/CN=example.com', '-addext', 'subjectAltName=DNS:example.com', '-keyout', key, '-out', cert], check=True,
                   stderr=subprocess.DEVNULL)
    return ['--domain', 'example.com', '--cert', cert, '--key', key]


def records(node):
    return node.json('audit', 'list', '--limit', '1000')


def test(cluster):
    cluster.start()
    node = cluster.nodes[0]
    commands = table()
    assert len(commands) > 30, commands
    missing = set(commands) - set(CALLS)
    assert not missing, 'commands of which this test knows nothing: %s' % sorted(missing)
    step('%d commands that write' % len(commands))
    order = [c for c in CALLS if c in commands]
    for area, verb in order:
        done, refused = CALLS[area, verb]
        if done == 'certificate':
            done = certificate(cluster)
        if done == 'backup':
            done = [os.path.join(cluster.dir, 'backup'), '--without-keys']
        for i, args in enumerate((done, refused)):
            if args is None:
                continue
            before = len(records(node))
            stdin = INPUT.get(verb, ('secret\n', 'secret\n'))[i]
            p = node.cli(*[w for w in (area, verb) if w], *args, check=False, stdin=stdin)
            assert p.returncode == i, '%s %s %s: %d %s' % (area, verb, args, p.returncode, p.stderr)

            def recorded():
                now = records(node)
                new = [r for r in now if r['command'].startswith(('%s %s' % (area, verb)).strip())][-1:]
                return len(now) > before and new
            r = wait('%s %s %s is in the audit' % (area, verb, 'is refused, which' if i else ''), recorded)[0]
            assert r['who'] == 'root' and r['node'] == 'n1', r
            if i:
                assert r['result'] != 'done' and r['result'].strip(), r
                said = p.stderr.strip().split(': ', 1)[-1]
                assert r['result'][:40] in p.stderr or said[:40] in r['result'], '%r was told, %r recorded' % (p.stderr, r)
            else:
                assert r['result'] == 'done', r
    step('a look is no write')
    before = len(records(node))
    node.cli('user', 'mode')
    node.cli('user', 'balance', '--dry-run')
    node.cli('settings', 'list')
    node.cli('alarm', 'list')
    assert len(records(node)) == before, records(node)[before:]
    words = str(records(node))
    assert 'secret' not in words, 'no secret is in the audit'


if __name__ == '__main__':
    run_test(test, n=1)
