#!/usr/bin/python3
"""xmpp.py [ROW...]: server CPU per operation and memory of imp beside other servers and beside a relay that copies bytes, in one
run: every row is measured RUNS times, the servers in turn; what is printed are medians and their ratios, with the target.

Needs BENCH_LOAD (a folder with xmppload, relay and peers.sh, built) and IMP_BUILD. RUNS (3), SESSIONS (10000) for memory,
MANY (19000) for growth; the open files' limit bounds both. Rows: chat tls archive latency presence login memory nodes growth."""
import json
import os
import shutil
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
LOAD = os.environ['BENCH_LOAD']
RUNS = int(os.environ.get('RUNS', 3))
SESSIONS = int(os.environ.get('SESSIONS', 10000))
MANY = int(os.environ.get('MANY', 19000))
SECONDS = os.environ.get('SECONDS_EACH', '5')
STATE = os.environ.get('BENCH_STATE', '/tmp/imp-bench-xmpp')


class Server:
    """Something that peers.sh or imp.sh starts; what it prints is in self.at."""

    def __init__(self, name, command, env=None, raw=False):
        self.name, self.command, self.raw, self.at = name, command, raw, {}
        self.env = dict(os.environ, XMPPBENCH=os.path.join(STATE, 'peers'), **(env or {}))

    def control(self, verb):
        command = [part.replace('VERB', verb) for part in self.command]
        if verb == 'stop':
            command = command[:3] if 'peers.sh' in command[0] else command
        return subprocess.run(command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def start(self):
        p = self.control('start')
        if p.returncode:
            raise SystemExit('%s does not start: %s' % (self.name, p.stderr[-2000:]))
        self.at = dict(word.split('=', 1) for line in p.stdout.splitlines() for word in line.split() if '=' in word)
        return self

    def stop(self):
        self.control('stop')

    def load(self, mode, *args, tls=False):
        """One run; the numbers that xmppload prints, None where it fails."""
        hosts = self.at['TLSHOSTS' if tls else 'HOSTS']
        command = [os.path.join(LOAD, 'xmppload'), mode, '-H', hosts, '-d', self.at.get('DOMAIN', 'localhost'), '-P', self.at['PID'],
                   '-j', *(['--raw'] if self.raw else []), *(['-t', 'direct'] if tls else []), *args]
        p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=600)
        if p.returncode or not p.stdout.strip():
            print('%s: %s: %s' % (self.name, ' '.join(command[1:]), p.stderr[-500:]), file=sys.stderr)
            return None
        return json.loads(p.stdout.replace(':inf', ':0').replace(':-nan', ':0').replace(':nan', ':0'))


def imp(name='imp', nodes=1, users=2000, port=5722, **env):
    return Server(name, [os.path.join(HERE, 'imp.sh'), 'VERB'],
                  dict(IMP_BENCH_DIR=os.path.join(STATE, name.replace(' ', '-')), IMP_BENCH_NODES=str(nodes), IMP_BENCH_USERS=str(users),
                       IMP_BENCH_PORT=str(port), **env))


def peer(kind, variant='lean', users=2000, auth='plain'):
    return Server('%s %s' % (kind, variant), [os.path.join(LOAD, 'peers.sh'), 'VERB', kind, '-v', variant, '-n', str(users), '-a', auth])


def relay(tls=False):
    return Server('relay', [os.path.join(LOAD, 'peers.sh'), 'VERB', 'relay'] + (['-e', 'tls'] if tls else []), raw=True)


def have(program):
    return shutil.which(program, path=os.environ['PATH'] + ':/usr/sbin') is not None


def peers(**kw):
    """The servers to compare with that are there."""
    return ([peer('ejabberd', **kw)] if have('ejabberdctl') else []) + ([peer('prosody', **kw)] if have('prosody') else [])


def measure(servers, figure, mode, *args, runs=RUNS, **kw):
    """{name: median of FIGURE(result)}; the servers run at the same time and are loaded in turn."""
    values = {s.name: [] for s in servers}
    try:
        for s in servers:
            s.start()
        for _ in range(runs):
            for s in servers:
                r = s.load(mode, *args, **kw)
                if r:
                    values[s.name].append(figure(r))
    finally:
        for s in servers:
            s.stop()
    return {name: statistics.median(v) for name, v in values.items() if v}


def per_delivery(r):
    bad = {k: r[k] for k in ('lost', 'dup', 'reordered', 'errors', 'corrupt') if r.get(k)}
    if bad:
        print('not all is well: %s' % bad, file=sys.stderr)
    return r['server_cpu_us_per_delivery']


def show(title, unit, values, targets=()):
    """TARGETS: (name of the other, at most so many times it)."""
    print('%-44s %s' % (title, '   '.join('%s %.1f %s' % (name, v, unit) for name, v in values.items())))
    own = next((v for name, v in values.items() if name.startswith('imp')), None)
    for other, most in targets:
        base = next((v for name, v in values.items() if name.startswith(other)), None)
        if own and base:
            print('%44s imp : %s = %.2f (at most %.2f) %s' % ('', other, own / base, most, 'met' if own / base <= most else 'missed'))


