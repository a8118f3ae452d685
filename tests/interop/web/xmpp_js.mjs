// xmpp.js over WebSocket: node xmpp_js.mjs SERVICE DOMAIN USER PASSWORD RESOURCE. Commands come as lines of JSON on stdin, what
// happens goes as lines of JSON to stdout.
import {client, xml} from '@xmpp/client';
import readline from 'node:readline';

const [service, domain, username, password, resource] = process.argv.slice(2);
const say = (what, more) => console.log(JSON.stringify({what, ...more}));
const xmpp = client({service, domain, username, password, resource});

xmpp.on('error', (error) => say('error', {text: String(error)}));
xmpp.on('online', (jid) => say('online', {jid: jid.toString()}));
xmpp.on('offline', () => say('offline'));
xmpp.on('disconnect', () => say('disconnect'));
xmpp.streamManagement?.on?.('resumed', () => say('resumed'));
xmpp.streamManagement?.on?.('ack', (s) => say('ack', {id: s.attrs.id}));
xmpp.on('stanza', (s) => {
  if (s.is('message') && s.getChildText('body'))
    say('message', {from: s.attrs.from, body: s.getChildText('body')});
  if (s.is('presence'))
    say('presence', {from: s.attrs.from, type: s.attrs.type || 'available'});
});

const commands = {
  presence: () => xmpp.send(xml('presence')),
  message: ({to, body, id}) => xmpp.send(xml('message', {to, id, type: 'chat'}, xml('body', {}, body))),
  // the connection is cut under it: it comes back by itself
  cut: () => xmpp.socket?.end?.() ?? xmpp.disconnect(),
  ping: async ({to}) => say('pong', {type: (await xmpp.iqCaller.request(
    xml('iq', {type: 'get', to}, xml('ping', 'urn:xmpp:ping')), 10000)).attrs.type}),
  stop: async () => { await xmpp.stop(); process.exit(0); },
};
readline.createInterface({input: process.stdin}).on('line', async (line) => {
  const command = JSON.parse(line);
  try {
    await commands[command.do](command);
  } catch (error) {
    say('error', {text: String(error)});
  }
});
xmpp.start().catch((error) => say('failed', {text: String(error), condition: error.condition}));
