"""A small XMPP client for load and edge cases: asyncio, raw stanzas, no library in between.

For what a real client does see tests/interop. Everything a test must see (every stanza, stream errors, the end) is
kept in self.stanzas as text, in order.
"""
import asyncio
import base64
import re
import ssl

STREAM = ("<?xml version='1.0'?><stream:stream to='%s' version='1.0' xmlns='jabber:client' "
          "xmlns:stream='http://etherx.jabber.org/streams'>")


class Closed(Exception):
    pass


class Client:
    def __init__(self, user, password=None, host='127.0.0.1', domain='example.com', ca=None, direct=False, port=None):
        self.user, self.password = user, password or 'pw-' + user
        self.host, self.domain, self.direct = host, domain, direct
        self.port = port or (5223 if direct else 5222)
        self.tls = ssl.create_default_context(cafile=ca)
        if ca is None:
            self.tls.check_hostname = False
            self.tls.verify_mode = ssl.CERT_NONE
        self.jid = None
        self.stanzas = []
        self.on_stanza = None
        self.buffer = ''
        self.closed = False
        self.event = asyncio.Event()
        self.task = None

    # ---- stream ----
    async def open_socket(self):
        if self.direct:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port, ssl=self.tls,
                                                                     server_hostname=self.domain, limit=1 << 20)
        else:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port, limit=1 << 20)

    async def read_until(self, pattern):
        while True:
            m = re.search(pattern, self.buffer, re.S)
            if m:
                found = self.buffer[:m.end()]
                self.buffer = self.buffer[m.end():]
                return found
            data = await self.reader.read(65536)
            if not data:
                raise Closed(self.buffer)
            self.buffer += data.decode()

    def write(self, text):
        self.writer.write(text.encode())

    async def open_stream(self):
        self.write(STREAM % self.domain)
        answer = await self.read_until(r'</stream:features>|<stream:features\s*/>|</stream:stream>')
        if '<stream:error' in answer:
            raise Closed(answer)
        return answer

    async def start_tls(self):
        features = await self.open_stream()
        if '<starttls' not in features:
            raise Closed(features)
        self.write("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
        await self.read_until(r'<proceed[^>]*/>')
        await self.writer.start_tls(self.tls, server_hostname=self.domain)

    async def authenticate(self):
        """PLAIN. Returns the features behind it."""
        await self.open_stream()
        token = base64.b64encode(('\0%s\0%s' % (self.user, self.password)).encode()).decode()
        self.write("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>%s</auth>" % token)
        answer = await self.read_until(r'<success[^>]*/?>(</success>)?|</failure>|</stream:stream>')
        if '<success' not in answer:
            raise Closed(answer)
        return await self.open_stream()

    async def log_in(self, resource=None):
        """Connect, TLS, PLAIN, bind. Returns self."""
        await self.open_socket()
        if not self.direct:
            await self.start_tls()
        await self.authenticate()
        self.write("<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>%s</bind></iq>"
                   % ('<resource>%s</resource>' % resource if resource else ''))
        answer = await self.read_until(r'</iq>|</stream:stream>')
        m = re.search('<jid>(.*?)</jid>', answer)
        if not m:
            raise Closed(answer)
        self.jid = m.group(1)
        self.task = asyncio.ensure_future(self.read_all())
        return self

    # ---- established ----
    async def read_all(self):
        """Splits the input into stanzas; nothing in tests nests a stanza's own name, but forwarded errors."""
        try:
            while True:
                data = await self.reader.read(262144)
                if not data:
                    break
                self.buffer += data.decode()
                while True:
                    m = re.match(r'\s*<([a-z:]+)(?:\s[^>]*?)?(/?)>', self.buffer, re.S)
                    if not m:
                        if self.buffer.lstrip().startswith('</stream'):
                            self.closed = True
                        break
                    if m.group(2):
                        end = m.end()
                    else:
                        close = '</%s>' % m.group(1)
                        at = self.buffer.find(close, m.end())
                        if at < 0:
                            break
                        end = at + len(close)
                    self.add(self.buffer[:end].strip())
                    self.buffer = self.buffer[end:]
        except (ConnectionError, ssl.SSLError, asyncio.CancelledError):
            pass
        self.closed = True
        self.event.set()

    def add(self, stanza):
        if stanza.startswith('<iq') and 'urn:xmpp:ping' in stanza and "type='get'" in stanza.replace('"', "'"):
            m = re.search(r'''id=['"](.*?)['"]''', stanza)
            self.write("<iq type='result' id='%s' to='%s'/>" % (m.group(1), self.domain))
        if self.on_stanza:
            self.on_stanza(stanza)
        else:
            self.stanzas.append(stanza)
        self.event.set()

    async def expect(self, test, timeout=20):
        """The first stanza (also of those that came before) for which test(text) holds; it is taken out."""
        end = asyncio.get_event_loop().time() + timeout
        while True:
            for i, s in enumerate(self.stanzas):
                if test(s):
                    return self.stanzas.pop(i)
            if self.closed:
                raise Closed('stream ended; had %r' % self.stanzas[-3:])
            left = end - asyncio.get_event_loop().time()
            if left <= 0:
                raise asyncio.TimeoutError('not received; had %r' % self.stanzas[-5:])
            self.event.clear()
            try:
                await asyncio.wait_for(self.event.wait(), left)
            except asyncio.TimeoutError:
                pass

    async def iq(self, type, body, to=None, id='q', timeout=20):
        self.write("<iq type='%s' id='%s'%s>%s</iq>" % (type, id, " to='%s'" % to if to else '', body))
        pattern = re.compile(r'''<iq[^>]*\bid=['"]%s['"]''' % re.escape(id))
        return await self.expect(lambda s: pattern.match(s), timeout)

    async def roster(self):
        return await self.iq('get', "<query xmlns='jabber:iq:roster'/>", id='roster')

    def presence(self, body='', **attrs):
        self.write('<presence%s>%s</presence>' % (''.join(" %s='%s'" % a for a in attrs.items()), body))

    def message(self, to, text, type='chat', id=None):
        self.write("<message to='%s' type='%s'%s><body>%s</body></message>" % (to, type, " id='%s'" % id if id else '', text))

    async def close(self):
        if self.task:
            self.task.cancel()
        try:
            self.writer.write(b'</stream:stream>')
            self.writer.close()
        except (ConnectionError, RuntimeError):
            pass


def body_of(stanza):
    m = re.search('<body>(.*?)</body>', stanza, re.S)
    return m.group(1) if m else None


def is_message(text=None):
    return lambda s: s.startswith('<message') and (text is None or body_of(s) == text)


def is_presence(jid, type=None):
    def test(s):
        if not s.startswith('<presence'):
            return False
        head = s[:s.index('>')]
        t = re.search(r'''\btype=['"](.*?)['"]''', head)
        f = re.search(r'''\bfrom=['"](.*?)['"]''', head)
        return (t.group(1) if t else None) == type and bool(f) and f.group(1).startswith(jid)
    return test


def is_error(stanza):
    return stanza.startswith('<message') and re.search(r"""\btype=['"]error['"]""", stanza[:stanza.index('>')])


async def say(a, b, text, timeout=20):
    """A writes to B's account, and B gets it. Without that the error stanza that A got instead says why."""
    a.message(b.jid.split('/')[0], text)
    got = asyncio.ensure_future(b.expect(is_message(text), timeout))
    refused = asyncio.ensure_future(a.expect(is_error, timeout + 5))
    try:
        await asyncio.wait({got, refused}, return_when=asyncio.FIRST_COMPLETED)
        if got.done():
            return got.result()
        raise AssertionError('%r of %s came back: %s' % (text, a.jid, refused.result()))
    finally:
        got.cancel()
        refused.cancel()
        await asyncio.gather(got, refused, return_exceptions=True)


async def befriend(a, b, timeout):
    """Both log-ins see each other's presence."""
    for x, y in ((a, b), (b, a)):
        x_jid, y_jid = x.jid.split('/')[0], y.jid.split('/')[0]
        x.presence(to=y_jid, type='subscribe')
        await y.expect(is_presence(x_jid, 'subscribe'), timeout)
        y.presence(to=x_jid, type='subscribed')
        await x.expect(is_presence(y_jid, 'subscribed'), timeout)
