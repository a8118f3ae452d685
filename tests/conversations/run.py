#!/usr/bin/python3
"""Plays conversations against real nodes: README.md beside this file.

  run.py [--nodes N] [--build DIR] [--only REGEX] [FILES...]       a cluster of its own
  run.py --attach DATADIR [FILES...]                               against a cluster that runs
"""
import argparse
import asyncio
import itertools
import json
import os
import re
import shlex
import ssl
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, 'runner'), os.path.join(os.path.dirname(HERE), 'cluster')]

import convfile  # noqa: E402
from peer import Peer, Trouble  # noqa: E402
from play import Failure, Play  # noqa: E402

USERS_AT_ONCE = 200


def files_of(paths):
    found = []
    for path in paths or [HERE]:
        if os.path.isdir(path):
            for folder, _, names in os.walk(path):
                found += [os.path.join(folder, n) for n in names if n.endswith('.conv')]
        else:
            found.append(path)
    return sorted(os.path.abspath(f) for f in found)


def read_all(paths, only=None):
    found, bad = [], []
    for path in files_of(paths):
        try:
            found += convfile.read(path)
        except (convfile.BadFile, OSError, UnicodeDecodeError) as e:
            bad.append(str(e))
    if bad:
        sys.exit('\n'.join(bad))
    if only:
        found = [c for c in found if re.search(only, str(c))]
    if not found:
        sys.exit('no conversation of that kind')
    return found


