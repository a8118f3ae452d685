#!/usr/bin/python3
"""slixmpp against a cluster: STARTTLS and direct TLS, SCRAM (local users) and PLAIN (users of the call
manager), roster with versions, subscriptions, presence, messages, offline messages, disco, ping, version, time, vCard,
directory search; on any node."""
import asyncio
import sys

try:
    import slixmpp
    from slixmpp.exceptions import IqError
except ImportError:
    print('SKIP: python3-slixmpp is not installed')
    sys.exit(77)

import slixmpp_pep
from harness import SLOW, run_test, wait

DOMAIN = 'example.com'


class Client(slixmpp.ClientXMPP):
    def __init__(self, cluster, user, host, direct=False, mech=None, password=None):
        super().__init__('%s@%s' % (user, DOMAIN), password or 'pw-' + user, sasl_mech=mech)
        self.ca_certs = cluster.ca
        self.host, self.direct = host, direct
        self.queue = asyncio.Queue()
        loop = asyncio.get_event_loop()
        self.up, self.refused = loop.create_future(), loop.create_future()
        for p in ('xep_0030', 'xep_0054', 'xep_0055', 'xep_0092', 'xep_0199', 'xep_0202', 'xep_0203', 'xep_0004'):
            self.register_plugin(p)
        self.add_event_handler('session_start', lambda e: self.up.done() or self.up.set_result(True))
        self.add_event_handler('failed_all_auth', lambda e: self.refused.done() or self.refused.set_result(True))
        self.add_event_handler('message', lambda m: self.queue.put_nowait(m))
        self.add_event_handler('presence', lambda p: self.queue.put_nowait(p))
        self.auto_authorize = None
        self.auto_subscribe = False

    async def start(self, presence=True):
        self.connect(address=(self.host, 5223 if self.direct else 5222), use_ssl=self.direct, disable_starttls=self.direct)
        done, _ = await asyncio.wait([self.up, self.refused], timeout=30 * SLOW, return_when=asyncio.FIRST_COMPLETED)
        assert done, '%s: no log-in on %s' % (self.boundjid, self.host)
        if self.refused.done():
            return None
        await self.get_roster()
        if presence:
            self.send_presence()
        return self

    async def expect(self, what, test, timeout=20):
        end = asyncio.get_event_loop().time() + timeout * SLOW
        seen = []
        while True:
            left = end - asyncio.get_event_loop().time()
            try:
                s = await asyncio.wait_for(self.queue.get(), max(left, 0.01))
            except asyncio.TimeoutError:
                raise AssertionError('%s did not get %s; got %s' % (self.boundjid, what, [str(x) for x in seen]))
            if test(s):
                return s
            seen.append(s)

    async def expect_body(self, body):
        return await self.expect('message %r' % body, lambda s: s.name == 'message' and s['body'] == body)

    async def expect_presence(self, jid, type):
        return await self.expect('presence %s of %s' % (type, jid),
                                 lambda s: s.name == 'presence' and s['type'] == type and str(s['from']).startswith(jid))


async def end(*clients):
    for c in clients:
        c.disconnect()
    await asyncio.sleep(0.2)


async def subscriptions(a, b):
    a.send_presence_subscription(pto=b.boundjid.bare)
    await b.expect_presence(a.boundjid.bare, 'subscribe')
    b.send_presence(pto=a.boundjid.bare, ptype='subscribed')
    await a.expect_presence(b.boundjid.bare, 'subscribed')
    await a.expect_presence(b.boundjid.full, 'available')
    b.send_presence_subscription(pto=a.boundjid.bare)
    await a.expect_presence(b.boundjid.bare, 'subscribe')
    a.send_presence(pto=b.boundjid.bare, ptype='subscribed')
    await b.expect_presence(a.boundjid.full, 'available')
    # with the version that the pushes brought, nothing is new; without a version all of it comes
    assert 'rosterver' in a.features
    assert not (await a.get_roster())['roster']['items']
    assert a.client_roster[b.boundjid.bare]['subscription'] == 'both', a.client_roster[b.boundjid.bare]
    iq = a.Iq()
    iq['type'] = 'get'
    iq.enable('roster')
    items = (await iq.send(timeout=20 * SLOW))['roster']['items']
    assert items[slixmpp.JID(b.boundjid.bare)]['subscription'] == 'both', items
    # the name comes from the directory
    assert items[slixmpp.JID(b.boundjid.bare)]['name'], 'a company user has no name in the roster: %s' % items


