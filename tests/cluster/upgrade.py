#!/usr/bin/python3
"""A rolling upgrade of a loaded cluster from one release to the next, the publisher first. Writers and chatting clients see no
error but a stream that ends and is opened again elsewhere; what a client was told is done is there; all nodes have equal
tables all the time. The feature level rises when the last node has the new release and not before. A subscriber that starts
with another release than the publisher's waits, and goes on by itself. Going back works until the level is raised."""
import asyncio
import random
import subprocess
import threading
import time

from harness import BEGAN, IMPNODE, IMPNODE_BEFORE, SLOW, run_test, step, wait
from xmpp import Client, Closed, body_of

OLD, NEW = '0.1.0', '0.3.0'
CHATTERS = ['chat%d' % i for i in range(6)]


# ---- the load ----
class Writer(threading.Thread):
    """Adds users through one node after the other of those in service; each answer is one that must hold."""

    def __init__(self, cluster, name):
        super().__init__(daemon=True)
        self.cluster, self.prefix, self.stop, self.done, self.errors = cluster, name, False, [], []

    def run(self):
        while not self.stop:
            user = '%s-%d' % (self.prefix, len(self.done))
            node = random.choice(self.cluster.in_service)
            node.n_calls = getattr(node, 'n_calls', 0) + 1
            p = node.cli('user', 'add', user, '--password-stdin', check=False, stdin='pw\n')
            node.n_calls -= 1
            if p.returncode:
                self.errors.append('%s on %s: %s' % (user, node.name, p.stderr.strip()))
                return
            self.done.append(user)
            time.sleep(0.02)


class Chatter:
    """Sends numbered messages to the next one, and asks its server after each whether it has been taken (XEP-0199). When its
    stream ends it connects to another node in service, and sends again what was not confirmed."""

    def __init__(self, cluster, number):
        self.cluster, self.user = cluster, CHATTERS[number]
        self.to = CHATTERS[(number + 1) % len(CHATTERS)] + '@example.com'
        self.confirmed, self.got, self.errors, self.streams = [], [], [], 0
        self.history = []  # for who must find out where a message was lost
        self.client = None

    async def log_in(self):
        """A client tries its next server when one does not take it."""
        end = time.monotonic() + 20 * SLOW
        while True:
            try:
                node = random.choice(self.cluster.in_service)
                c = await asyncio.wait_for(Client(self.user, host=node.address, ca=self.cluster.ca).log_in('r'), 10 * SLOW)
                c.on_stanza = self.take
                c.presence()
                self.streams += 1
                self.note('stream on %s' % node.name)
                self.pong = asyncio.Event()
                return c
            except (Closed, OSError, asyncio.TimeoutError) as e:
                if time.monotonic() > end:
                    raise AssertionError('%s cannot log in: %r' % (self.user, e))
                await asyncio.sleep(0.1)

    def note(self, what):
        self.history.append('%7.3f %s' % (time.monotonic() - BEGAN, what))

    def take(self, s):
        head = s[:s.index('>')]
        if "type='error'" in head or 'type="error"' in head:
            self.errors.append(s)
        elif s.startswith('<message'):
            self.got.append(body_of(s))
            self.note('got ' + body_of(s))
        elif s.startswith('<iq') and 'sync-' in head:
            self.pong.set()

    async def say(self, text):
        while True:
            c = self.client
            if c is None or c.closed:
                if c:
                    self.note('stream ended')
                c = self.client = await self.log_in()
            self.pong.clear()
            c.message(self.to, text)
            c.write("<iq type='get' id='sync-%s'><ping xmlns='urn:xmpp:ping'/></iq>" % text.replace(' ', '-'))
            end = time.monotonic() + 10 * SLOW
            while not self.pong.is_set() and not c.closed:
                if time.monotonic() > end:
                    raise AssertionError('%s: no answer on an open stream: %s' % (self.user, self.history[-5:]))
                try:
                    await asyncio.wait_for(self.pong.wait(), 0.1)
                except asyncio.TimeoutError:
                    pass
            if self.pong.is_set():
                self.confirmed.append(text)
                self.note('confirmed ' + text)
                return

    async def run(self, chat):
        while not chat.stop:
            await self.say('%s %d' % (self.user, len(self.confirmed)))
            await asyncio.sleep(0.05)


