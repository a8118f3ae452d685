"""SASL2 (XEP-0388) with passwords and tokens (XEP-0484), and upgrades (XEP-0480), as a client of a conversation does them."""
import asyncio
import base64
import hashlib
import hmac
import os
import uuid

SASL2 = 'urn:xmpp:sasl:2'


def b64(data):
    return base64.b64encode(data).decode()


def agent_of(peer, options):
    """The same client has the same id in a conversation."""
    name = options.get('agent') or peer.conversation.tag + peer.name
    if name == 'none':
        return ''
    if len(name) != 36:
        name = str(uuid.UUID(bytes=hashlib.md5(name.encode()).digest(), version=4))
    return "<user-agent id='%s'><software>conversation</software></user-agent>" % name


def token_proof(peer, mech, user, token):
    """user NUL HMAC(token, "Initiator" binding) and what the server must answer."""
    binding = peer.channel_binding() if mech.endswith('-ENDP') else b''
    proof = hmac.new(token.encode(), b'Initiator' + binding, 'sha256').digest()
    return user.encode() + b'\0' + proof, hmac.new(token.encode(), b'Responder' + binding, 'sha256').digest()


class Scram:
    def __init__(self, peer, mech, user, password, authzid):
        self.plus = mech.endswith('-PLUS')
        self.hash = mech.replace('-PLUS', '').replace('SCRAM-', '').replace('-', '').lower()
        self.peer, self.password = peer, password
        self.gs2 = ('p=tls-server-end-point' if self.plus else 'n') + ',' + ('a=' + authzid if authzid else '') + ','
        self.bare = 'n=%s,r=%s' % (user, b64(os.urandom(18)))
        self.first = (self.gs2 + self.bare).encode()

    def mac(self, key, text):
        return hmac.new(key, text, self.hash).digest()

    async def answer(self, challenge):
        said = dict(p.split('=', 1) for p in challenge.split(','))
        salted = await asyncio.get_running_loop().run_in_executor(
            None, hashlib.pbkdf2_hmac, self.hash, self.password.encode(), base64.b64decode(said['s']), int(said['i']))
        key = self.mac(salted, b'Client Key')
        final = 'c=%s,r=%s' % (b64(self.gs2.encode() + (self.peer.channel_binding() if self.plus else b'')), said['r'])
        signed = ','.join([self.bare, challenge, final]).encode()
        proof = bytes(x ^ y for x, y in zip(key, self.mac(hashlib.new(self.hash, key).digest(), signed)))
        self.verifier = b'v=' + b64(self.mac(self.mac(salted, b'Server Key'), signed)).encode()
        return ('%s,p=%s' % (final, b64(proof))).encode()


async def authenticate(peer, options, extra, trouble):
    """Sends <authenticate/> with EXTRA in it and goes on to <success/>, <failure/> or <continue/>, which stays to be
    expected. What the server proves is checked."""
    mech = options.get('mech', 'PLAIN')
    user = options.get('user', peer.conversation.localpart(peer.user))
    password = options.get('password', peer.conversation.password(peer.user))
    authzid = options.get('authzid', '')
    wants, scram = None, None
    if mech.startswith('SCRAM-'):
        scram = Scram(peer, mech, user, password, authzid)
        first = scram.first
    elif mech.startswith('HT-'):
        first, wants = token_proof(peer, mech, user, options['token'])
    else:
        first = ('%s\0%s\0%s' % (authzid, user, password)).encode()
    peer.write("<authenticate xmlns='%s' mechanism='%s'><initial-response>%s</initial-response>%s%s</authenticate>"
               % (SASL2, mech, b64(first), agent_of(peer, options), extra))
    e = await peer.take('the outcome of SASL2')
    while e.name == 'challenge' and scram:
        answer = await scram.answer(base64.b64decode(e.text).decode())
        wants = scram.verifier
        peer.write("<response xmlns='%s'>%s</response>" % (SASL2, b64(answer)))
        e = await peer.take('the outcome of SASL2')
    if e.name in ('success', 'continue') and wants:
        said = e.find('additional-data', SASL2)
        if not said or said.text != b64(wants):
            raise trouble('%s: the server does not know the secret: %s' % (peer.name, e))
    if e.name == 'success':
        settle(peer, e)
    peer.received.appendleft(e)


def settle(peer, success):
    """From here on the client is like any other, if it has a resource."""
    jid = success.find('authorization-identifier', SASL2)
    if jid and '/' in jid.text:
        peer.jid, peer.bound, peer.is_raw = jid.text, True, False


async def upgrade(peer, options, trouble):
    """The task of a <continue/> that was expected before: mech=SCRAM-SHA-512."""
    mech = options.get('mech', 'SCRAM-SHA-512')
    password = options.get('password', peer.conversation.password(peer.user))
    peer.write("<next xmlns='%s' task='UPGR-%s'/>" % (SASL2, mech))
    e = await peer.take('what the task needs')
    salt = e.find('salt', 'urn:xmpp:scram-upgrade:0')
    if not salt:
        raise trouble('%s: %s instead of a salt' % (peer.name, e))
    salted = await asyncio.get_running_loop().run_in_executor(
        None, hashlib.pbkdf2_hmac, mech.replace('SCRAM-', '').replace('-', '').lower(), password.encode(),
        base64.b64decode(salt.text), int(salt.get('iterations')))
    peer.write("<task-data xmlns='%s'><hash xmlns='urn:xmpp:scram-upgrade:0'>%s</hash></task-data>" % (SASL2, b64(salted)))
    e = await peer.take('the outcome of the task')
    if e.name == 'success':
        settle(peer, e)
    peer.received.appendleft(e)