async def services(a, b):
    info = await a['xep_0030'].get_info(jid=DOMAIN, timeout=20 * SLOW)
    features = info['disco_info']['features']
    for f in ('jabber:iq:roster', 'urn:xmpp:ping', 'jabber:iq:version', 'urn:xmpp:time', 'vcard-temp', 'jabber:iq:search'):
        # roster is a stream feature on some servers; here everything a client may ask for is listed
        assert f in features or f == 'jabber:iq:roster', '%s is not in %s' % (f, features)
    assert await a['xep_0199'].ping(jid=DOMAIN, timeout=20 * SLOW) is not None
    version = await a['xep_0092'].get_version(DOMAIN, timeout=20 * SLOW)
    assert version['software_version']['name'] == 'imp', version
    time = await a['xep_0202'].get_entity_time(DOMAIN, timeout=20 * SLOW)
    # its own reader appends a second Z
    assert time['entity_time']._get_sub_text('utc').endswith('Z'), time
    card = await a['xep_0054'].get_vcard(jid=b.boundjid.bare, timeout=20 * SLOW)
    assert card['vcard_temp']['FN'], 'no name in %s' % card
    try:
        await a['xep_0054'].get_vcard(jid='nobody@' + DOMAIN, timeout=20 * SLOW)
        raise AssertionError('a vCard of nobody')
    except IqError as e:
        assert e.iq['error']['condition'] in ('service-unavailable', 'item-not-found'), e.iq
    # XEP-0055 by its form: find the other user by the name in the directory
    iq = a.make_iq_set(ito=DOMAIN)
    query = iq.xml.makeelement('{jabber:iq:search}query', {})
    last = query.makeelement('{jabber:iq:search}last', {})
    last.text = card['vcard_temp']['FN'].split()[-1]
    query.append(last)
    iq.append(query)
    found = await iq.send(timeout=20 * SLOW)
    assert b.boundjid.bare in str(found), found


async def messages(cluster, a, b):
    a.send_message(mto=b.boundjid.bare, mbody='one', mtype='chat')
    m = await b.expect_body('one')
    assert m['from'] == a.boundjid.full
    b.send_message(mto=a.boundjid.full, mbody='two', mtype='chat')
    await a.expect_body('two')
    a.send_message(mto='nobody@' + DOMAIN, mbody='lost?', mtype='chat')
    await a.expect('an error', lambda s: s.name == 'message' and s['type'] == 'error' and
                   s['error']['condition'] == 'service-unavailable')
    # away: unavailable is seen, what comes is kept
    bare = b.boundjid.bare
    full = b.boundjid.full
    await end(b)
    await a.expect_presence(full, 'unavailable')
    for i in range(3):
        a.send_message(mto=bare, mbody='kept %d' % i, mtype='chat')
    again = await Client(cluster, bare.split('@')[0], cluster.nodes[2].address).start()
    for i in range(3):
        m = await again.expect('kept %d' % i, lambda s: s.name == 'message')
        assert m['body'] == 'kept %d' % i and m['delay']['stamp'], m
    return again


async def mechanisms(cluster, host):
    """Every mechanism for a local user. slixmpp 1.8.3 says in SCRAM that the server offers no -PLUS (gs2 flag 'y'), also
    when it does: forced to SCRAM it gets in only if the cluster is lenient (RFC 5802, section 6). Left alone it falls back.
    Its own -PLUS knows tls-unique only, which TLS 1.3 does not have."""
    n1, n3 = cluster.nodes[0], cluster.nodes[2]

    def binding(value):
        n1.cli('settings', 'set', 'xmpp.channel_binding', value)
        wait('n3 has the setting', lambda: n3.cli('settings', 'get', 'xmpp.channel_binding') == value + '\n')
    binding('lenient')
    for mech in ('SCRAM-SHA-1', 'SCRAM-SHA-256', 'PLAIN', None):
        c = await Client(cluster, 'local', host, mech=mech, direct=mech is None).start()
        assert c, 'log-in of a local user with %s failed' % mech
        await end(c)
    binding('strict')
    c = await Client(cluster, 'local', host, mech='SCRAM-SHA-256').start()
    assert c is None, 'a client that was made to miss the offer of -PLUS got in'
    for direct in (False, True):
        c = await Client(cluster, 'local', host, direct=direct).start()
        assert c, 'slixmpp found no way in beside strict channel binding'
        await end(c)


async def run(cluster):
    hosts = [n.address for n in cluster.nodes]
    first = [u['user'] for u in cluster.nodes[0].json('user', 'list', '--node', 'n1') if u['source'] == 'axl'][0]
    second = [u['user'] for u in cluster.nodes[0].json('user', 'list', '--node', 'n2') if u['source'] == 'axl'][0]
    # PLAIN through the call manager; every mechanism for a local user; wrong password
    a = await Client(cluster, first, hosts[0], mech='PLAIN').start()
    b = await Client(cluster, second, hosts[1], direct=True).start()
    assert a and b
    await mechanisms(cluster, hosts[2])
    for user in ('local', first, 'nobody'):
        c = await Client(cluster, user, hosts[1], password='wrong').start()
        assert c is None, 'a wrong password of %s was taken' % user
    await subscriptions(a, b)
    await services(a, b)
    b = await messages(cluster, a, b)
    # the same through foreign nodes: both are relayed
    c = await Client(cluster, first, hosts[2]).start()
    c.send_message(mto=b.boundjid.full, mbody='relayed', mtype='chat')
    await b.expect_body('relayed')
    await end(a, b, c)
    await slixmpp_pep.run(lambda: Client(cluster, first, hosts[2]), lambda: Client(cluster, second, hosts[0]), 20 * SLOW)


def test(cluster):
    cluster.users = 30
    cluster.start()
    cluster.nodes[0].cli('user', 'add', 'local', '--password-stdin', '--name', 'Local User', stdin='pw-local\n')
    asyncio.get_event_loop().run_until_complete(run(cluster))
    # kicked and locked
    cluster.check_equal()


if __name__ == '__main__':
    run_test(test)
