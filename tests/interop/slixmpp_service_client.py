#!/usr/bin/python3
"""slixmpp as other programs use it: a component (XEP-0114) that connects to one node and is reached from all, also
after its node was killed and it has connected to another one; carbons (0280), client states (0352), last activity
(0012) and the administrator's ad-hoc commands (0050, 0133) as its plugins speak them."""
import asyncio
import base64
import hashlib
import hmac
import sys

try:
    import slixmpp
    from slixmpp.componentxmpp import ComponentXMPP
    from slixmpp.exceptions import IqError
except ImportError:
    print('SKIP: python3-slixmpp is not installed')
    sys.exit(77)

from harness import SLOW, run_test, wait

DOMAIN = 'example.com'
ECHO = 'echo.' + DOMAIN
ADMIN = 'http://jabber.org/protocol/admin#'


class Client(slixmpp.ClientXMPP):
    def __init__(self, cluster, user, host, resource):
        super().__init__('%s@%s/%s' % (user, DOMAIN, resource), 'pw-' + user)
        self.ca_certs, self.host = cluster.ca, host
        self.queue = asyncio.Queue()
        self.up = asyncio.get_event_loop().create_future()
        for p in ('xep_0030', 'xep_0004', 'xep_0050', 'xep_0012', 'xep_0280', 'xep_0297', 'xep_0352', 'xep_0085'):
            self.register_plugin(p)
        self.add_event_handler('session_start', lambda e: self.up.done() or self.up.set_result(True))
        for event in ('message', 'presence', 'carbon_received', 'carbon_sent'):
            self.add_event_handler(event, lambda s, event=event: self.queue.put_nowait((event, s)))

    async def start(self):
        self.connect(address=(self.host, 5223), use_ssl=True, disable_starttls=True)
        await asyncio.wait_for(self.up, 30 * SLOW)
        await self.get_roster()
        self.send_presence()
        await self.expect('presence', lambda p: p['from'] == self.boundjid)
        return self

    async def expect(self, event, test, seconds=20 * SLOW):
        seen = []
        try:
            while True:
                got, s = await asyncio.wait_for(self.queue.get(), seconds)
                if got == event and test(s):
                    return s, seen
                seen.append((got, str(s)))
        except asyncio.TimeoutError:
            raise AssertionError('%s did not get the %s; got %s' % (self.boundjid, event, seen))


class Echo(ComponentXMPP):
    def __init__(self, node):
        super().__init__(ECHO, 's3cret', node.address, 5347)
        self.up = asyncio.get_event_loop().create_future()
        self.register_plugin('xep_0030')
        self.register_plugin('xep_0199')
        self.add_event_handler('session_start', lambda e: self.up.done() or self.up.set_result(True))
        self.add_event_handler('message', self.answer)

    def answer(self, m):
        if m['type'] in ('chat', 'normal'):
            m.reply('echo of ' + m['body']).send()

    async def start(self):
        self.connect()
        await asyncio.wait_for(self.up, 20 * SLOW)
        return self


async def wait_for_port(node):
    async def is_open():
        try:
            _, w = await asyncio.open_connection(node.address, 5347)
            w.close()
            return True
        except OSError:
            return False
    for _ in range(400 * SLOW):
        if await is_open():
            return
        await asyncio.sleep(0.05)
    raise AssertionError('%s does not listen for components' % node.name)


async def echoed(client, text):
    client.send_message(mto='bot@' + ECHO, mbody=text, mtype='chat')
    await client.expect('message', lambda m: m['body'] == 'echo of ' + text and m['from'].bare == 'bot@' + ECHO)