class Run:
    def __init__(self, hosts, data, ca, impcli, slow, args):
        self.hosts, self.data, self.impcli_path = hosts, data, impcli
        self.domain, self.args = 'example.com', args
        self.timeout = (args.timeout or 10) * slow
        self.prefix = 'c' if not args.attach else 'c%x-' % (int(time.time()) & 0xffffff)
        self.context = ssl.create_default_context(cafile=ca)
        self.writing = self.next_write = None
        self.numbers = itertools.count(1)
        self.failed = []

    def tls(self, options):
        if 'alpn' not in options and 'tls-max' not in options:
            return self.context
        context = ssl.create_default_context(cafile=self.args.ca)
        if 'alpn' in options:
            context.set_alpn_protocols(options['alpn'].split(','))
        if options.get('tls-max') == '1.2':
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context

    # ---- administration ----
    async def cli(self, data, *args, check=True, stdin=None):
        pipe = asyncio.subprocess.PIPE
        p = await asyncio.create_subprocess_exec(self.impcli_path, '--data', data, *args, stdout=pipe, stderr=pipe,
                                                 stdin=asyncio.subprocess.DEVNULL if stdin is None else pipe)
        out, err = await asyncio.wait_for(p.communicate(stdin.encode() if stdin is not None else None), self.timeout * 6)
        if p.returncode and check:
            raise Failure('impcli %s: exit %d: %s' % (' '.join(args), p.returncode, err.decode().strip()))
        return out.decode() + (err.decode() if p.returncode else '')

    async def make_users(self, plays):
        """Every user of every conversation, in one import; then each to the home its conversation wants."""
        if len(self.hosts) > 1:
            members = json.loads(await self.cli(self.data, '--json', 'node', 'list'))
            names = {m['address']: m['name'] for m in members}
        made = [(p.localpart(name), p.password(name), self.hosts[p.home(name)]) for p in plays for name in p.c.users]
        # a few hundred at a time: each password is hashed in several ways
        for i in range(0, len(made), USERS_AT_ONCE):
            with tempfile.TemporaryDirectory() as tmp:
                users, homes = os.path.join(tmp, 'users.csv'), os.path.join(tmp, 'homes.csv')
                with open(users, 'w') as u, open(homes, 'w') as h:
                    for user, password, host in made[i:i + USERS_AT_ONCE]:
                        u.write('%s,%s\n' % (user, password))
                        if len(self.hosts) > 1:
                            h.write('%s,%s\n' % (user, names[host]))
                await self.cli(self.data, 'user', 'import', users)
                if len(self.hosts) > 1:
                    await self.cli(self.data, 'user', 'assign', '--file', homes)

    async def impcli(self, play, words):
        args = shlex.split(words)
        if args[:2] == ['settings', 'set']:
            play.to_reset.append(args[2])
        fails = args[0] == '!'
        stdin = ' '.join(args[args.index('<') + 1:]) if '<' in args else None
        args = args[:args.index('<')] if '<' in args else args
        out = await self.cli(self.data, *(args[1:] if fails else args), check=not fails, stdin=stdin)
        if args[0] == 'settings':
            await self.settled(args[2])
        return out

    async def settled(self, key):
        """Every node has the setting that the first one has, and everything that hears of it has heard."""
        wanted = await self.cli(self.data, 'settings', 'get', key)
        for data in self.args.all_data:
            for _ in range(1000):
                if await self.cli(data, 'settings', 'get', key) == wanted:
                    break
                await asyncio.sleep(0.01)
            else:
                raise Failure('%s did not get the setting %s' % (data, key))
        await self.commit()

    async def reset_settings(self, play):
        for key in play.to_reset:
            await self.cli(self.data, 'settings', 'unset', key)
            await self.settled(key)

    # ---- barrier ----
    async def start_helpers(self):
        """One user at home on every node, whose writes show that what went before is in the log."""
        class Helpers:
            users = ['helper%d' % i for i in range(len(self.hosts))]
            clients = [u + '.x' for u in users]
        self.helper_play = Play(self, Helpers, 0)
        self.helpers = list(self.helper_play.peers.values())
        for p in self.helpers:
            p.options = {'node': 'home', 'transport': 'tls'}

    async def connect_helpers(self):
        async def act(p):
            await p.connect(node='home', transport='tls')
            await p.log_in()
        await asyncio.gather(*(act(p) for p in self.helpers))

    async def commit(self):
        """A write through every node that began after the call. Callers share one."""
        if self.writing:
            if not self.next_write:
                self.next_write = asyncio.ensure_future(self.write_after(self.writing))
            await asyncio.shield(self.next_write)
        else:
            self.writing = asyncio.ensure_future(self.write_all())
            await asyncio.shield(self.writing)

    async def write_after(self, before):
        await asyncio.wait([before])
        self.writing, self.next_write = self.next_write, None
        await self.write_all(self.writing)

    async def write_all(self, me=None):
        me = me or asyncio.current_task()
        try:
            async def act(p):
                p.conversation.n_ids += 1
                id = 'imp-w%d' % p.conversation.n_ids
                e = await p.ask("<iq type='set' id='%s'><vCard xmlns='vcard-temp'><NOTE>%s</NOTE></vCard></iq>" % (id, id), id)
                if e is None or e.get('type') != 'result':
                    raise Trouble('%s could not write: %s' % (p.name, e))
            await asyncio.gather(*(act(p) for p in self.helpers))
        finally:
            if self.writing is me:
                self.writing = None

    # ---- set-up of conversations ----
    async def subscriptions(self, play, pairs):
        """(a, b): a sees the presence of b. Through sessions of their own, before the conversation's."""
        users = sorted({u for p in pairs for u in p})
        quiet = []

        class Quiet:
            host_of, home, localpart, password = play.host_of, play.home, play.localpart, play.password
            address, c = play.address, play.c

            @staticmethod
            def note(*args):
                pass
        sessions = {}

        async def act(u):
            p = sessions[u] = Peer(self, Quiet, u + '.setup')
            quiet.append(p)
            p.options = {'node': 'home'}
            await p.connect(node='home')
            await p.log_in()
            p.write('<presence/>')
        await asyncio.gather(*(act(u) for u in users))

        async def seek(p, type, other):
            while True:
                e = await p.take('presence of type %s' % type)
                if e.name == 'presence' and e.get('type') == type and e.get('from') == other:
                    return
        for a, b in pairs:
            pa, pb = sessions[a], sessions[b]
            pa.write("<presence type='subscribe' to='%s'/>" % play.bare(b))
            await seek(pb, 'subscribe', play.bare(a))
            pb.write("<presence type='subscribed' to='%s'/>" % play.bare(a))
            await seek(pa, 'subscribed', play.bare(b))
        await asyncio.gather(*(p.disconnect() for p in quiet))

    # ---- all of them ----
    def fail(self, play, why):
        self.failed.append(play)
        play.why = str(why)
        print(play.explain(why, self.args.verbose), flush=True)

    async def one(self, play):
        try:
            await play.play()
        except (Failure, convfile.BadFile, Trouble) as e:
            self.fail(play, e)
        except Exception as e:
            traceback.print_exc()
            self.fail(play, 'the runner failed: %r' % e)
        else:
            if self.args.verbose:
                print('ok     %s (%.2f s)' % (play.c, time.monotonic() - play.began))
                if self.args.verbose > 1:
                    print('\n'.join('  %7.3f %-14s %s %s' % line[:4] for line in play.log))
        finally:
            try:
                await play.end()
            except (Failure, Trouble, OSError, asyncio.TimeoutError) as e:
                if play not in self.failed:
                    self.fail(play, 'after the end: %r' % e)

    async def all(self, conversations):
        await self.start_helpers()
        plays = [Play(self, c, next(self.numbers)) for c in conversations]
        began = time.monotonic()
        await self.make_users(plays + [self.helper_play])
        await self.connect_helpers()
        made = time.monotonic()
        gate = asyncio.Semaphore(self.args.parallel)

        async def bounded(play):
            async with gate:
                play.began = time.monotonic()
                await self.one(play)
        await asyncio.gather(*(bounded(p) for p in plays if not p.c.exclusive))
        for play in plays:
            if play.c.exclusive:
                play.began = time.monotonic()
                await self.one(play)
        await asyncio.gather(*(p.disconnect() for p in self.helpers))
        print('%d conversations on %d node%s in %.1f s (users made in %.1f s), %d failed' %
              (len(plays), len(self.hosts), 's' if len(self.hosts) > 1 else '', time.monotonic() - made, made - began,
               len(self.failed)))
        return not self.failed

    def reasons(self):
        """Which failed and why, a few lines each: the last that is printed, since a log may be cut above it."""
        return '\n'.join('failed: %s\n    %s: %s' % (p.c, p.step, ' '.join(p.why.split())[:300]) for p in self.failed)


