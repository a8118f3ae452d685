"""WebSocket (RFC 7395) and BOSH (XEP-0124) below a client. A conversation speaks the XML stream as over TCP: the stream header
becomes <open/> or the session's first request, each stanza a message or payload of its own. A raw client sees and says what the
transport has: `frames` and `post`."""
import asyncio
import base64
import hashlib
import os
import re
import struct
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from xml_match import CLIENT, STREAMS, Element, Parser

FRAMING = 'urn:ietf:params:xml:ns:xmpp-framing'
HTTPBIND = 'http://jabber.org/protocol/httpbind'
XBOSH = 'urn:xmpp:xbosh'
XML = 'http://www.w3.org/XML/1998/namespace'
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
HEADER = re.compile(r'\s*(<\?xml[^>]*\?>)?\s*<stream:stream\b([^>]*)>')
END = '</stream:stream>'


def elements_of(text):
    """The elements in TEXT, each with its namespace; TEXT itself if it is none that can be parsed."""
    whole, found, depth, start = b'<w>' + text.encode('utf-8', 'surrogateescape') + b'</w>', [], 0, 0
    p = expat.ParserCreate()

    def on_start(name, attrs):
        nonlocal depth, start
        depth += 1
        if depth == 2:
            start = p.CurrentByteIndex

    def on_end(name):
        nonlocal depth
        depth -= 1
        if depth == 1:
            # an empty element ends behind its tag, others in front of their end tag
            end, tag = p.CurrentByteIndex, b'</' + name.encode()
            found.append(whole[start:whole.index(b'>', end) + 1 if whole.startswith(tag, end) else end].decode())
    p.StartElementHandler, p.EndElementHandler = on_start, on_end
    try:
        p.Parse(whole, True)
    except expat.ExpatError:
        return [text]
    return [re.sub(r'^(<[^\s/>]+)', r"\1 xmlns='%s'" % CLIENT, e, count=1)
            if not re.search(r'\sxmlns=', e[:e.index('>')]) else e for e in found]


def parse(text):
    """One document, which stands alone."""
    found = []
    parser = Parser(lambda e: None, found.append, lambda: None)
    parser.feed(b'<w>')
    parser.feed(text.encode() if isinstance(text, str) else text)
    parser.feed(b'</w>')
    return found


def attributes(text):
    return dict((k, v) for k, _, v in re.findall(r"""([\w:]+)\s*=\s*(['"])(.*?)\2""", text))


class HttpReader:
    """An answer of HTTP/1.1 with a Content-Length."""

    @staticmethod
    async def read(reader):
        head = (await reader.readuntil(b'\r\n\r\n')).decode('latin-1')
        status = int(head.split(' ', 2)[1])
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(':') for line in head.split('\r\n')[1:] if line)}
        return status, headers, await reader.readexactly(int(headers.get('content-length', 0)))


def abort(writer):
    try:
        writer.transport.abort()
    except AttributeError:
        pass  # of one that was closed twice Python 3.11 has nothing left to abort


class WebLink:
    """What peer.Link is for TCP."""

    def __init__(self, peer, host, port, context):
        self.peer, self.host, self.port, self.context = peer, host, port, context
        self.transport = self
        self.tasks, self.writers = set(), []
        peer.web_links.append(self)

    def run(self, coroutine):
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def dial(self):
        reader, writer = await asyncio.open_connection(self.host, self.port, ssl=self.context,
                                                       server_hostname=self.peer.run.domain,
                                                       local_addr=(self.peer.conversation.address, 0))
        self.writers.append(writer)
        return reader, writer

    async def finish(self):
        """Requests that nobody waits for any more, also those of a link that was given up, end with the conversation."""
        tasks = list(self.tasks)
        for t in tasks:
            t.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in self.writers:
            abort(writer)

    def lose(self, why=''):
        if self.peer.link is self and not self.peer.lost:
            self.peer.lost = True
            self.peer.note('--', 'connection closed' + (' (%s)' % why if why else ''))
            self.peer.wake()

    def got_element(self, e):
        if self.peer.link is self:
            self.peer.on_element(e)


