"""Plays one conversation."""
import asyncio
import base64
import hashlib
import hmac
import re
import time
import uuid
from xml.sax.saxutils import escape

from convfile import BadFile
import sasl2
from peer import Peer, Trouble
from xml_match import Mismatch, match, match_value, parse_patterns

PING = "<iq type='get' id='%s'%s><ping xmlns='urn:xmpp:ping'/></iq>"


class Failure(Exception):
    """What a conversation expected is not what came; text is for a person."""


def unescape(text):
    return text.encode('latin-1', 'backslashreplace').decode('unicode_escape')


def to_bytes(text):
    return unescape(text).encode('latin-1') if all(ord(c) < 256 for c in unescape(text)) else text.encode()


class Play:
    def __init__(self, run, c, number):
        self.run, self.c, self.number = run, c, number
        self.tag = '%s%d' % (run.prefix, number)
        # limits per address must not meet other conversations
        self.address = '127.%d.%d.%d' % (1 + number // 60000, 1 + number // 250 % 250, 1 + number % 250)
        self.log = []
        self.began = time.monotonic()
        self.values = {}
        self.peers = {name: Peer(run, self, name) for name in c.clients}
        self.step = None
        self.n_ids = 0
        self.to_reset = []

    # ---- names ----
    def localpart(self, user):
        return '%s-%s' % (user, self.tag)

    def password(self, user):
        return 'pw-' + self.localpart(user)

    def bare(self, user):
        return '%s@%s' % (self.localpart(user), self.run.domain)

    def home(self, user):
        """Index of the home node of a user; different users have different homes."""
        return (self.number + (self.c.users.index(user) if user in self.c.users else 0)) % len(self.run.hosts)

    def host_of(self, peer):
        n = len(self.run.hosts)
        where = peer.options.get('node')
        if where and where.isdigit():
            return self.run.hosts[(int(where) - 1) % n]
        home = self.home(peer.user)
        if where == 'home':
            return self.run.hosts[home]
        # not at home, and every client of a user on another node, as far as there are so many
        mine = [name for name in self.c.clients if name.split('.')[0] == peer.user]
        return self.run.hosts[(home + 1 + mine.index(peer.name)) % n]

    def note(self, who, direction, text, quiet=False):
        if len(self.log) < 5000:
            self.log.append((time.monotonic() - self.began, who, direction, text, quiet))

    # ---- variables ----
    def lookup(self, name):
        if name in self.values:
            return self.values[name]
        if name == 'domain':
            return self.run.domain
        if name == 'id':
            return self.values.get('id', '')
        if name in self.c.users:
            return self.bare(name)
        if name in self.peers:
            p = self.peers[name]
            return p.jid or '%s/%s' % (self.bare(p.user), p.resource)
        head, _, prop = name.rpartition('.')
        if head in self.c.users and prop in ('user', 'password', 'jid'):
            return {'user': self.localpart, 'password': self.password, 'jid': self.bare}[prop](head)
        if head in self.peers:
            p = self.peers[head]
            known = {'h': p.received_count, 'sent': p.sent_count, 'stream': p.stream_id or '', 'bare': self.bare(p.user),
                     'resource': (p.jid or '/' + p.resource).split('/', 1)[1]}
            if prop in known:
                return str(known[prop])
        raise BadFile('%s: {%s} is not known' % (self.step, name))

    def function(self, name, text):
        data = to_bytes(text)
        if name == 'b64':
            return base64.b64encode(data).decode()
        if name in ('sha1hex', 'sha256hex'):
            return hashlib.new(name[:-3], data).hexdigest()
        if name in ('sha1b64', 'sha256b64'):
            return base64.b64encode(hashlib.new(name[:-3], data).digest()).decode()
        if name == 'upper':
            return text.upper()
        if name == 'new':
            self.values[text] = uuid.uuid4().hex[:12]
            return self.values[text]
        if name == 'times':
            n, _, what = text.partition(':')
            return what * int(n)
        if name == 'hmac256b64':
            key, _, what = text.partition(':')
            return base64.b64encode(hmac.new(to_bytes(key), to_bytes(what), 'sha256').digest()).decode()
        return None

    def expand(self, text, quote=None, lenient=False):
        """{...}, the innermost first. quote: of plain values, for XML; {raw:name} is not quoted."""
        token = re.compile(r'\{([a-z][a-zA-Z0-9_.-]*)\}|\{([a-z0-9]+):([^{}]*)\}')
        while True:
            m = token.search(text)
            if not m:
                return text
            if m.group(1) == 'id' and quote:
                self.n_ids += 1
                self.values['id'] = 'c%d' % self.n_ids
            if m.group(1):
                value = self.lookup(m.group(1))
                inside = text.rfind('{', 0, m.start()) > text.rfind('}', 0, m.start())
                if quote and not inside:
                    value = quote(value)
            elif m.group(2) == 'raw':
                value = self.lookup(m.group(3))
            else:
                value = self.function(m.group(2), m.group(3))
                if value is None:
                    raise BadFile('%s: {%s:...} is not known' % (self.step, m.group(2)))
            text = text[:m.start()] + value + text[m.end():]

    def for_pattern(self, text, lenient=False):
        if '{' not in text:
            return text
        try:
            return self.expand(text)
        except BadFile:
            if lenient:
                return text
            raise

    # ---- barrier ----
    async def sync(self):
        """When it returns, every consequence of everything sent until now has arrived where it belongs: each client asks the
        home of each user (an iq to a resource that nobody has comes back as an error from there), a write of every node
        goes through the log, and the same again for what was caused by what the first round brought."""
        live = [p for p in self.peers.values() if p.bound and not p.over]
        for round in range(3):
            await asyncio.gather(*(self.ask(p, " to='%s/imp-none'" % self.bare(u)) for p in live for u in self.c.users))
            if round == 0:
                await self.run.commit()
        await asyncio.gather(*(self.ask(p, " to='%s'" % self.run.domain) for p in live))

    async def ask(self, peer, to):
        if peer.over:
            return
        self.n_ids += 1
        id = 'imp-%d' % self.n_ids
        await peer.ask(PING % (id, to), id)

    # ---- steps ----
    def peers_of(self, step):
        if step.clients:
            return [self.peers[n] for n in step.clients]
        return [p for p in self.peers.values() if p.link]

    async def play(self):
        for step in self.c.steps:
            self.step = step
            self.note('', '##', step.text)
            handler = getattr(self, 'do_' + step.verb.replace('-', '_'))
            try:
                await handler(step)
            except (Trouble, Mismatch, OSError) as e:
                raise Failure(str(e) or type(e).__name__)
            except asyncio.TimeoutError:
                raise Failure('no connection in time')

    async def each(self, step, act):
        await asyncio.gather(*(act(p) for p in self.peers_of(step)))

    def connect_options(self, step):
        options = {k: self.expand(v) for k, v in step.options.items()}
        for w in step.words:
            if w in ('tls', 'starttls', 'tcp', 'websocket', 'bosh'):
                options['transport'] = w
            elif w == 'nobind':
                options[w] = w
            else:
                raise BadFile("%s: '%s' is no option" % (step, w))
        return options

    async def start(self, peer, options):
        if peer.link and not peer.over and not peer.is_raw:
            raise BadFile('%s: %s is connected already' % (self.step, peer.name))
        if 'transport' not in options:
            options = dict(options, transport='starttls' if (self.number + len(peer.name)) % 4 == 0 else 'tls')
        await peer.connect(**options)
        await peer.log_in()

    async def do_connect(self, step):
        options = self.connect_options(step)
        await self.each(step, lambda p: self.start(p, options))

    async def do_online(self, step):
        options = self.connect_options(step)

        async def act(p):
            if not p.bound or p.over:
                await self.start(p, options)
            else:
                p.options.update(options)
            await p.go_online()
        await self.each(step, act)
        await self.sync()
        for p in self.peers_of(step):
            p.received.clear()
        # those who were there before see the new presences too, and say so or forget them

    async def do_reconnect(self, step):
        async def act(p):
            options = {k: v for k, v in p.options.items() if k != 'nobind'}
            options.update(self.connect_options(step))
            await self.start(p, options)
        await self.each(step, act)

    async def do_raw(self, step):
        options = self.connect_options(step)

        async def act(p):
            await p.connect(**options)
            p.is_raw = True
            if getattr(p.link, 'status', None):
                p.received.append(p.link.status)
        options.setdefault('transport', 'tls')
        await self.each(step, act)

    async def do_open(self, step):
        options = {k: self.expand(v) for k, v in step.options.items()}
        for p in self.peers_of(step):
            p.open_stream(**options)

    async def do_starttls(self, step):
        await self.each(step, lambda p: p.start_tls())

    async def do_handshake(self, step):
        await self.each(step, lambda p: p.handshake())

    async def do_auth(self, step):
        options = {k: self.expand(v) for k, v in step.options.items()}
        await self.each(step, lambda p: p.authenticate(options))

    async def do_sasl2(self, step):
        options = {k: self.expand(v) for k, v in step.options.items()}
        extra = self.expand(step.block, lambda v: escape(v, {"'": '&apos;', '"': '&quot;'}))
        await self.each(step, lambda p: sasl2.authenticate(p, options, extra, Trouble))

    async def do_upgrade(self, step):
        options = {k: self.expand(v) for k, v in step.options.items()}
        await self.each(step, lambda p: sasl2.upgrade(p, options, Trouble))

    async def do_bind(self, step):
        """On a raw stream after SASL: opens the stream anew, binds; the client is like any other from then on."""
        async def act(p):
            await p.features()
            await p.bind({k: self.expand(v) for k, v in step.options.items()})
            p.is_raw = False
        await self.each(step, act)

    async def do_send(self, step):
        for p in self.peers_of(step):
            text = self.expand(step.block, lambda v: escape(v, {"'": '&apos;', '"': '&quot;'}))
            try:
                n = len([e for e in parse_patterns(text) if e.name in ('message', 'presence', 'iq')])
            except Exception:
                n = 0
            p.send(text, n)

    async def do_bytes(self, step):
        for p in self.peers_of(step):
            text = self.expand(step.block)
            p.note('->', text)
            p.link.write(to_bytes(text))

    async def do_frames(self, step):
        """WebSocket frames as they are (web.py)."""
        for p in self.peers_of(step):
            text = self.expand(step.block)
            p.note('->', text)
            p.link.frames(text, to_bytes)

    async def do_post(self, step):
        """A BOSH request; its answer is a stanza <body/>, or <http status=.../>. Several go at once."""
        for p in self.peers_of(step):
            text = self.expand(step.block)
            p.note('->', text)
            requests = text.replace('/><body ', '/>\0<body ').split('\0')
            p.link.run(p.link.post_at_once(requests) if len(requests) > 1 else p.link.post_raw(text))

    async def do_lose(self, step):
        """A BOSH request whose connection is cut before its answer."""
        for p in self.peers_of(step):
            text = self.expand(step.block)
            p.note('->', text)
            await p.link.post_raw(text, lost=True)

    def matches(self, pattern, e, exactly):
        captures = {}
        reason = match(pattern, e, self.for_pattern, captures, exactly)
        if reason is None:
            self.values.update(captures)
        return reason

    async def do_expect(self, step):
        for p in self.peers_of(step):
            if step.mode == 'unordered':
                left = list(step.patterns)
                while left:
                    e = await p.take('one of %d stanzas' % len(left))
                    reasons = []
                    for pattern in left:
                        reason = self.matches(pattern, e, False)
                        if reason is None:
                            left.remove(pattern)
                            break
                        reasons.append('line %d: %s' % (pattern.line, reason))
                    else:
                        raise Failure('%s got\n  %s\nwhich none of these expects:\n  %s' % (p.name, e, '\n  '.join(reasons)))
            elif step.mode == 'either':
                e = await p.take('one of %d alternatives' % len(step.patterns))
                reasons = [self.matches(pattern, e, False) for pattern in step.patterns]
                if None not in reasons:
                    raise Failure('%s got\n  %s\nwhich is neither:\n  %s' % (p.name, e, '\n  '.join(reasons)))
            else:
                for pattern in step.patterns:
                    e = await p.take('<%s> of line %d' % (pattern.name, pattern.line))
                    reason = self.matches(pattern, e, step.mode == 'exactly')
                    if reason:
                        raise Failure('%s got\n  %s\nbut line %d expects something else: %s' % (p.name, e, pattern.line, reason))

    async def do_seek(self, step):
        for p in self.peers_of(step):
            for pattern in step.patterns:
                seen = []
                while True:
                    try:
                        e = await p.take('<%s> of line %d' % (pattern.name, pattern.line))
                    except Trouble as t:
                        raise Failure('%s; passed over:\n  %s' % (t, '\n  '.join(seen) or 'nothing'))
                    reason = self.matches(pattern, e, step.mode == 'exactly')
                    if reason is None:
                        break
                    seen.append('%s\n    (%s)' % (e, reason))

    async def do_nothing(self, step):
        await self.sync()
        for p in self.peers_of(step):
            if p.received:
                raise Failure('%s got what nobody expected:\n  %s' % (p.name, '\n  '.join(map(str, p.received))))

    async def do_forget(self, step):
        await self.sync()
        for p in self.peers_of(step):
            p.received.clear()

    async def do_sync(self, step):
        await self.sync()

    async def do_disconnect(self, step):
        await self.each(step, lambda p: p.disconnect())

    async def do_close(self, step):
        for p in self.peers_of(step):
            p.write('</stream:stream>')

    async def do_closed(self, step):
        """The server has ended the stream and then the connection; nothing else came."""
        async def act(p):
            await p.wait(lambda: p.received or p.over, 'the end of the stream')
            if not p.received:
                await p.wait(lambda: p.received or p.lost, 'the end of the connection')
            if p.received:
                raise Failure('%s got this before the end:\n  %s' % (p.name, '\n  '.join(map(str, p.received))))
            p.bound = False
        await self.each(step, act)

    async def do_kill(self, step):
        for p in self.peers_of(step):
            p.kill()

    async def do_user(self, step):
        pass

    async def do_exclusive(self, step):
        pass

    async def do_friends(self, step):
        pairs = [(a, b) for i, a in enumerate(step.words) for b in step.words[i + 1:]]
        await self.run.subscriptions(self, [p for a, b in pairs for p in ((a, b), (b, a))])

    async def do_follows(self, step):
        await self.run.subscriptions(self, [(step.words[0], b) for b in step.words[1:]])

    async def do_let(self, step):
        name, eq, value = step.rest.partition('=')
        if not eq:
            raise BadFile('%s: let NAME = VALUE' % step)
        self.values[name.strip()] = self.expand(value.strip())

    async def do_check(self, step):
        """check VALUE = PATTERN, or != PATTERN"""
        m = re.fullmatch(r'(.*?)\s+(!?=)\s+(.*)', step.rest)
        if not m:
            raise BadFile('%s: check VALUE = PATTERN, or check VALUE != PATTERN' % step)
        value, captures = self.expand(m.group(1)), {}
        if match_value(m.group(3), value, self.for_pattern, captures) != (m.group(2) == '='):
            raise Failure("'%s' %s '%s'" % (value, 'is not' if m.group(2) == '=' else 'is', self.for_pattern(m.group(3))))
        self.values.update(captures)

    async def do_impcli(self, step):
        words = self.expand(step.rest)
        out = await self.run.impcli(self, words)
        for line in step.lines:
            if not match_value('...' + line + '...', '  ' + out + '  ', self.for_pattern, {}):
                raise Failure("impcli %s printed\n%s\nwithout '%s'" % (words, out, line))

    async def end(self):
        for p in self.peers.values():
            if p.link and not p.lost:
                p.link.transport.abort()
            p.link = None
            for link in p.web_links:
                await link.finish()
        await self.run.reset_settings(self)

    # ---- telling ----
    def explain(self, why, full):
        lines = ['FAILED %s' % self.c, '%s' % self.step, str(why), '']
        for n, text in self.c.source:
            if text.strip():
                lines.append('%s %4d  %s' % ('>>' if n == self.step.line else '  ', n, text))
        lines.append('what happened (%s = client, tag %s):' % (', '.join(self.c.clients) or 'none', self.tag))
        hidden = () if full else [p.name for p in self.peers.values() if not p.quiet]
        log = [line for line in self.log if not (line[4] and line[1] in hidden)]
        lines += ['  %7.3f %-14s %s %s' % (t, who, way, text[:2000]) for t, who, way, text, _ in log[0 if full else -60:]]
        for p in self.peers.values():
            for e in p.received:
                lines.append('  not read by %s: %s' % (p.name, e))
        return '\n'.join(lines)
