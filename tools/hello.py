#!/usr/bin/python3
"""hello.py - logs two users in on two nodes with slixmpp and sends a message from one to the other.

  hello.py --ca CA.pem USER1 PASSWORD1 HOST1 USER2 PASSWORD2 HOST2

Exit status 0 when the second one has read it.
"""
import argparse
import asyncio
import logging
import ssl
import sys

# it works as well without the compiled string preparation that Debian leaves out, and nothing is to be done about it
logging.getLogger('slixmpp.stringprep').setLevel(logging.ERROR)
import slixmpp  # noqa: E402

BODY = 'Hello from the other node.'


class Client(slixmpp.ClientXMPP):
    def __init__(self, jid, password, ca):
        super().__init__(jid, password)
        self.ca_certs = ca
        self.ready = asyncio.get_event_loop().create_future()
        self.got = asyncio.get_event_loop().create_future()
        self.add_event_handler('session_start', self.on_start)
        self.add_event_handler('failed_all_auth', lambda e: self.fail('the log-in was refused'))
        self.add_event_handler('connection_failed', lambda e: self.fail('no connection: %s' % e))
        self.add_event_handler('message', self.on_message)

    def fail(self, text):
        for f in (self.ready, self.got):
            if not f.done():
                f.set_exception(RuntimeError('%s: %s' % (self.boundjid.bare, text)))

    async def on_start(self, event):
        await self.get_roster()
        self.send_presence()
        if not self.ready.done():
            self.ready.set_result(True)

    def on_message(self, message):
        if message['body'] and not self.got.done():
            self.got.set_result((message['from'].bare, message['body']))


async def main(o):
    a = Client(o.jid1, o.password1, o.ca)
    b = Client(o.jid2, o.password2, o.ca)
    for c, host in ((a, o.host1), (b, o.host2)):
        c.connect(address=(host, o.port), disable_starttls=False)
    await asyncio.wait_for(asyncio.gather(a.ready, b.ready), o.timeout)
    a.send_message(mto=b.boundjid.bare, mbody=BODY, mtype='chat')
    sender, body = await asyncio.wait_for(b.got, o.timeout)
    print('%s on %s -> %s on %s: "%s"' % (sender, o.host1, b.boundjid.bare, o.host2, body))
    a.disconnect()
    b.disconnect()
    await asyncio.sleep(0)
    return 0 if body == BODY else 1


if __name__ == '__main__':
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--ca', required=True)
    ap.add_argument('--port', type=int, default=5222)
    ap.add_argument('--timeout', type=float, default=20)
    for n in ('1', '2'):
        ap.add_argument('jid' + n)
        ap.add_argument('password' + n)
        ap.add_argument('host' + n)
    try:
        sys.exit(asyncio.get_event_loop().run_until_complete(main(ap.parse_args())))
    except (asyncio.TimeoutError, RuntimeError) as e:
        print('hello.py: %s' % (e or 'no answer in time'), file=sys.stderr)
        sys.exit(1)