class WebSocket(WebLink):
    async def connect(self, options):
        self.reader, self.writer = await self.dial()
        self.close_code = None
        head = ['GET %s HTTP/1.1' % options.get('path', '/xmpp-websocket'), 'Host: %s' % self.peer.run.domain, 'Upgrade: websocket',
                'Connection: Upgrade', 'Sec-WebSocket-Version: ' + options.get('version', '13')]
        key = base64.b64encode(os.urandom(16)).decode()
        head.append('Sec-WebSocket-Key: ' + key)
        if options.get('protocol', 'xmpp') != 'none':
            head.append('Sec-WebSocket-Protocol: ' + options.get('protocol', 'xmpp'))
        if 'origin' in options:
            head.append('Origin: ' + options['origin'])
        if 'forwarded' in options:
            head.append('X-Forwarded-For: ' + options['forwarded'])
        if 'deflate' in options:
            head.append('Sec-WebSocket-Extensions: permessage-deflate')
        self.writer.write(('\r\n'.join(head) + '\r\n\r\n').encode())
        status, headers, _ = await asyncio.wait_for(HttpReader.read(self.reader), self.peer.run.timeout)
        want = base64.b64encode(hashlib.sha1((key + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').encode()).digest()).decode()
        if status == 101:
            assert headers.get('sec-websocket-accept') == want, headers
            assert headers.get('sec-websocket-protocol') == 'xmpp', headers
        self.status = Element('', 'http', {('', 'status'): str(status),
                                           ('', 'extensions'): headers.get('sec-websocket-extensions', 'none')})
        if status == 101:
            self.run(self.read())

    async def read(self):
        message = b''
        try:
            while True:
                head = await self.reader.readexactly(2)
                n = head[1] & 127
                assert not head[1] & 128 and not head[0] & 0x70, 'a frame of the server is masked or uses an extension'
                if n == 126:
                    n, = struct.unpack('>H', await self.reader.readexactly(2))
                elif n == 127:
                    n, = struct.unpack('>Q', await self.reader.readexactly(8))
                data = await self.reader.readexactly(n)
                op = head[0] & 15
                if op == CLOSE:
                    self.close_code = struct.unpack('>H', data[:2])[0] if n > 1 else 1005
                    self.peer.note('<-', 'close %d' % self.close_code)
                    if self.peer.is_raw:
                        self.peer.received.append(Element('', 'close', {('', 'code'): str(self.close_code)}))
                    self.frame(CLOSE, data[:2])
                    self.writer.close()
                    break
                if op == PING:
                    self.frame(PONG, data)
                elif op == PONG:
                    self.peer.received.append(Element('', 'pong', {('', 'data'): data.decode()}))
                    self.peer.wake()
                else:
                    message += data
                    if head[0] & 128:
                        self.got(message)
                        message = b''
        except (asyncio.IncompleteReadError, ConnectionError, OSError):
            pass
        self.lose()

    def got(self, message):
        peer = self.peer
        try:
            found = parse(message)
        except expat.ExpatError as e:
            peer.bad_xml = '%s in %r' % (expat.ErrorString(e.code), message[:200])
            peer.note('<-', 'NO XML: ' + peer.bad_xml)
            peer.wake()
            return
        if len(found) != 1 or message[:1] != b'<':
            peer.bad_xml = 'not one element in a message: %r' % message[:200]
            peer.wake()
        elif found[0].ns == FRAMING and found[0].name == 'open':
            if peer.link is self:
                peer.on_root(found[0])
        elif found[0].ns == FRAMING and found[0].name == 'close':
            if peer.is_raw: # the closing of the socket is seen, too
                peer.received.append(found[0])
                peer.wake()
            elif peer.link is self:
                peer.on_end()
        else:
            self.got_element(found[0])

    def frame(self, op, data=b'', fin=True, mask=True):
        head = bytes([op | (128 if fin else 0)])
        n, m = len(data), 128 if mask else 0
        head += bytes([n | m]) if n < 126 else struct.pack('>BH', 126 | m, n) if n < 65536 else struct.pack('>BQ', 127 | m, n)
        if mask:
            key = os.urandom(4)
            data = bytes(c ^ k for c, k in zip(data, (key * (n // 4 + 1))[:n]))
            head += key
        self.writer.write(head + data)

    def write(self, data):
        text = data.decode('utf-8', 'surrogateescape')
        header = HEADER.match(text)
        if header:
            attrs = ''.join(' %s=%s' % (k, quoteattr(v)) for k, v in attributes(header.group(2)).items() if not k.startswith('xmlns'))
            self.frame(TEXT, ("<open xmlns='%s'%s/>" % (FRAMING, attrs)).encode())
            text = text[header.end():]
        end = text.endswith(END)
        if end:
            text = text[:-len(END)]
        for e in elements_of(text) if text.strip() else []:
            self.frame(TEXT, e.encode('utf-8', 'surrogateescape'))
        if end:
            self.frame(TEXT, ("<close xmlns='%s'/>" % FRAMING).encode())

    def frames(self, text, to_bytes):
        """A line each: text ..., part ... (the message goes on), more ... and last ... (of it), binary ..., ping ..., close CODE,
        unmasked ..."""
        for line in text.strip().split('\n'):
            kind, _, rest = line.strip().partition(' ')
            data = to_bytes(rest)
            if kind == 'close':
                self.frame(CLOSE, struct.pack('>H', int(rest)) if rest else b'')
            else:
                op, fin = {'text': (TEXT, True), 'part': (TEXT, False), 'more': (0, False), 'last': (0, True), 'binary': (BINARY, True),
                           'ping': (PING, True), 'unmasked': (TEXT, True)}[kind]
                self.frame(op, data, fin, kind != 'unmasked')

    def close(self):
        self.writer.close()

    def abort(self):
        self.writer.transport.abort()

    def get_extra_info(self, name):
        return self.writer.get_extra_info(name)


class Bosh(WebLink):
    def __init__(self, *args):
        super().__init__(*args)
        self.sid, self.rid, self.held, self.waiting = None, int.from_bytes(os.urandom(4), 'big') + 1, 0, []
        self.over, self.idle = False, []
        self.next_answer, self.early = None, {}
        self.last_writer = None

    async def connect(self, options):
        self.options = options
        self.status = None

    def request(self, text):
        head = ['POST %s HTTP/1.1' % self.options.get('path', '/http-bind'), 'Host: %s' % self.peer.run.domain]
        if self.options.get('origin'):
            head.append('Origin: ' + self.options['origin'])
        head += ['Content-Type: text/xml; charset=utf-8', 'Content-Length: %d' % len(text.encode())]
        return ('\r\n'.join(head) + '\r\n\r\n' + text).encode()

    async def post(self, text):
        """(status, headers, body); a connection is used again."""
        while True:
            again = bool(self.idle)
            reader, writer = self.idle.pop() if again else await self.dial()
            self.last_writer = writer
            writer.write(self.request(text))
            try:
                answer = await HttpReader.read(reader)
            except (asyncio.IncompleteReadError, ConnectionError):
                if again:
                    continue
                raise
            if answer[1].get('connection', '').lower() == 'close':
                writer.close()
            else:
                self.idle.append((reader, writer))
            return answer

    # ---- raw ----
    def post_raw(self, text, lost=False):
        """LOST: the connection is cut before the answer."""
        async def go():
            if lost:
                reader, writer = await self.dial()
                writer.write(('POST /http-bind HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s' % (len(text.encode()), text)).encode())
                await writer.drain()
                # the server has it when it can answer another one that came later
                await self.post('<none/>')
                abort(writer)
                return
            self.took(*await self.post(text))
        return go()

    def post_at_once(self, texts):
        """Requests in one write on one connection. Where it ends: <http status='closed'/>."""
        async def go():
            reader, writer = await self.dial()
            writer.write(b''.join(self.request(t) for t in texts))
            try:
                for _ in texts:
                    self.took(*await HttpReader.read(reader))
            except (asyncio.IncompleteReadError, ConnectionError):
                self.took('closed', {}, b'')
            writer.close()
        return go()

    def took(self, status, headers, body):
        if status != 200:
            e = Element('', 'http', {('', 'status'): str(status)})
        else:
            e = parse(body)[0]
            e.attrs[('', 'content-type')] = headers.get('content-type', '')
            e.attrs[('', 'allow-origin')] = headers.get('access-control-allow-origin', 'none')
        self.peer.note('<-', str(e))
        self.peer.received.append(e)
        self.peer.wake()

    # ---- as a stream ----
    def write(self, data):
        text = data.decode()
        header = HEADER.match(text)
        if header:
            a = attributes(header.group(2))
            known = ''.join(' %s=%s' % (k, quoteattr(a[k])) for k in ('to', 'from', 'xml:lang') if k in a)
            if self.sid is None:
                self.sid = ''
                self.ask(known + " ver='1.11' wait='20' hold='1' xmlns:xmpp='%s' xmpp:version=%s" %
                         (XBOSH, quoteattr(a.get('version', '1.0'))), '')
            else:
                self.ask(known + " xmlns:xmpp='%s' xmpp:restart='true'" % XBOSH, '')
            text = text[header.end():]
        end = text.endswith(END)
        if end:
            text = text[:-len(END)]
        if text.strip() or end:
            self.ask(" type='terminate'" if end else '', ''.join(elements_of(text)) if text.strip() else '')

    def ask(self, attrs, payload):
        if self.sid == '' and 'ver=' not in attrs:
            self.waiting.append((attrs, payload))
            return
        if self.held >= 2 and 'terminate' not in attrs:
            self.waiting.append((attrs, payload))
            return
        sid = " sid='%s'" % self.sid if self.sid else ''
        self.rid += 1
        self.held += 1
        if self.next_answer is None:
            self.next_answer = self.rid
        self.run(self.exchange(self.rid, "<body xmlns='%s' rid='%d'%s%s>%s</body>" % (HTTPBIND, self.rid, sid, attrs, payload)))

    async def exchange(self, rid, text):
        try:
            status, _, body = await self.post(text)
        except (OSError, asyncio.IncompleteReadError) as e:
            self.lose(str(e))
            return
        self.early[rid] = (status, body)
        while self.next_answer in self.early:
            status, body = self.early.pop(self.next_answer)
            self.next_answer += 1
            self.held -= 1
            self.take(status, body)
        while self.waiting and self.held < 2 and self.sid and not self.over:
            # all that waits goes in one
            attrs, payload = self.waiting.pop(0)
            while not attrs and self.waiting and not self.waiting[0][0]:
                payload += self.waiting.pop(0)[1]
            self.ask(attrs, payload)
        if not self.held and not self.over and self.sid:
            self.ask('', '')

    def take(self, status, body):
        if self.peer.link is not self:
            return
        if status != 200:
            self.over = True
            self.lose('HTTP %d' % status)
            return
        wrapper = parse(body)[0]
        if self.sid == '':
            self.sid = wrapper.get('sid')
            self.peer.on_root(wrapper)
        for e in wrapper.children:
            self.got_element(e)
        if wrapper.get('type') == 'terminate':
            self.over = True
            self.peer.on_end()
            self.lose()

    def close(self):
        self.over = True
        for _, writer in self.idle:
            writer.close()
        self.idle = []

    def abort(self):
        self.close()
        for t in list(self.tasks):
            t.cancel()

    def get_extra_info(self, name):
        return self.last_writer.get_extra_info(name) if self.last_writer else None


LINKS = {'websocket': WebSocket, 'bosh': Bosh}