class Chat(threading.Thread):
    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.chatters = [Chatter(cluster, i) for i in range(len(CHATTERS))]
        self.stop, self.error = False, None

    def run(self):
        try:
            asyncio.run(self.main())
        except Exception as e:  # told by check()
            self.error = e

    async def main(self):
        await asyncio.gather(*(c.run(self) for c in self.chatters))
        for c in self.chatters:  # who is not connected now gets what waits for it
            if c.client is None or c.client.closed:
                c.client = await c.log_in()
        end = time.monotonic() + 30 * SLOW
        while self.missing() and time.monotonic() < end:
            await asyncio.sleep(0.1)
        for c in self.chatters:
            await c.client.close()

    def missing(self):
        lost = []
        for i, c in enumerate(self.chatters):
            got = set(self.chatters[(i + 1) % len(self.chatters)].got)
            lost += [t for t in c.confirmed if t not in got]
        return lost

    def story(self, text):
        """What both sides saw around the time when a message was lost."""
        i = CHATTERS.index(text.split()[0])
        lines = [(line, c.user) for c in (self.chatters[i], self.chatters[(i + 1) % len(self.chatters)]) for line in c.history]
        lines.sort()
        at = [k for k, (line, user) in enumerate(lines) if line.endswith('confirmed ' + text)][0]
        return '\n'.join('%s %s' % (user, line) for line, user in lines[max(at - 15, 0):at + 15])

    def check(self):
        if self.error:
            raise AssertionError('the chat broke: %r' % self.error)
        for c in self.chatters:
            assert not c.errors, '%s got an error: %s' % (c.user, c.errors[:2])
        return sum(len(c.confirmed) for c in self.chatters)


# ---- what is looked at ----
def level(cluster):
    return cluster.in_service[0].json('dbreplication', 'runtimestate')['cluster']['level']


def alarms(node):
    return [(a['name'], a['node']) for a in node.json('alarm', 'list')]


def features(node):
    return [s for s in node.json('service', 'list', node.name) if s['kind'] == 'feature']


def no_errors(cluster):
    for w in cluster.writers:
        assert not w.errors, w.errors
    return cluster.chat.check()


def chat_flows(cluster, n=10):
    """Not within wait(), which takes an assertion for 'not yet'."""
    before = no_errors(cluster)
    wait('the chat flows', lambda: cluster.chat.error or cluster.chat.check() > before + n)
    no_errors(cluster)


# ---- steps ----
def out_of_service(cluster, node):
    """As operations.md says: drain it, wait until it has no sessions, stop it. Nobody steers the cluster through it then."""
    cluster.in_service.remove(node)
    other = cluster.in_service[0]
    other.cli('node', 'drain', node.name)
    wait('%s has no sessions' % node.name, lambda: not [s for s in other.json('session', 'list') if node.name in (s['node'], s['edge'])])
    wait('no command to %s is under way' % node.name, lambda: not getattr(node, 'n_calls', 0))
    node.stop()


def change(cluster, node, program):
    out_of_service(cluster, node)
    node.program = program
    node.start()


def into_service(cluster, node):
    cluster.wait_running([node])
    cluster.in_service[0].cli('node', 'undrain', node.name)
    wait('%s is up' % node.name, lambda: [n['up'] for n in node.json('node', 'list') if n['name'] == node.name] == [True])
    cluster.in_service.append(node)


def upgrade(cluster, node, program, want):
    change(cluster, node, program)
    into_service(cluster, node)
    row = [n for n in node.json('node', 'list') if n['name'] == node.name][0]
    assert (row['release'], row['level']) == want, row
    chat_flows(cluster)
    cluster.check_equal()


def went_back(node, in_log):
    """The old release on a node of a cluster whose level it does not know, from its log or from its store."""
    p = subprocess.run([IMPNODE_BEFORE, 'run', '--data', node.dir], capture_output=True, text=True, timeout=60 * SLOW)
    assert p.returncode == 78 and 'feature level 3' in p.stderr and 'install the release' in p.stderr, p.stderr
    assert ('applying entry' in p.stderr) == in_log, p.stderr


