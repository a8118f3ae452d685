#!/usr/bin/python3
"""Stream management (XEP-0198) under load: connections, edges and homes of resuming clients are killed while messages flow.
What was acknowledged to the sender reaches the recipient, in order; what comes twice carries the same stanza-id."""
import asyncio
import base64
import re

from harness import SLOW, run_test, step
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
        await self.open_stream()
        token = base64.b64encode(('\0%s\0%s' % (self.user, self.password)).encode()).decode()
        self.write("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>%s</auth>" % token)
        answer = await self.read_until(r'<success[^>]*/?>(</success>)?|</failure>|</stream:stream>')
        if '<success' not in answer:
            raise Closed(answer)
        features = await self.open_stream()
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


async def all_there(flow, bob):
    end = asyncio.get_event_loop().time() + WAIT
    while flow.ann.unacked or not bob.got or int(body_of(bob.got[-1])) < flow.n:
        assert asyncio.get_event_loop().time() < end, '%d not acknowledged, bob has %s of %d' % (
            len(flow.ann.unacked), bob.got[-1:], flow.n)
        flow.ann.ask()
        await asyncio.sleep(0.1)


def test(cluster):
    cluster.start()
    n1, n2, n3 = cluster.nodes
    cluster.add_local_users(['ann', 'bob'])
    n1.cli('user', 'assign', 'ann', '--node', 'n2')
    n1.cli('user', 'assign', 'bob', '--node', 'n3')

    def active(user):
        return n1.json('user', 'show', user)['active_home']

    async def main(archived):
        await until('both are at home', lambda: active('ann') == 'n2' and active('bob') == 'n3')
        ann, enabled = await log_in(cluster, 'ann', n1)
        assert 'location=' in enabled and "max='600'" in enabled, enabled
        bob, _ = await log_in(cluster, 'bob', n1)
        flow = Flow(ann)
        task = asyncio.ensure_future(flow.run())
        hosts = [n.address for n in cluster.nodes]

        async def some(k):
            n = len(bob.got)
            await until('messages flow', lambda: len(bob.got) >= n + k)
        step('connections are cut; both come back through other nodes')
        for i in range(3):
            await some(50)
            bob.cut()
            await bob.resume([hosts[(i + 1) % 3]])
            await some(20)
            ann.cut()
            await ann.resume([hosts[(i + 2) % 3]])
        await all_there_while(flow, task, bob)
        repeats = check(bob, flow.n, archived)
        assert repeats == 0, 'a living home repeats %d' % repeats

        step('the home of bob dies')
        flow.stop = False
        task = asyncio.ensure_future(flow.run())
        await some(30)
        n3.kill()
        await bob.resume([n1.address, n2.address])
        await some(50)
        if ann.closed:
            await ann.resume([n1.address, n2.address])
        await all_there_while(flow, task, bob)
        print('%d messages, %d of them repeated after the death of the recipient\'s home' % (flow.n, check(bob, flow.n, archived)))
        n3.start()
        await until('bob is at home on n3', lambda: active('bob') == 'n3', 60)
        if bob.closed or await closes(bob):
            await bob.resume(hosts)

        step('the home of ann dies')
        flow.stop = False
        task = asyncio.ensure_future(flow.run())
        await some(30)
        n2.kill()
        await ann.resume([n1.address, n3.address])
        if bob.closed:
            await bob.resume([n1.address, n3.address])
        await some(50)
        await all_there_while(flow, task, bob)
        print('%d messages, %d of them repeated in the end' % (flow.n, check(bob, flow.n, archived)))
        for c in (ann, bob):
            await c.close()
        n2.start()
        await until('all run', lambda: active('ann') == 'n2', 60)

    async def closes(c):
        for _ in range(50):
            if c.closed:
                return True
            await asyncio.sleep(0.1)
        return False

    async def all_there_while(flow, task, bob):
        flow.stop = True
        await task
        await all_there(flow, bob)
    asyncio.run(main(True))
    step('the same without archives: directly to who is there')
    n1.cli('settings', 'set', 'archive.default', 'never')
    asyncio.run(main(False))


if __name__ == '__main__':
    run_test(test)