async def component(cluster, a, b, killed):
    n1 = cluster.nodes[0]
    n1.cli('settings', 'set', 'xmpp.components', ECHO)
    n1.cli('settings', 'set', 'xmpp.component_secrets', stdin='%s=s3cret' % ECHO)
    await wait_for_port(killed)
    first = await Echo(killed).start()
    await echoed(a, 'one')
    await echoed(b, 'two')
    assert (await a['xep_0030'].get_items(jid=DOMAIN, timeout=20 * SLOW))['disco_items']['items'] == {(ECHO, None, None)}
    info = await a['xep_0030'].get_info(jid=ECHO, timeout=20 * SLOW)
    assert 'urn:xmpp:ping' in info['disco_info']['features'], info
    assert await first['xep_0199'].ping(jid=DOMAIN, ifrom=ECHO, timeout=20 * SLOW) is not None
    server = await first['xep_0030'].get_info(jid=DOMAIN, ifrom=ECHO, timeout=20 * SLOW)
    assert 'urn:xmpp:carbons:2' in server['disco_info']['features'], server
    # its node dies: the others know at once, and it is at home wherever it connects again
    killed.kill()
    first.abort()
    for _ in range(400):
        a.send_message(mto='bot@' + ECHO, mbody='anybody?', mtype='chat')
        try:  # what was on its way to the node in the moment of its death is gone: this sender counts nothing
            m, _ = await a.expect('message', lambda m: m['type'] == 'error', seconds=2)
        except AssertionError:
            continue
        if m['error']['condition'] == 'remote-server-timeout':
            break
    else:
        raise AssertionError('no message to the dead node is refused')
    await wait_for_port(cluster.nodes[1])
    second = await Echo(cluster.nodes[1]).start()
    await echoed(a, 'three')
    second.abort()


async def carbons(a, b, b_phone):
    await b_phone['xep_0280'].enable()
    a.send_message(mto=b.boundjid.full, mbody='for the desk', mtype='chat')
    await b.expect('message', lambda m: m['body'] == 'for the desk')
    c, _ = await b_phone.expect('carbon_received', lambda c: True)
    assert c['carbon_received']['body'] == 'for the desk', c
    assert c['carbon_received']['from'] == a.boundjid, c
    b.send_message(mto=a.boundjid.bare, mbody='from the desk', mtype='chat')
    await a.expect('message', lambda m: m['body'] == 'from the desk')
    c, _ = await b_phone.expect('carbon_sent', lambda c: True)
    assert c['carbon_sent']['body'] == 'from the desk', c


async def states(a, b):
    """Presence waits while b is inactive, and comes before the message that does not."""
    a.send_presence_subscription(pto=b.boundjid.bare)
    await b.expect('presence', lambda p: p['type'] == 'subscribe')
    b.send_presence(pto=a.boundjid.bare, ptype='subscribed')
    b.send_presence_subscription(pto=a.boundjid.bare)
    await a.expect('presence', lambda p: p['type'] == 'subscribe')
    a.send_presence(pto=b.boundjid.bare, ptype='subscribed')
    await b.expect('presence', lambda p: p['from'] == a.boundjid and p['type'] == 'available')
    b['xep_0352'].send_inactive()
    await b['xep_0030'].get_info(jid=DOMAIN, timeout=20 * SLOW)
    for show in ('away', 'xa', 'dnd'):
        a.send_presence(pshow=show)
        await a.expect('presence', lambda p: p['from'] == a.boundjid and p['show'] == show)
    a.send_message(mto=b.boundjid.bare, mbody='look up', mtype='chat')
    _, seen = await b.expect('message', lambda m: m['body'] == 'look up')
    assert not any('>away<' in s or '>xa<' in s for _, s in seen), 'not only the last presence: %s' % seen
    b['xep_0352'].send_active()


async def last(a, b, stranger):
    seen = await a['xep_0012'].get_last_activity(b.boundjid.bare, timeout=20 * SLOW)
    assert seen['last_activity']['seconds'] == 0, seen
    up = await a['xep_0012'].get_last_activity(DOMAIN, timeout=20 * SLOW)
    assert up['last_activity']['seconds'] >= 0, up
    try:
        await stranger['xep_0012'].get_last_activity(b.boundjid.bare, timeout=20 * SLOW)
        raise AssertionError('a stranger learned it')
    except IqError as e:
        assert e.iq['error']['condition'] == 'forbidden', e.iq