def test(cluster):
    cluster.start()
    n1, n2, n3 = cluster.nodes
    cluster.in_service = list(cluster.nodes)
    cluster.add_local_users(CHATTERS + ['away'])
    assert level(cluster) == 1, 'a new cluster begins at the highest level that its release knows'
    assert {(n['release'], n['level']) for n in n1.json('node', 'list')} == {(OLD, 1)}
    assert n1.cli('settings', 'set', 'xmpp.offline_bytes', '1000000', check=False).returncode == 1
    cluster.writers = [Writer(cluster, 'w%d' % i) for i in range(2)]
    cluster.chat = Chat(cluster)
    for t in cluster.writers + [cluster.chat]:
        t.start()
    chat_flows(cluster)
    asyncio.run(send_to_away(cluster, 'old'))

    step('a subscriber that is upgraded too early waits')
    change(cluster, n3, IMPNODE)
    wait('n3 is delayed', lambda: {s['state'] for s in features(n3)} == {'delayed'} and ('ReleaseMismatch', 'n3') in alarms(n1))
    assert 'install the publisher' in features(n3)[0]['reason'], features(n3)
    for node in (n1, n2):
        assert node.runs_services(), '%s is held back by n3' % node.name

    step('the publisher: n3 goes on by itself')
    upgrade(cluster, n1, IMPNODE, (NEW, 3))
    into_service(cluster, n3)
    wait('the alarm is over', lambda: ('ReleaseMismatch', 'n3') not in alarms(n1))
    assert level(cluster) == 1, 'the level was raised while n2 did not know it'
    p = n1.cli('settings', 'set', 'xmpp.offline_bytes', '1000000', check=False)
    assert p.returncode == 1 and 'once all nodes have release 0.2.0' in p.stderr, p.stderr

    step('going back works as long as the level is not raised')
    upgrade(cluster, n1, IMPNODE_BEFORE, (OLD, 1))
    upgrade(cluster, n1, IMPNODE, (NEW, 3))
    assert level(cluster) == 1

    step('the last one')
    n1.cli('settings', 'set', 'cluster.hold_feature_level', 'true')
    upgrade(cluster, n2, IMPNODE, (NEW, 3))
    assert level(cluster) == 1, 'the level was raised although it is held'

    step('the level rises while n3 is down: going back is refused')
    out_of_service(cluster, n3)
    n1.cli('settings', 'unset', 'cluster.hold_feature_level')
    wait('the level is raised', lambda: level(cluster) == 3)
    went_back(n3, in_log=True)
    n3.start()
    into_service(cluster, n3)
    n2.cli('settings', 'set', 'xmpp.offline_bytes', '1000000')
    asyncio.run(send_to_away(cluster, 'new'))
    cluster.check_equal()

    out_of_service(cluster, n3)
    went_back(n3, in_log=False)
    n3.start()
    into_service(cluster, n3)

    for t in cluster.writers + [cluster.chat]:
        t.stop = True
    for t in cluster.writers + [cluster.chat]:
        t.join(60 * SLOW)
    total = no_errors(cluster)
    lost = cluster.chat.missing()
    assert not lost, 'confirmed and never received: %s\n%s' % (lost, cluster.chat.story(lost[0]))
    asyncio.run(read_as_away(cluster))
    cluster.check_equal()
    users = {u['user'] for u in n2.json('user', 'list')}
    for w in cluster.writers:
        assert set(w.done) <= users, 'acknowledged and not there: %s' % (set(w.done) - users)
    step('%d messages over %d streams, %d users added' % (total, sum(c.streams for c in cluster.chat.chatters),
                                                         sum(len(w.done) for w in cluster.writers)))


async def send_to_away(cluster, word):
    """Stored before the level is raised, and after."""
    c = await Client('away', host=cluster.in_service[0].address, ca=cluster.ca).log_in('s')  # not available: it is stored
    for i in range(5):
        c.message('away@example.com', '%s %d' % (word, i))
    await c.iq('get', "<ping xmlns='urn:xmpp:ping'/>")
    await c.close()


async def read_as_away(cluster):
    c = await Client('away', host=cluster.nodes[2].address, ca=cluster.ca).log_in('a')
    c.presence()
    got = [body_of(await c.expect(lambda s: s.startswith('<message'))) for _ in range(10)]
    assert got == ['%s %d' % (w, i) for w in ('old', 'new') for i in range(5)], got
    await c.close()


if __name__ == '__main__':
    run_test(test, program=IMPNODE_BEFORE)
