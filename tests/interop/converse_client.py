#!/usr/bin/python3
"""Converse.js in Chromium, over WebSocket: two people who have never met find each other, see each other's presence and write; a
page that is loaded again goes on with its stream, a browser that has never been here finds the messages in the archive."""
import json
import os
import queue
import shutil
import subprocess
import sys
import threading

from harness import SLOW, Failed, run_test, step

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'browser')
if not shutil.which('node') or not os.path.exists('/usr/bin/chromium') or not os.path.isdir(os.path.join(HERE, 'node_modules')):
    print('SKIP: chromium, node or the packages of tests/interop/browser are not there; tools/test browser installs them')
    sys.exit(77)
PATIENCE = 20 * SLOW


class Browser:
    def __init__(self, service):
        self.seen, self.queue = [], queue.Queue()
        self.process = subprocess.Popen(['node', 'converse.mjs', service, 'example.com', str(PATIENCE * 1000)], cwd=HERE,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        threading.Thread(target=self.read, daemon=True).start()
        self.take('ready')

    def read(self):
        for line in self.process.stdout:
            try:
                self.queue.put(json.loads(line))
            except ValueError:
                self.queue.put({'what': 'console', 'text': line})
        self.queue.put({'what': 'error', 'text': 'the browser has ended'})

    def take(self, what):
        while True:
            try:
                e = self.queue.get(timeout=2 * PATIENCE)
            except queue.Empty:
                e = {'what': 'error', 'text': 'no answer'}
            self.seen.append(e)
            if e['what'] == what:
                return e
            if e['what'] == 'error':
                print('\n'.join('%s %s' % (s.get('page', ''), s.get('text')) for s in self.seen[-60:] if s['what'] != 'done'))
                raise Failed(e['text'])

    def do(self, what, **more):
        self.process.stdin.write(json.dumps({'do': what, **more}) + '\n')
        self.process.stdin.flush()
        return self.take('done')

    def stanzas(self, page, what):
        """Of all that went in and out of a page."""
        return [s['text'] for s in self.seen if s.get('page') == page and s['what'] == 'console' and what in s['text']]


def read(browser, who, other, *texts):
    found = browser.do('read', **{'as': who}, **{'from': other}, count=len(texts))['texts']
    assert found == list(texts), (who, found)


def talk(cluster, browser):
    ann, bob = 'ann@example.com', 'bob@example.com'
    browser.do('login', **{'as': 'ann'}, user='ann', password='pw-ann')
    browser.do('login', **{'as': 'bob'}, user='bob', password='pw-bob')
    step('two people are logged in')

    browser.do('add', **{'as': 'ann'}, jid=bob)
    browser.do('accept', **{'as': 'bob'}, jid=ann)
    browser.do('sees', **{'as': 'ann'}, jid=bob, status='online')
    browser.do('sees', **{'as': 'bob'}, jid=ann, status='online')
    browser.do('status', **{'as': 'bob'}, value='away')
    browser.do('sees', **{'as': 'ann'}, jid=bob, status='away')
    step('they are in their rosters and see each other')

    browser.do('write', **{'as': 'ann'}, to=bob, body='Hello <Bob> & co. \u00fc')
    read(browser, 'bob', ann, 'Hello <Bob> & co. \u00fc')
    browser.do('write', **{'as': 'bob'}, to=ann, body='Hello Ann')
    read(browser, 'ann', bob, 'Hello <Bob> & co. \u00fc', 'Hello Ann')
    step('they write to each other')

    browser.do('reload', **{'as': 'ann'})
    read(browser, 'ann', bob, 'Hello <Bob> & co. \u00fc', 'Hello Ann')
    browser.do('write', **{'as': 'bob'}, to=ann, body='Still there?')
    read(browser, 'ann', bob, 'Hello <Bob> & co. \u00fc', 'Hello Ann', 'Still there?')
    assert browser.stanzas('ann', '<resumed xmlns="urn:xmpp:sm:3"'), 'the page that was loaded again has not resumed its stream'
    step('a page that is loaded again resumes its stream')

    if 'IMP_SCREENSHOTS' in os.environ:
        for who in ('ann', 'bob'):
            browser.do('screenshot', **{'as': who}, file=os.path.join(os.environ['IMP_SCREENSHOTS'], who + '.png'))
    browser.do('leave', **{'as': 'ann'})
    browser.do('write', **{'as': 'bob'}, to=ann, body='You are gone')
    browser.do('login', **{'as': 'new'}, user='ann', password='pw-ann')
    read(browser, 'new', bob, 'Hello <Bob> & co. \u00fc', 'Hello Ann', 'Still there?', 'You are gone')
    browser.do('sees', **{'as': 'new'}, jid=bob, status='away')
    assert browser.stanzas('new', "<result xmlns=\"urn:xmpp:mam:2\""), 'nothing came from the archive'
    step('a new browser has it all from the archive')
    browser.do('stop')


def test(cluster):
    cluster.start()
    cluster.add_local_users(['ann', 'bob'])
    browser = Browser('wss://127.0.0.2:8443/xmpp-websocket')
    step('the browser runs')
    try:
        talk(cluster, browser)
    finally:
        browser.process.terminate()  # and with it Chromium
        browser.process.wait(PATIENCE)


run_test(test)