# ---- the rows ----

def chat():
    values = measure([relay(), imp()] + peers(), per_delivery, 'chat', '-n', '1000', '-T', SECONDS)
    show('chat, TCP', 'us', values, [('relay', 1.8), ('ejabberd', 1 / 5)])


def tls():
    values = measure([relay(tls=True), imp()] + peers(), per_delivery, 'chat', '-n', '1000', '-T', SECONDS, tls=True)
    show('chat, TLS', 'us', values, [('relay', 1.5)])


def archive():
    three = imp('imp archive', nodes=3, port=5822, IMP_BENCH_ARCHIVE='always')
    others = [peer('ejabberd', 'mam')] if have('ejabberdctl') else []
    values = measure([three] + others, per_delivery, 'chat', '-n', '1000', '-T', SECONDS)
    show('chat with archive, 3 nodes, all CPU', 'us', values, [('ejabberd', 1 / 4)])


def latency():
    three = imp('imp archive', nodes=3, port=5822, IMP_BENCH_ARCHIVE='always')
    values = measure([three], lambda r: r['p99_ms'], 'open', '-n', '1000', '-T', SECONDS, '-R', '3000')
    show('the same at 3,000 messages/s, p99 (20)', 'ms', values)


def presence():
    values = measure([imp()] + peers(), per_delivery, 'presence', '-u', 'pr', '-n', '200', '-K', '20', '-M', '10')
    show('presence, per delivery', 'us', values, [('ejabberd', 1 / 6)])


def login():
    """The relay's part is TLS 1.3 alone. Peers that store the password compute SCRAM's keys at every log-in; the ones that store keys,
    as imp does, have SHA-1's."""
    def per_login(r):
        return 1000 * r['server_cpu_ms_per_login']
    for mechanism, auth in (('SCRAM-SHA-256', 'plain'), ('SCRAM-SHA-1', 'hashed')):
        values = measure([relay(tls=True), imp()] + peers(auth=auth), per_login, 'connect', '-n', '1000', '-m', mechanism, tls=True)
        show('log-in, TLS 1.3, %s, peers store %s' % (mechanism, 'keys' if auth == 'hashed' else 'passwords'), 'us', values)
        handshake = values.pop('relay', None)
        if handshake:
            show('   beyond the handshake of %.0f us' % handshake, 'us', {k: v - handshake for k, v in values.items()},
                 [('ejabberd', 1 / 6)])


def many():
    """The node of the rows with many sessions: its accounts take minutes to make, and are kept for both."""
    return imp('imp many', users=max(MANY, SESSIONS))


def memory():
    def per_session(r):
        return r['rss_kib_per_session']
    for secure, most in ((False, 5), (True, 20)):
        # longer than a parser is kept that has nothing to do
        values = measure([relay(tls=secure), many()] + peers(users=SESSIONS), per_session, 'idle', '-n',
                         str(SESSIONS), '-T', '8', '-c', '16', tls=secure, runs=1)
        show('%d idle sessions, %s (%d)' % (SESSIONS, 'TLS' if secure else 'plain', most), 'KiB', values)


def nodes():
    """Pairs of which each half is at home, and connected, at another node."""
    across = measure([imp('imp two', nodes=2, port=5922, IMP_BENCH_SPREAD='across')], per_delivery, 'chat', '-n', '1000', '-T', SECONDS)
    local = measure([imp()], per_delivery, 'chat', '-n', '1000', '-T', SECONDS)
    show('between two nodes, both nodes\' CPU', 'us', {'imp': across['imp two'], 'local': local['imp']}, [('local', 1.6)])


def growth():
    server = many()
    costs, sizes = {}, {}
    for n in (1000, 5000, MANY):
        results = []
        measure([server], lambda r: results.append(r) or 0, 'chat', '-n', str(n), '-T', SECONDS, '-c', '16', runs=1)
        costs['%d' % n] = per_delivery(results[0])
        sizes['%d' % n] = results[0]['rss_kib_per_session']
    show('sessions: CPU of a message', 'us', costs)
    few, most = costs['1000'], costs['%d' % MANY]
    print('%44s %d : 1000 = %.2f (at most 1.20) %s' % ('', MANY, most / few, 'met' if most / few <= 1.2 else 'missed'))
    show('sessions: memory of each, while all chat', 'KiB', sizes)


ROWS = [chat, tls, archive, latency, presence, login, memory, nodes, growth]


def main():
    wanted = sys.argv[1:]
    known = {f.__name__: f for f in ROWS}
    for name in wanted or known:
        if name not in known:
            raise SystemExit('%s is no row; there are: %s' % (name, ' '.join(known)))
        known[name]()
        sys.stdout.flush()


if __name__ == '__main__':
    main()