async def commands(cluster, a):
    n1 = cluster.nodes[0]
    n1.cli('settings', 'set', 'xmpp.admins', a.boundjid.bare)
    for n in cluster.nodes:
        wait('the setting everywhere', lambda: n.cli('settings', 'get', 'xmpp.admins').strip() == a.boundjid.bare)
    items = await a['xep_0050'].get_commands(DOMAIN, timeout=20 * SLOW)
    nodes = {i[1] for i in items['disco_items']['items']}
    assert ADMIN + 'add-user' in nodes, nodes
    iq = await a['xep_0050'].send_command(DOMAIN, ADMIN + 'add-user', timeout=20 * SLOW)
    assert iq['command']['status'] == 'executing', iq
    form = iq['command']['form']
    form.reply()
    form['type'] = 'submit'
    form.set_values({'accountjid': 'made@' + DOMAIN, 'password': 'pw-made', 'password-verify': 'pw-made'})
    done = await a['xep_0050'].send_command(DOMAIN, ADMIN + 'add-user', action='complete', payload=form.xml,
                                            sessionid=iq['command']['sessionid'], timeout=30 * SLOW)
    assert done['command']['status'] == 'completed', done
    wait('the account', lambda: 'made' in cluster.nodes[2].cli('user', 'list'))
    made = await Client(cluster, 'made', cluster.nodes[1].address, 'x').start()
    made.disconnect()
    assert 'xmpp:' + a.boundjid.bare in n1.cli('audit', 'list'), 'not in the audit'


async def turn(cluster, a):
    """XEP-0215: credentials as a TURN server checks them that shares the secret."""
    n1 = cluster.nodes[0]
    n1.cli('settings', 'set', 'xmpp.external_services', 'turn:turn.example.com:3478/udp!')
    n1.cli('settings', 'set', 'xmpp.turn_secret', stdin='north')

    async def ask():
        iq = a.make_iq_get(ito=DOMAIN)
        iq.append(slixmpp.ET.Element('{urn:xmpp:extdisco:2}services'))
        return (await iq.send(timeout=20 * SLOW)).xml.find('.//{urn:xmpp:extdisco:2}service')
    for _ in range(400):
        service = await ask()
        if service is not None and service.get('password'):
            break
    mac = hmac.new(b'north', service.get('username').encode(), hashlib.sha1).digest()
    assert service.get('password') == base64.b64encode(mac).decode(), service.attrib
    assert service.get('username').endswith(':' + a.boundjid.local) and service.get('expires').endswith('Z'), service.attrib


async def run(cluster):
    nodes = cluster.nodes
    homes = {}
    for u in nodes[0].json('user', 'list'):
        if u['source'] == 'local':
            homes.setdefault(u['home'], []).append(u['user'])
    a = await Client(cluster, homes['n1'][0], nodes[1].address, 'desk').start()
    b = await Client(cluster, homes['n2'][0], nodes[0].address, 'desk').start()
    b_phone = await Client(cluster, homes['n2'][0], nodes[1].address, 'phone').start()
    stranger = await Client(cluster, homes['n1'][1], nodes[0].address, 'x').start()
    await carbons(a, b, b_phone)
    await states(a, b)
    await last(a, b, stranger)
    await commands(cluster, a)
    await turn(cluster, a)
    await component(cluster, a, b, nodes[2])
    for c in (a, b, b_phone, stranger):
        c.disconnect()
    await asyncio.sleep(0.2)


def test(cluster):
    cluster.start()
    for i in range(6):
        cluster.nodes[0].cli('user', 'add', 'svc%d' % i, '--password-stdin', stdin='pw-svc%d' % i)
    asyncio.get_event_loop().run_until_complete(run(cluster))


if __name__ == '__main__':
    run_test(test)
