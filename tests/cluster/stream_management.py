#!/usr/bin/python3
"""Stream management (XEP-0198) under load: connections, edges and homes of resuming clients are killed while messages flow.
What was acknowledged to the sender reaches the recipient, in order; what comes twice carries the same stanza-id."""
import asyncio
import re

from harness import SLOW, Failed, run_test, step
from pause import until
from xmpp import Client, Closed, body_of

WAIT = 30 * SLOW
SM = 'urn:xmpp:sm:3'


class SmClient(Client):
    """Keeps what it sent until it is acknowledged, counts what it got, and comes back with both."""

    def __init__(self, *args, **kw):
        super().__init__(*args, **kw)
        self.n_in, self.n_out, self.unacked, self.id, self.got, self.n_resumed = 0, 0, [], None, [], 0
        self.counting = False

    def add(self, stanza):
        if stanza.startswith('<r '):
            self.write("<a xmlns='%s' h='%d'/>" % (SM, self.n_in))
            return
        if stanza.startswith('<a '):
            self.acked(int(re.search(r"h='(\d+)'", stanza).group(1)))
            self.event.set()
            return
        if self.counting and re.match('<(message|presence|iq)', stanza):
            self.n_in += 1
        if stanza.startswith('<message'):
            self.got.append(stanza)
        if stanza.startswith('<enabled'):
            self.counting = True
        super().add(stanza)

    def acked(self, h):
        keep = self.n_out - h
        assert 0 <= keep <= len(self.unacked), 'h=%d with %d sent, %d of them waiting' % (h, self.n_out, len(self.unacked))
        self.unacked = self.unacked[len(self.unacked) - keep:]

    def send(self, stanza):
        self.n_out += 1
        self.unacked.append(stanza)
        if not self.closed and not self.writer.is_closing():
            self.write(stanza)

    def ask(self):
        if not self.closed and not self.writer.is_closing():
            self.write("<r xmlns='%s'/>" % SM)

    async def enable(self):
        self.write("<enable xmlns='%s' resume='true'/>" % SM)
        answer = await self.expect(lambda s: s.startswith('<enabled'), WAIT)
        self.id = re.search(r"\bid='(.*?)'", answer).group(1)
        return answer

    async def log_in_only(self):
        self.buffer, self.closed, self.stanzas = '', True, []
        await self.open_socket()
        await self.start_tls()
        features = await self.authenticate()
        assert SM in features, features

    def cut(self):
        self.closed = True
        self.task.cancel()
        self.writer.transport.abort()

    async def resume(self, hosts):
        """On the first node that lets it in; as often as it takes. The former connection is given up."""
        if not self.task.done():
            self.cut()
            await asyncio.wait([self.task])
        end = asyncio.get_event_loop().time() + WAIT
        for i in range(10000):
            self.host = hosts[i % len(hosts)]
            try:
                await asyncio.wait_for(self.log_in_only(), 10)
                self.write("<resume xmlns='%s' previd='%s' h='%d'/>" % (SM, self.id, self.n_in))
                answer = await asyncio.wait_for(
                    self.read_until(r"<resumed[^>]*/>|</failed>|<failed[^>]*/>|</stream:stream>"), 10)
                if '<resumed' in answer:
                    break
                assert '<failed' not in answer, 'not resumed: %s' % answer
            except (Closed, OSError, asyncio.TimeoutError):
                pass
            assert asyncio.get_event_loop().time() < end, 'cannot resume'
            await asyncio.sleep(0.1)
        self.acked(int(re.search(r"h='(\d+)'", answer).group(1)))
        self.n_resumed += 1
        self.closed = False
        self.task = asyncio.ensure_future(self.read_all())
        for stanza in self.unacked:
            self.write(stanza)
        self.ask()


async def log_in(cluster, user, node):
    c = await SmClient(user, host=node.address, ca=cluster.ca).log_in('sm')
    answer = await c.enable()
    await c.roster_counted()
    c.send('<presence/>')
    return c, answer


async def roster_counted(self):
    self.n_out += 1
    self.unacked.append("<iq type='get' id='roster'><query xmlns='jabber:iq:roster'/></iq>")
    self.write(self.unacked[-1])
    await self.expect(lambda s: s.startswith('<iq') and 'roster' in s, WAIT)


SmClient.roster_counted = roster_counted


class Flow:
    """ann sends, one number after the other, until told to stop."""

    def __init__(self, ann):
        self.ann, self.n, self.stop = ann, 0, False

    async def run(self):
        while not self.stop:
            if len(self.ann.unacked) < 40:
                self.n += 1
                self.ann.send("<message to='bob@example.com' type='chat' id='m%d'><body>%d</body></message>" % (self.n, self.n))
                if self.n % 5 == 0:
                    self.ann.ask()
            await asyncio.sleep(0.002)


def check(bob, n, archived=True):
    """Everything, in order; a number below what has come already is a repeat with the id it had before. What no archive keeps goes
    directly while somebody is there, and has an id only where it had to be stored."""
    ids, highest = {}, 0
    for s in bob.got:
        k, sid = int(body_of(s)), re.search(r"<stanza-id[^>]*\bid='(.*?)'", s)
        assert sid or not archived, 'without stanza-id: %s' % s
        sid = sid and sid.group(1)
        if k in ids:
            assert not sid or not ids[k] or ids[k] == sid, '%d came as %s and as %s' % (k, ids[k], sid)
            continue
        assert k == highest + 1, '%d after %d' % (k, highest)
        highest, ids[k] = k, sid
    assert highest == n, 'the last one is %d of %d' % (highest, n)
    return len(bob.got) - n


