"""slixmpp's own plugins against PEP: capabilities that the server verifies (0115), mood (0107) and tune (0118) by
+notify (0163), generic nodes (0060), avatars in both forms (0084, 0153), bookmarks in both old forms (0048), private
XML (0049), vCards (0054)."""
import asyncio
import hashlib

from slixmpp.exceptions import IqError
from slixmpp.plugins.xep_0048.stanza import Bookmarks

PLUGINS = ('xep_0060', 'xep_0163', 'xep_0115', 'xep_0107', 'xep_0118', 'xep_0084', 'xep_0153', 'xep_0048', 'xep_0049',
           'xep_0223')
IMAGE = b'\x89PNG\r\n\x1a\n' + bytes(range(256)) * 8
METADATA = 'urn:xmpp:avatar:metadata'


class Events:
    """What the plugins tell, in order."""

    def __init__(self, client, *names):
        self.queue = asyncio.Queue()
        for name in names:
            client.add_event_handler(name, lambda stanza, name=name: self.queue.put_nowait((name, stanza)))

    async def expect(self, wanted, test, timeout):
        while True:
            name, stanza = await asyncio.wait_for(self.queue.get(), timeout)
            if name == wanted and test(stanza):
                return stanza


async def connect(make, timeout, without=(), known=False):
    """A client with the plugins, whose capabilities were asked for before it goes on, unless they are KNOWN already."""
    client = make()
    for p in PLUGINS:
        if p not in without:
            client.register_plugin(p)
    asked = asyncio.get_event_loop().create_future()
    events = Events(client, 'user_mood_publish', 'user_tune_publish', 'avatar_metadata_publish', 'vcard_avatar_update')
    client.add_filter('in', lambda s: (asked.done() or 'disco#info' not in str(s) or s['type'] != 'get' or
                                       asked.set_result(True), s)[1])
    client['xep_0163'].add_interest('http://jabber.org/protocol/mood')
    client['xep_0163'].add_interest('http://jabber.org/protocol/tune')
    client['xep_0163'].add_interest(METADATA)
    assert await client.start()
    await client['xep_0115'].update_caps()
    if not known:
        await asyncio.wait_for(asked, timeout)
    return client, events


async def when_there(ask, timeout):
    """The other user's home answers from its own copy, which may be a moment behind."""
    end = asyncio.get_event_loop().time() + timeout
    while True:
        try:
            return await ask()
        except IqError as e:
            if e.condition != 'item-not-found' or asyncio.get_event_loop().time() > end:
                raise
        await asyncio.sleep(0.05)


async def nodes(a, b, b_events, timeout):
    await a['xep_0107'].publish_mood('happy', 'it works')
    got = await b_events.expect('user_mood_publish', lambda m: m['from'].bare == a.boundjid.bare, timeout)
    assert got['pubsub_event']['items']['item']['mood']['value'] == 'happy', got
    await a['xep_0118'].publish_tune(artist='Gerald Finzi', title='Introduction')
    got = await b_events.expect('user_tune_publish', lambda m: m['from'].bare == a.boundjid.bare, timeout)
    assert got['pubsub_event']['items']['item']['tune']['artist'] == 'Gerald Finzi', got
    found = await b['xep_0060'].get_items(a.boundjid.bare, 'http://jabber.org/protocol/tune', timeout=timeout)
    assert len(found['pubsub']['items']) == 1, found
    config = await a['xep_0060'].get_node_config(a.boundjid.bare, 'http://jabber.org/protocol/tune', timeout=timeout)
    form = config['pubsub_owner']['configure']['form']
    assert form['values']['pubsub#access_model'] == 'presence', form
    await a['xep_0060'].create_node(a.boundjid.bare, 'urn:example:node', timeout=timeout)
    await a['xep_0060'].delete_node(a.boundjid.bare, 'urn:example:node', timeout=timeout)
    try:
        await a['xep_0060'].get_items(a.boundjid.bare, 'urn:example:node', timeout=timeout)
        raise AssertionError('a deleted node was read')
    except IqError as e:
        assert e.condition == 'item-not-found', e.iq


async def avatars(a, b, b_events, timeout):
    digest = hashlib.sha1(IMAGE).hexdigest()
    await a['xep_0084'].publish_avatar(IMAGE)
    await a['xep_0084'].publish_avatar_metadata({'id': digest, 'type': 'image/png', 'bytes': str(len(IMAGE))})
    await b_events.expect('avatar_metadata_publish', lambda m: m['from'].bare == a.boundjid.bare, timeout)
    # the other form: hash in the presence, image in the vCard
    await b_events.expect('vcard_avatar_update', lambda p: p['vcard_temp_update']['photo'] == digest, timeout)
    card = await b['xep_0054'].get_vcard(a.boundjid.bare, timeout=timeout)
    assert card['vcard_temp']['PHOTO']['BINVAL'] == IMAGE, 'the vCard shows another image'
    # and the other way
    other = IMAGE[::-1]
    await b['xep_0153'].set_avatar(avatar=other, mtype='image/png', timeout=timeout)
    digest = hashlib.sha1(other).hexdigest()
    found = await when_there(lambda: a['xep_0084'].retrieve_avatar(b.boundjid.bare, digest, timeout=timeout), timeout)
    assert found['pubsub']['items']['item']['avatar_data']['value'] == other, 'the node has another image'


async def private(a, timeout):
    marks = Bookmarks()
    marks.add_conference('room@muc.example.com', 'me', autojoin=False, name='Room')
    await a['xep_0048'].set_bookmarks(marks, method='xep_0049', timeout=timeout)
    found = await a['xep_0048'].get_bookmarks(method='xep_0049', timeout=timeout)
    assert [c['jid'] for c in found['private']['bookmarks']['conferences']] == ['room@muc.example.com'], found
    found = await a['xep_0060'].get_items(a.boundjid.bare, 'urn:xmpp:bookmarks:1', timeout=timeout)
    assert [i['id'] for i in found['pubsub']['items']] == ['room@muc.example.com'], found
    found = await a['xep_0060'].get_items(a.boundjid.bare, 'storage:bookmarks', timeout=timeout)
    assert 'room@muc.example.com' in str(found), found


async def run(make_a, make_b, timeout):
    """MAKE_A, MAKE_B: clients of two users that see each other's presence."""
    # the plugin 0153 shows an empty photo while the vCard has none, which the server leaves as it is (XEP-0398 §4)
    a, _ = await connect(make_a, timeout, without=('xep_0153',))
    b, b_events = await connect(make_b, timeout)
    await nodes(a, b, b_events, timeout)
    await avatars(a, b, b_events, timeout)
    await private(a, timeout)
    # a session that comes later gets the last items, of contacts on other nodes as well
    b.disconnect()
    b, b_events = await connect(make_b, timeout, known=True)
    await b_events.expect('user_mood_publish', lambda m: m['from'].bare == a.boundjid.bare, timeout)
    for c in (a, b):
        c.disconnect()
    await asyncio.sleep(0.2)
