"""One client of a conversation: its connection, log-in and what it has received."""
import asyncio
import base64
import collections
import hashlib
import hmac
import os
import re
import ssl
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

import web
from xml_match import CLIENT, STREAMS, Parser

TLS_NS = 'urn:ietf:params:xml:ns:xmpp-tls'
SASL = 'urn:ietf:params:xml:ns:xmpp-sasl'
BIND = 'urn:ietf:params:xml:ns:xmpp-bind'
SM = 'urn:xmpp:sm:3'
STANZAS = ('message', 'presence', 'iq')


class Trouble(Exception):
    """A client did not get what it waited for."""


def b64(data):
    return base64.b64encode(data).decode()


class Link(asyncio.Protocol):
    """Bytes of a TCP or TLS connection."""

    def __init__(self, peer):
        self.peer = peer

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if self.peer.link is self:
            self.peer.feed(data)

    def connection_lost(self, error):
        if self.peer.link is self:
            self.peer.lost = True
            self.peer.note('--', 'connection closed' + (' (%s)' % error if error else ''))
            self.peer.wake()

    def write(self, data):
        self.transport.write(data)


class Peer:
    def __init__(self, run, conversation, name):
        self.run, self.conversation, self.name = run, conversation, name
        self.user, _, self.resource = name.partition('.')
        self.jid = None
        self.options = {}
        self.link = None
        self.web_links = []  # all there were: their requests end with the conversation
        # what is part of a log-in that went well is not shown
        self.quiet = False
        self.reset()

    def reset(self):
        self.received = collections.deque()
        self.bound = False
        self.is_raw = False
        self.ended = self.lost = False
        self.bad_xml = None
        self.waiter = None
        self.answers = {}
        self.parser = None
        self.received_count = self.sent_count = 0
        self.sm = self.counting = False
        self.stream_id = None
        self.last_id = ''

    def note(self, direction, text):
        self.conversation.note(self.name, direction, text, self.quiet)

    # ---- what comes ----
    def new_parser(self):
        self.parser = Parser(self.on_root, self.on_element, self.on_end)

    def feed(self, data):
        if not self.parser:
            self.new_parser()
        try:
            self.parser.feed(data)
        except expat.ExpatError as e:
            self.bad_xml = '%s in %r' % (expat.ErrorString(e.code), data[:200])
            self.note('<-', 'NO XML: ' + self.bad_xml)
            self.wake()

    def on_root(self, e):
        self.stream_id = e.get('id')
        if self.is_raw:
            self.note('<-', '%s' % e)
            self.received.append(e)
            self.wake()

    def on_end(self):
        self.ended = True
        self.note('<-', '</stream:stream>')
        self.wake()

    def on_element(self, e):
        if e.ns == CLIENT and e.name in STANZAS:
            if self.sm:
                self.received_count = (self.received_count + 1) % (1 << 32)
            id = e.get('id') or ''
            if e.name == 'iq' and id in self.answers:
                self.answers.pop(id).set_result(e)
                return
        elif e.ns == SM:
            if e.name == 'enabled':
                self.sm, self.received_count = True, 0
            elif e.name == 'resumed':
                self.sm = self.counting = True
            elif e.name == 'r' and not self.options.get('acks') == 'manual':
                self.write("<a xmlns='%s' h='%d'/>" % (SM, self.received_count), True)
                return
        self.note('<-', str(e))
        self.received.append(e)
        self.wake()

    def wake(self):
        if self.waiter and not self.waiter.done():
            self.waiter.set_result(None)
        if self.lost or self.ended or self.bad_xml:
            answers, self.answers = self.answers, {}
            for f in answers.values():
                if not f.done():
                    f.set_result(None)

    @property
    def over(self):
        return self.lost or self.ended or self.bad_xml

    async def wait(self, condition, what, timeout=None):
        end = asyncio.get_running_loop().time() + (timeout or self.run.timeout)
        while not condition():
            self.waiter = asyncio.get_running_loop().create_future()
            try:
                await asyncio.wait_for(self.waiter, end - asyncio.get_running_loop().time())
            except asyncio.TimeoutError:
                raise Trouble('%s: %s did not come in time' % (self.name, what))

    async def take(self, what='a stanza'):
        await self.wait(lambda: self.received or self.over, what)
        if not self.received:
            raise Trouble('%s: %s instead of %s' % (self.name, self.bad_xml and 'no XML came' or 'the stream ended', what))
        return self.received.popleft()

    # ---- what goes ----
    def write(self, text, hidden=False):
        if not self.link or self.lost:
            raise Trouble('%s is not connected' % self.name)
        if not hidden:
            self.note('->', text)
        self.link.write(text.encode())

    def send(self, text, n_stanzas):
        """Of a conversation: counted for XEP-0198."""
        if "xmlns='%s'" % SM in text or 'xmlns="%s"' % SM in text:
            if '<enable' in text:
                self.counting, self.sent_count = True, 0
                n_stanzas = 0
            resume = re.search(r'''<resume\s[^>]*\bh=['"](\d+)['"]''', text)
            if resume:  # what is acknowledged goes on from what the client says it has
                self.received_count = int(resume.group(1))
        if self.counting:
            self.sent_count += n_stanzas
        self.write(text)

    async def ask(self, text, id):
        """A hidden iq; its answer, or None if the stream ended."""
        answer = asyncio.get_running_loop().create_future()
        self.answers[id] = answer
        if self.counting:
            self.sent_count += 1
        self.write(text, True)
        try:
            return await asyncio.wait_for(answer, self.run.timeout)
        except asyncio.TimeoutError:
            raise Trouble('%s: no answer to %s' % (self.name, text))

    # ---- connection ----
    async def connect(self, **options):
        """The socket, with TLS if it is direct."""
        self.reset()
        self.options = options
        loop = asyncio.get_running_loop()
        self.link = Link(self)
        host = self.conversation.host_of(self)
        how = options.get('transport', 'tls')
        ports = {'tls': 5223, 'starttls': 5222, 'tcp': 5222, 'websocket': 8443, 'bosh': 8443}
        if how not in ports:
            raise Trouble("%s: transport '%s' is not one of %s" % (self.name, how, ' '.join(ports)))
        if how in web.LINKS:
            self.link = web.LINKS[how](self, host, int(options.get('port', ports[how])), self.run.tls(options))
            await self.link.connect(options)
            self.note('--', 'connected to %s (%s)' % (host, how))
            return
        args = {'local_addr': (self.conversation.address, 0)}
        if how == 'tls':
            args.update(ssl=self.run.tls(options), server_hostname=self.run.domain)
        await asyncio.wait_for(loop.create_connection(lambda: self.link, host, int(options.get('port', ports[how])), **args),
                               self.run.timeout)
        self.note('--', 'connected to %s (%s)' % (host, how))
        self.new_parser()

    def open_stream(self, **options):
        self.new_parser()
        # a stream that is opened anew continues on the same connection
        ns = options.get('ns', CLIENT)
        attrs = {'to': self.run.domain, 'version': '1.0', 'xml:lang': 'en'}
        attrs.update({k: v for k, v in options.items() if k in ('to', 'from', 'version', 'id', 'lang')})
        if 'lang' in attrs:
            attrs['xml:lang'] = attrs.pop('lang')
        text = ''.join(' %s=%s' % (k, quoteattr(v)) for k, v in attrs.items() if v != 'none')
        self.write("<?xml version='1.0'?><stream:stream%s xmlns='%s' xmlns:stream='%s'>" % (text, ns, STREAMS))

    async def features(self):
        self.open_stream()
        e = await self.take('the stream header') if self.is_raw else None
        e = await self.take('stream features')
        if e.name != 'features':
            raise Trouble('%s: %s instead of stream features' % (self.name, e))
        return e

    async def start_tls(self):
        self.write("<starttls xmlns='%s'/>" % TLS_NS)
        e = await self.take('<proceed/>')
        if e.name != 'proceed':
            raise Trouble('%s: %s instead of <proceed/>' % (self.name, e))
        await self.handshake()

    async def handshake(self):
        loop = asyncio.get_running_loop()
        self.new_parser()
        self.link.transport = await asyncio.wait_for(
            loop.start_tls(self.link.transport, self.link, self.run.tls(self.options), server_hostname=self.run.domain),
            self.run.timeout)
        self.note('--', 'TLS')

    async def log_in(self):
        """Everything up to the bound resource; hidden from what the conversation sees."""
        self.quiet = True
        if self.options.get('transport') == 'starttls':
            await self.features()
            await self.start_tls()
        await self.features()
        await self.authenticate(self.options)
        await self.features()
        if 'nobind' not in self.options:
            await self.bind(self.options)
        self.quiet = False

    async def bind(self, options):
        resource = options.get('resource', self.resource)
        body = '<resource>%s</resource>' % resource if resource else ''
        self.write("<iq type='set' id='imp-bind'><bind xmlns='%s'>%s</bind></iq>" % (BIND, body))
        e = await self.take('the answer to bind')
        b = e.find('bind', BIND)
        jid = b.find('jid', BIND) if b else None
        if not jid:
            raise Trouble('%s: %s instead of a bound resource' % (self.name, e))
        self.jid, self.bound = jid.text, True

    async def go_online(self):
        """Roster and initial presence."""
        await self.ask("<iq type='get' id='imp-roster'><query xmlns='jabber:iq:roster'/></iq>", 'imp-roster')
        priority, show = self.options.get('priority'), self.options.get('show')
        inner = ('<show>%s</show>' % show if show else '') + ('<priority>%s</priority>' % priority if priority else '')
        self.send('<presence>%s</presence>' % inner if inner else '<presence/>', 1)

    # ---- SASL ----
    async def authenticate(self, options):
        mech = options.get('mech', 'PLAIN')
        user = options.get('user', self.conversation.localpart(self.user))
        password = options.get('password', self.conversation.password(self.user))
        authzid = options.get('authzid', '')
        if mech == 'PLAIN':
            self.write("<auth xmlns='%s' mechanism='PLAIN'>%s</auth>" % (SASL, b64(('%s\0%s\0%s' % (authzid, user, password)).encode())))
            e = await self.take('the outcome of SASL')
        elif mech.startswith('SCRAM-'):
            e = await self.scram(mech, user, password, authzid)
        else:
            raise Trouble("%s: mechanism '%s' is not known to this client" % (self.name, mech))
        if e.name != 'success':
            raise Trouble('%s: log-in as %s refused: %s' % (self.name, user, e))
        self.new_parser()

    def channel_binding(self):
        ssl_object = self.link.transport.get_extra_info('ssl_object')
        return hashlib.sha256(ssl_object.getpeercert(True)).digest()

    async def scram(self, mech, user, password, authzid):
        plus = mech.endswith('-PLUS')
        hash_name = {'SCRAM-SHA-1': 'sha1', 'SCRAM-SHA-256': 'sha256', 'SCRAM-SHA-512': 'sha512'}[mech[:-5] if plus else mech]
        gs2 = ('p=tls-server-end-point' if plus else 'n') + ',' + ('a=' + authzid if authzid else '') + ','
        nonce = b64(os.urandom(18))
        first = 'n=%s,r=%s' % (user.replace('=', '=3D').replace(',', '=2C'), nonce)
        self.write("<auth xmlns='%s' mechanism='%s'>%s</auth>" % (SASL, mech, b64((gs2 + first).encode())))
        e = await self.take('a challenge')
        if e.name != 'challenge':
            return e
        challenge = base64.b64decode(e.text).decode()
        said = dict(p.split('=', 1) for p in challenge.split(','))
        salted = await asyncio.get_running_loop().run_in_executor(
            None, hashlib.pbkdf2_hmac, hash_name, password.encode(), base64.b64decode(said['s']), int(said['i']))

        def mac(key, text):
            return hmac.new(key, text, hash_name).digest()
        key = mac(salted, b'Client Key')
        final = 'c=%s,r=%s' % (b64(gs2.encode() + (self.channel_binding() if plus else b'')), said['r'])
        signed = ','.join([first, challenge, final]).encode()
        proof = bytes(x ^ y for x, y in zip(key, mac(hashlib.new(hash_name, key).digest(), signed)))
        self.write("<response xmlns='%s'>%s</response>" % (SASL, b64(('%s,p=%s' % (final, b64(proof))).encode())))
        e = await self.take('the outcome of SASL')
        if e.name == 'success' and e.text != b64(b'v=' + b64(mac(mac(salted, b'Server Key'), signed)).encode()):
            raise Trouble('%s: the server does not know the password: %s' % (self.name, e))
        return e

    # ---- the end ----
    async def disconnect(self):
        """Politely: what the server still had to do for this stream is done when it closes its side."""
        if self.link and not self.lost:
            if not self.ended:
                self.write('</stream:stream>')
                await self.wait(lambda: self.over, "the server's </stream:stream>")
            self.link.transport.close()
        self.bound = False

    def kill(self):
        """The cable is pulled out: no </stream:stream>, no close_notify."""
        self.note('--', 'killed')
        if self.link and not self.lost:
            transport = self.link.transport
            self.link = None
            transport.abort()
        self.lost, self.bound = True, False
        self.wake()