class Pair:
    """ann, at home on n2, sends to bob, at home on n3; both begin on n1. Each step breaks something while messages flow, and ends with
    all of them there."""

    def __init__(self, cluster, archived):
        self.nodes, self.archived, self.repeats = cluster.nodes, archived, 0
        self.cluster = cluster
        self.hosts = [n.address for n in cluster.nodes]

    def active(self, user, node=None):
        return (node or self.nodes[0]).json('user', 'show', user)['active_home']

    def are_at_home(self):
        return self.active('ann') == 'n2' and self.active('bob') == 'n3'

    async def begin(self):
        n1 = self.nodes[0]
        await until('both are at home', self.are_at_home)
        self.ann, enabled = await log_in(self.cluster, 'ann', n1)
        assert 'location=' in enabled and "max='600'" in enabled, enabled
        self.bob, _ = await log_in(self.cluster, 'bob', n1)
        self.flow = Flow(self.ann)

    async def end(self):
        for c in (self.ann, self.bob):
            c.write("<a xmlns='%s' h='%d'/>" % (SM, c.n_in))  # or the next session gets it
            await c.close()

    def send(self):
        self.flow.stop = False
        self.task = asyncio.ensure_future(self.flow.run())

    async def some(self, k):
        n = len(self.bob.got)
        await until('messages flow', lambda: len(self.bob.got) >= n + k)

    async def all_there(self):
        """How many of them came again since the last time."""
        flow, bob = self.flow, self.bob
        flow.stop = True
        await self.task
        end = asyncio.get_event_loop().time() + WAIT
        while flow.ann.unacked or not bob.got or int(body_of(bob.got[-1])) < flow.n:
            assert asyncio.get_event_loop().time() < end, '%d not acknowledged, bob has %s of %d' % (
                len(flow.ann.unacked), bob.got[-1:], flow.n)
            flow.ann.ask()
            await asyncio.sleep(0.1)
        before, self.repeats = self.repeats, check(bob, flow.n, self.archived)
        print('         %d messages, %d of them came again' % (flow.n, self.repeats - before))
        return self.repeats - before

    async def cut_connections(self):
        for i in range(3):
            await self.some(50)
            self.bob.cut()
            await self.bob.resume([self.hosts[(i + 1) % 3]])
            await self.some(20)
            self.ann.cut()
            await self.ann.resume([self.hosts[(i + 2) % 3]])

    async def edge_dies(self):
        """n1 is nobody's home: the homes live, and go on exactly where they were."""
        n1, _, n3 = self.nodes
        for c in (self.ann, self.bob):
            c.cut()
            await c.resume([n1.address])
        await self.some(30)
        n1.kill()
        await self.bob.resume(self.hosts[1:])
        await self.ann.resume(self.hosts[1:])
        await self.some(50)
        n1.start()
        await until('n1 runs again', lambda: runs(n1), 60)

    async def home_of_bob_dies(self):
        n1, n2, n3 = self.nodes
        await self.some(30)
        n3.kill()
        await self.bob.resume([n1.address, n2.address])
        await self.some(50)
        if self.ann.closed:
            await self.ann.resume([n1.address, n2.address])

    async def bob_goes_home(self):
        self.nodes[2].start()
        await until('bob is at home on n3', lambda: self.active('bob') == 'n3', 60)
        if self.bob.closed or await closes(self.bob):
            await self.bob.resume(self.hosts)

    async def home_of_ann_dies(self):
        n1, n2, n3 = self.nodes
        await self.some(30)
        n2.kill()
        await self.ann.resume([n1.address, n3.address])
        if self.bob.closed:
            await self.bob.resume([n1.address, n3.address])
        await self.some(50)


def runs(node):
    try:
        return node.runs_services()
    except Failed:
        return False


async def closes(c):
    for _ in range(50):
        if c.closed:
            return True
        await asyncio.sleep(0.1)
    return False


async def all_steps(cluster, archived):
    p = Pair(cluster, archived)
    await p.begin()
    p.send()
    step('connections are cut; both come back through other nodes')
    await p.cut_connections()
    assert await p.all_there() == 0, 'a living home repeats'
    step('the edge of both dies, which is no home')
    p.send()
    await p.edge_dies()
    assert await p.all_there() == 0, 'a living home repeats'
    step('the home of bob dies')
    p.send()
    await p.home_of_bob_dies()
    await p.all_there()
    await p.bob_goes_home()
    step('the home of ann dies')
    p.send()
    await p.home_of_ann_dies()
    assert await p.all_there() == 0, 'the home of bob lives, and repeats'
    await p.end()
    cluster.nodes[1].start()
    await until('all run', p.are_at_home, 60)


def test(cluster):
    cluster.start()
    n1 = cluster.nodes[0]
    cluster.add_local_users(['ann', 'bob'])
    n1.cli('user', 'assign', 'ann', '--node', 'n2')
    n1.cli('user', 'assign', 'bob', '--node', 'n3')
    asyncio.run(all_steps(cluster, True))
    step('the same without archives: directly to who is there')
    n1.cli('settings', 'set', 'archive.default', 'never')
    asyncio.run(all_steps(cluster, False))


if __name__ == '__main__':
    run_test(test)
