#!/usr/bin/python3
"""What a node says when it loses the others: first nothing, and it keeps what its clients say; after 5 s it refuses and announces the
outage (XEP-0455); after 10 s it closes their streams and takes nobody. It comes back by itself."""
import asyncio
import json
import re
import ssl
import time
import urllib.request

from harness import SLOW, run_test, step
from pause import log_in, until
from xmpp import Client, Closed, say

WAIT = 20 * SLOW
STATUS = 'https://n1.example.com/outage.json https://n2.example.com/outage.json'


def outage(node):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with urllib.request.urlopen('https://%s:8443/outage.json' % node.address, context=context, timeout=10) as answer:
        return json.load(answer)


async def answer_to_ping(c, id):
    c.write("<iq type='get' id='%s' to='example.com'><ping xmlns='urn:xmpp:ping'/></iq>" % id)
    s = await c.expect(lambda s: re.match(r'''<iq[^>]*\bid=['"]%s['"]''' % id, s), WAIT)
    return s


def test(cluster):
    cluster.start()
    n1, others = cluster.nodes[0], cluster.nodes[1:]
    cluster.add_local_users(['ann', 'bob'])
    n1.cli('user', 'assign', 'ann', 'bob', '--node', 'n1')
    n1.cli('settings', 'set', 'xmpp.status_addresses', STATUS)

    async def main():
        await until('both are at home', lambda: all(n1.json('user', 'show', u)['active_home'] == 'n1' for u in ('ann', 'bob')))
        ann, bob = await log_in('ann', n1, cluster, 'a'), await log_in('bob', n1, cluster, 'b')
        for c in (ann, bob):
            c.presence()
            await answer_to_ping(c, 'first')
        info = await ann.iq('get', "<query xmlns='http://jabber.org/protocol/disco#info'/>", to='example.com', id='info')
        assert 'urn:xmpp:sos:0' in info and all('<value>%s</value>' % a in info for a in STATUS.split()), info
        assert outage(n1) == {}, outage(n1)

        step('the others stand still')
        for n in others:
            n.pause()
        began = time.monotonic()
        ann.message('bob@example.com', 'held')
        await asyncio.sleep(1.5)  # the lease is over now
        ann.message('bob@example.com', 'held too')
        ann.write("<iq type='get' id='early' to='example.com'><ping xmlns='urn:xmpp:ping'/></iq>")
        await asyncio.sleep(1.5)
        assert not any("early" in s for s in ann.stanzas), 'a client is served without the lease'
        assert not any('held too' in s for s in bob.stanzas), 'a message is delivered without the lease'
        assert outage(n1) == {}, 'an outage is announced after %.1f s' % (time.monotonic() - began)

        # what it kept is answered now: refused
        s = await ann.expect(lambda s: 'early' in s, WAIT)
        assert 'resource-constraint' in s and "type='wait'" in s.replace('"', "'"), s
        step('it refuses after %.1f s' % (time.monotonic() - began))
        assert time.monotonic() - began > 4.5, 'too early'
        s = await ann.expect(lambda s: s.startswith('<message') and 'bob@example.com' in s, WAIT)
        assert 'resource-constraint' in s and "type='error'" in s, s
        await until('the outage is announced', lambda: outage(n1) != {})
        told = outage(n1)
        assert told['planned'] is False and told['message']['default'] and re.match(r'\d{4}-\d\d-\d\dT', told['beginning']), told

        await until('the stream is closed', lambda: ann.closed and bob.closed)
        step('it closes streams after %.1f s' % (time.monotonic() - began))
        assert time.monotonic() - began > 9.5, 'too early'
        for c in (ann, bob):
            assert 'system-shutdown' in ' '.join(c.stanzas) + c.buffer, c.stanzas[-2:]
        try:
            await Client('ann', host=n1.address, ca=cluster.ca).log_in('late')
            raise AssertionError('a log-in without the lease')
        except Closed as e:
            assert 'resource-constraint' in str(e), e

        step('the others go on')
        for n in others:
            n.go_on()
        ann, bob = await log_in('ann', n1, cluster, 'a', 40), await log_in('bob', n1, cluster, 'b', 40)
        bob.presence()
        await answer_to_ping(bob, 'again')
        await say(ann, bob, 'after', WAIT)
        await until('the outage is over', lambda: outage(n1) == {})
        await until('it is home again', n1.runs_services)
        await ann.close()
        await bob.close()
    asyncio.run(main())
    cluster.check_equal()


if __name__ == '__main__':
    run_test(test)
