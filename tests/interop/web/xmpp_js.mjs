// xmpp.js: node xmpp_js.mjs SERVICE DOMAIN USER PASSWORD RESOURCE
import {obey, say} from './peer.mjs';
import './globals.mjs';

const {client, xml} = await import('@xmpp/client');
const [service, domain, username, password, resource] = process.argv.slice(2);
const xmpp = client({service, domain, username, password, resource});

xmpp.on('error', (error) => say('error', {text: String(error)}));
xmpp.on('online', (jid) => say('online', {jid: jid.toString()}));
xmpp.on('offline', () => say('offline'));
xmpp.on('disconnect', () => say('disconnect'));
xmpp.streamManagement?.on?.('resumed', () => say('resumed'));
xmpp.on('stanza', (s) => {
  if (s.is('message') && s.getChildText('body'))
    say('message', {from: s.attrs.from, body: s.getChildText('body')});
  if (s.is('presence'))
    say('presence', {from: s.attrs.from, type: s.attrs.type || 'available'});
});

obey({
  presence: () => xmpp.send(xml('presence')),
  message: ({to, body}) => xmpp.send(xml('message', {to, type: 'chat'}, xml('body', {}, body))),
  ping: async ({to}) => say('pong', {type: (await xmpp.iqCaller.request(
    xml('iq', {type: 'get', to}, xml('ping', 'urn:xmpp:ping')), 10000)).attrs.type}),
  managed: () => say('managed', {enabled: Boolean(xmpp.streamManagement?.enabled)}),
  // the socket goes without a word: it comes back by itself
  cut: () => { (xmpp.socket.socket ?? xmpp.socket).close(); },
  stop: async () => { await xmpp.stop(); process.exit(0); },
});
xmpp.start().catch((error) => say('failed', {text: String(error), condition: error.condition}));