def arguments(argv):
    a = argparse.ArgumentParser(description='Plays conversations against nodes of its own or a running cluster.')
    a.add_argument('--nodes', type=int, default=1, help='how many nodes to start (1)')
    a.add_argument('--build', help='where the programs are (build/asan, build/dev, build/release, the first that exists)')
    a.add_argument('--attach', metavar='DATADIR', help='use the running cluster of which DATADIR is a node')
    a.add_argument('--only', metavar='REGEX', help='only those whose file, line or title fits')
    a.add_argument('--parallel', type=int, default=40, help='how many at once (40)')
    a.add_argument('--timeout', type=float, help='seconds that an expected stanza may take (10; 30 under sanitizers)')
    a.add_argument('--check', action='store_true', help='only read the files')
    a.add_argument('--at-least', type=int, default=0, help='fail if there are fewer')
    a.add_argument('--list', action='store_true', help='print the titles')
    a.add_argument('-v', '--verbose', action='count', default=0)
    a.add_argument('files', nargs='*', help='files or folders (all)')
    return a.parse_args(argv)


def play_on_cluster(args, conversations):
    if args.build:
        os.environ['IMP_BUILD'] = os.path.abspath(args.build)
    import harness

    def test(cluster):
        cluster.start()
        args.ca, args.all_data = cluster.ca, [n.dir for n in cluster.nodes]
        run = Run([n.address for n in cluster.nodes], cluster.nodes[0].dir, cluster.ca, harness.IMPCLI, harness.SLOW, args)
        if not asyncio.run(run.all(conversations)):
            raise harness.Failed('%d conversations failed\n%s' % (len(run.failed), run.reasons()))
        cluster.check_equal()
    harness.run_test(test, n=args.nodes, config=['--shards', '2'])


def play_attached(args, conversations):
    if args.build:
        os.environ['IMP_BUILD'] = os.path.abspath(args.build)
    import harness
    import subprocess
    members = json.loads(subprocess.run([harness.IMPCLI, '--data', args.attach, '--json', 'node', 'list'], check=True,
                                        capture_output=True, text=True).stdout)
    args.ca, args.all_data = os.path.join(args.attach, 'ca.pem'), [args.attach]
    run = Run([m['address'] for m in members], args.attach, args.ca, harness.IMPCLI, harness.SLOW, args)
    good = asyncio.run(run.all(conversations))
    print(run.reasons())
    sys.exit(0 if good else 1)


def main(argv):
    args = arguments(argv)
    conversations = read_all(args.files, args.only)
    if len(conversations) < args.at_least:
        sys.exit('%d conversations, at least %d are wanted' % (len(conversations), args.at_least))
    if args.list:
        print('\n'.join(map(str, conversations)))
    elif args.check:
        print('%d conversations' % len(conversations))
    elif args.attach:
        play_attached(args, conversations)
    else:
        play_on_cluster(args, conversations)


if __name__ == '__main__':
    main(sys.argv[1:])
