// strophe.js, over BOSH or WebSocket by the scheme of SERVICE: node strophe_js.mjs SERVICE DOMAIN USER PASSWORD RESOURCE
import https from 'node:https';
import {DOMParser} from '@xmldom/xmldom';
import {obey, say} from './peer.mjs';
import './globals.mjs';

// What strophe.js uses of a browser's XMLHttpRequest.
const agent = new https.Agent({keepAlive: true, maxSockets: 2});
globalThis.XMLHttpRequest = class {
  readyState = 0;
  status = 0;
  responseText = '';
  headers = {};

  open(method, url) {
    Object.assign(this, {method, url, readyState: 1});
  }

  setRequestHeader(name, value) {
    this.headers[name] = value;
  }

  overrideMimeType() {}

  getResponseHeader(name) {
    return this.response?.headers[name.toLowerCase()] ?? null;
  }

  getAllResponseHeaders() {
    return '';
  }

  get responseXML() {
    return this.responseText ? new DOMParser().parseFromString(this.responseText, 'text/xml') : null;
  }

  abort() {
    this.aborted = true;
    this.request?.destroy();
  }

  change(state) {
    this.readyState = state;
    this.onreadystatechange?.();
  }

  send(body) {
    const headers = {...this.headers, 'content-length': Buffer.byteLength(body ?? '')};
    this.request = https.request(this.url, {method: this.method, headers, agent}, (response) => {
      this.response = response;
      this.status = response.statusCode;
      response.setEncoding('utf8');
      response.on('data', (data) => { this.responseText += data; });
      response.on('end', () => this.aborted || this.change(4));
    });
    this.request.on('error', () => {
      if (!this.aborted) {
        this.status = 0;
        this.change(4);
      }
    });
    this.request.end(body);
  }
};

const {Strophe, $msg, $pres, $iq} = await import('strophe.js');
const [service, domain, username, password, resource] = process.argv.slice(2);
const connection = new Strophe.Connection(service);

connection.addHandler((m) => {
  const body = m.getElementsByTagName('body')[0];
  if (body)
    say('message', {from: m.getAttribute('from'), body: Strophe.getText(body).replaceAll('&lt;', '<').replaceAll('&gt;', '>').replaceAll('&amp;', '&')});
  return true;
}, null, 'message');
connection.addHandler((p) => {
  say('presence', {from: p.getAttribute('from'), type: p.getAttribute('type') || 'available'});
  return true;
}, null, 'presence');
connection.connect(`${username}@${domain}/${resource}`, password, (status, condition) => {
  if (status === Strophe.Status.CONNECTED)
    say('online', {jid: connection.jid});
  else if (status === Strophe.Status.AUTHFAIL)
    say('failed', {condition: String(condition)});
  else if (status === Strophe.Status.DISCONNECTED)
    say('disconnect');
});

obey({
  presence: () => connection.send($pres()),
  message: ({to, body}) => connection.send($msg({to, type: 'chat'}).c('body').t(body)),
  ping: ({to}) => connection.sendIQ($iq({type: 'get', to}).c('ping', {xmlns: 'urn:xmpp:ping'}),
    (answer) => say('pong', {type: answer.getAttribute('type')}), (error) => say('error', {text: String(error)}), 10000),
  stop: () => {
    connection.disconnect('bye');
    setTimeout(() => process.exit(0), 1000);
  },
});
