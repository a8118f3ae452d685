// Converse.js in Chromium: node converse.mjs WEBSOCKET DOMAIN PATIENCE_MS. Each user has a browser context, which is a browser of its own.
// Commands come as lines of JSON on stdin, answers go as lines of JSON to stdout.
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import {fileURLToPath} from 'node:url';
import {chromium} from 'playwright-core';
import {obey, say} from '../web/peer.mjs';

const [service, domain, patience] = process.argv.slice(2);
const here = path.dirname(fileURLToPath(import.meta.url));
const dist = path.join(here, 'node_modules', 'converse.js', 'dist');
const types = {'.css': 'text/css', '.html': 'text/html', '.js': 'text/javascript', '.json': 'application/json', '.svg': 'image/svg+xml',
  '.wasm': 'application/wasm'};

const page = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>imp</title>
<link rel="stylesheet" href="/dist/converse.min.css"></head>
<body class="converse-fullscreen"><div id="conversejs"></div><script type="module">
import converse from "/dist/converse.min.js";
converse.plugins.add('imp', {initialize() { window.api = this._converse.api; }});
converse.initialize(${JSON.stringify({
    assets_path: '/dist/',
    websocket_url: service,
    discover_connection_methods: false,
    locked_domain: domain,
    view_mode: 'fullscreen',
    i18n: 'en',
    auto_away: 0,
    allow_registration: false,
    muc_mention_autocomplete_min_chars: 99,
    show_desktop_notifications: false,
    play_sounds: false,
    whitelisted_plugins: ['imp'],
    blacklisted_plugins: ['converse-omemo'],
    loglevel: 'debug',
  })});
</script></body></html>`;

const files = http.createServer((request, response) => {
  const {pathname} = new URL(request.url, 'http://localhost');
  const name = path.join(dist, path.normalize(pathname.replace(/^\/dist/, '')));
  if (pathname === '/') {
    response.setHeader('Content-Type', 'text/html; charset=utf-8');
    response.end(page);
  } else if (pathname.startsWith('/dist/') && fs.existsSync(name)) {
    response.setHeader('Content-Type', types[path.extname(name)] ?? 'application/octet-stream');
    fs.createReadStream(name).pipe(response);
  } else {
    response.writeHead(404).end();
  }
});
await new Promise((done) => files.listen(0, '127.0.0.1', done));
const origin = `http://localhost:${files.address().port}/`;

const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--ignore-certificate-errors'],
});
const pages = {};

async function open(name, context) {
  const p = await context.newPage();
  p.setDefaultTimeout(Number(patience));
  p.on('console', (m) => say('console', {page: name, text: m.text().replace(/^%c%s color: \w+ /, '').slice(0, 1000)}));
  p.on('pageerror', (e) => say('pageerror', {page: name, text: String(e)}));
  pages[name] = p;
  await p.goto(origin);
  return p;
}

const contact = (p, jid) => p.locator(`converse-roster li:has(a[data-jid="${jid}"])`);
const messages = (p, jid) => p.locator(`converse-chat[jid="${jid}"] .chat-msg__text`);

async function chat(p, jid) {
  await contact(p, jid).locator('a.open-chat').first().click(); // unread ones are listed twice;
  const box = p.locator(`converse-chat[jid="${jid}"] textarea.chat-textarea`);
  await box.waitFor();
  return box;
}

// Answers when it is done: what shows in the page is waited for.
const steps = {
  // a browser that has never been here
  login: async ({as, user, password}) => {
    const p = await open(as, await browser.newContext({ignoreHTTPSErrors: true, viewport: {width: 1100, height: 700}, locale: 'en'}));
    await p.locator('input[name=jid]').fill(user);
    await p.locator('input[name=password]').fill(password);
    await p.locator('converse-login-form [type=submit]').click();
    await p.locator('converse-user-profile .chat-status').waitFor();
  },
  add: async ({as, jid}) => {
    const p = pages[as];
    await p.locator('.dropdown--contacts > button').click();
    await p.locator('.dropdown--contacts a.add-contact').click();
    const form = p.locator('converse-add-contact-modal form');
    await form.locator('input[name=jid]').fill(jid);
    await form.locator('button[type=submit]').click();
    await form.waitFor({state: 'hidden'});
  },
  accept: async ({as, jid}) => {
    const p = pages[as];
    await contact(p, jid).locator('converse-dropdown > button').click();
    await contact(p, jid).locator('a.accept-xmpp-request').click();
    const form = p.locator('converse-accept-contact-request-modal form');
    await form.locator('button[type=submit]').click();
    // 14.0.0 fails behind <presence type='subscribed'/>: it calls a function that it does not have, to subscribe in turn
    await p.evaluate(async (j) => (await window.api.contacts.get(j)).subscribeToPresence(), jid);
  },
  // the contact's presence as the roster shows it
  sees: ({as, jid, status}) => pages[as].locator(`converse-roster li[data-status="${status}"]:has(a[data-jid="${jid}"])`).waitFor(),
  status: async ({as, value}) => {
    const p = pages[as];
    await p.locator('a.change-status').click();
    const modal = p.locator('converse-profile-modal');
    await modal.locator(`input[name=chat_status][value="${value}"]`).check();
    await modal.locator('form#set-xmpp-status [type=submit]').click();
    await modal.locator('button[aria-label=Close]').first().click();
    await modal.waitFor({state: 'hidden'});
  },
  write: async ({as, to, body}) => {
    const box = await chat(pages[as], to);
    await box.fill(body);
    await box.press('Enter');
    await messages(pages[as], to).getByText(body, {exact: true}).waitFor();
  },
  // all messages of the chat, when there are as many as wanted
  read: async ({as, from, count}) => {
    const p = pages[as];
    await chat(p, from);
    await messages(p, from).nth(count - 1).waitFor();
    return {texts: (await messages(p, from).allInnerTexts()).map((t) => t.trim())};
  },
  reload: async ({as}) => {
    await pages[as].reload();
    await pages[as].locator('converse-user-profile .chat-status').waitFor();
  },
  leave: ({as}) => pages[as].context().close(),
  screenshot: ({as, file}) => pages[as].screenshot({path: file}),
  html: async ({as}) => ({text: await pages[as].locator('converse-root').innerHTML()}),
  stop: async () => {
    await browser.close();
    setImmediate(() => process.exit(0));
  },
};
obey(Object.fromEntries(Object.entries(steps).map(([name, run]) => [name, async (command) => {
  const answer = await run(command);
  say('done', {step: name, ...(name === 'read' || name === 'html' ? answer : {})});
}])));
say('ready');
