#!/usr/bin/python3
"""The documents against tables and programs: what the sources have must be in the documents, and links must lead somewhere.

  docs_test.py --root SOURCE --built BUILD/docs --impcli PROGRAM
"""
import argparse
import glob
import os
import re
import shutil
import subprocess
import sys

failures = []


def check(good, text):
    if not good:
        failures.append(text)


def read(*parts):
    with open(os.path.join(*parts), encoding='utf-8') as f:
        return f.read()


def xmacro(text):
    """Arguments of each X(...) line of a .def file, roughly: strings and words."""
    for line in re.findall(r'^X\((.*)\)\s*$', text, re.M):
        yield [a or b for a, b in re.findall(r'"([^"]*)"|([^",\s][^",]*)', line)]


def settings(o):
    check(read(o.root, 'docs/settings.md') == read(o.built, 'settings.md'),
          'docs/settings.md is out of date: cp %s docs/settings.md' % os.path.join(o.built, 'settings.md'))


def man_pages(o):
    pages = [os.path.join(o.built, 'impcli.1'), os.path.join(o.root, 'docs/man/impnode.8')]
    for page in pages:
        if shutil.which('groff'):
            p = subprocess.run(['groff', '-ww', '-man', '-Tutf8', page], capture_output=True, text=True)
            check(p.returncode == 0 and not p.stderr, '%s: %s' % (page, p.stderr.strip()))
        for i, line in enumerate(read(page).splitlines(), 1):
            check(not line or not line[0] == "'", '%s:%d: begins with a quote' % (page, i))
    man = read(pages[0]).replace('\\-', '-')
    for args in xmacro(read(o.root, 'node/rpc/commands.def')):
        check('.B %s %s' % (args[1], args[2]) in man, 'impcli.1: %s %s is missing' % (args[1], args[2]))
    man = read(pages[1]).replace('\\-', '-')
    for args in xmacro(read(o.root, 'node/config.def')):
        check('--%s' % args[2] in man, 'impnode.8: --%s is missing' % args[2])
    for verb in re.findall(r'^    \{"([a-z]+)", "', read(o.root, 'node/impnode.c'), re.M):
        check('.SS ' + verb in man, 'impnode.8: the command %s is missing' % verb)


def complete(script, line):
    """What bash offers behind LINE."""
    code = ('source %s; COMP_LINE=$1; read -ra COMP_WORDS <<< "$1"; [[ $1 == *" " ]] && COMP_WORDS+=("");'
            ' COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _impcli; printf "%%s\\n" "${COMPREPLY[@]}"' % script)
    p = subprocess.run(['bash', '-euc', code, 'bash', line], capture_output=True, text=True)
    check(p.returncode == 0 and not p.stderr, 'completion of %r: %s' % (line, p.stderr))
    return p.stdout.split()


def completion(o):
    script = os.path.join(o.built, 'impcli.bash')
    commands = list(xmacro(read(o.root, 'node/rpc/commands.def')))
    areas = {c[1] for c in commands}
    offered = set(complete(script, 'impcli '))
    check(areas <= offered and '--json' in offered, 'completion of areas: %s' % offered)
    for area in areas:
        offered = set(complete(script, 'impcli --json --data /tmp %s ' % area))
        check({c[2] for c in commands if c[1] == area and c[2]} <= offered, 'completion of %s: %s' % (area, offered))
    check(complete(script, 'impcli set') == ['settings'], 'completion of set')
    check(complete(script, 'impcli node to') == ['token'], 'completion of node to')
    check('--node' in complete(script, 'impcli user assign alice --'), 'completion of options')
    check('--without-keys' in complete(script, 'impcli backup '), 'completion of a command without a verb')
    check('--watch' in complete(script, 'impcli dbreplication runtimestate --w'), 'completion of --watch')


def operations(o):
    text = read(o.root, 'docs/operations.md')
    for args in xmacro(read(o.root, 'node/alarm.def')):
        check('`%s`' % args[1] in text, 'docs/operations.md: the alarm %s is missing' % args[1])
    for args in xmacro(read(o.root, 'node/service.def')):
        check('`%s`' % args[1] in text, 'docs/operations.md: the service %s is missing' % args[1])


def commands_in_documents(o):
    """Every "impcli AREA VERB" of the documents is a command."""
    known = {(c[1], c[2]) for c in xmacro(read(o.root, 'node/rpc/commands.def'))}
    areas = {k[0] for k in known}
    for name in documents(o):
        for area, verb in re.findall(r'\bimpcli(?: --?[a-z]+(?: [A-Z/][^ ]*)?)* ([a-z]+) ([a-z][a-z-]*)', read(name)):
            check(area not in areas or (area, verb) in known or (area, '') in known, '%s: there is no impcli %s %s' % (name, area, verb))


def documents(o):
    skip = os.path.join(o.root, 'build'), os.path.join(o.root, 'run')
    return [p for p in glob.glob(os.path.join(o.root, '**/*.md'), recursive=True) if not p.startswith(skip) and '/node_modules/' not in p]


def links(o):
    for name in documents(o):
        for target in re.findall(r'\]\(([^)#\s]+)[^)]*\)', read(name)):
            if not re.match(r'[a-z]+:', target):
                check(os.path.exists(os.path.join(os.path.dirname(name), target)), '%s: no %s' % (name, target))


def folders(o):
    for folder in ('base', 'storage', 'replication', 'cluster', 'im', 'protocols', 'node', 'cli', 'tools', 'tests', 'docs/adr'):
        path = os.path.join(o.root, folder, 'README.md')
        check(os.path.exists(path), '%s has no README.md' % folder)
        if os.path.exists(path):
            # but for the index of decisions, which has a line for each
            check(folder == 'docs/adr' or len(read(path).splitlines()) <= 40, '%s: longer than 40 lines' % path)
    index = read(os.path.join(o.root, 'docs/adr/README.md'))
    for name in sorted(os.listdir(os.path.join(o.root, 'docs/adr'))):
        check(name == 'README.md' or '(%s)' % name in index, 'docs/adr/README.md: %s is not in it' % name)


ap = argparse.ArgumentParser()
for name in ('--root', '--built', '--impcli'):
    ap.add_argument(name, required=True)
options = ap.parse_args()
for test in (settings, man_pages, completion, operations, commands_in_documents, links, folders):
    before = len(failures)
    test(options)
    print('%-24s %s' % (test.__name__, 'passed' if len(failures) == before else 'FAILED'))
for text in failures:
    print('  ' + text)
sys.exit(1 if failures else 0)
