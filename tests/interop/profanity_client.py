#!/usr/bin/python3
"""profanity, a client of its own kind (libstrophe), in a terminal: logs in on two nodes, by STARTTLS and by direct TLS,
subscribes, chats; its own chat log and screen are what is looked at."""
import glob
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import threading
import time

from harness import SLOW, run_test, wait

if not shutil.which('profanity'):
    print('SKIP: profanity is not installed')
    sys.exit(77)


class Profanity:
    """The program on a pseudo terminal; everything it ever drew is in self.screen."""

    def __init__(self, cluster, user):
        self.user = user
        self.home = os.path.join(cluster.dir, 'profanity-' + user)
        os.makedirs(os.path.join(self.home, 'config', 'profanity'))
        with open(os.path.join(self.home, 'config', 'profanity', 'profrc'), 'w') as f:
            f.write('[logging]\nchlog=true\n[ui]\nsplash=false\n[connection]\nreconnect=0\n'
                    '[tls]\ncertpath=%s\n' % cluster.dir)
        env = dict(os.environ, HOME=self.home, XDG_CONFIG_HOME=os.path.join(self.home, 'config'),
                   XDG_DATA_HOME=os.path.join(self.home, 'data'), TERM='xterm', LANG='C.UTF-8')
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe('profanity', ['profanity', '-l', 'DEBUG'], env)
        self.screen = bytearray()
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        while True:
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                return
            if not data:
                return
            self.screen += data

    def type(self, line):
        os.write(self.fd, line.encode() + b'\r')

    def text(self):
        return self.screen.decode(errors='replace')

    def chat_log(self):
        out = ''
        for name in glob.glob(os.path.join(self.home, 'data', 'profanity', 'chatlogs', '**', '*.log'), recursive=True):
            with open(name, errors='replace') as f:
                out += f.read()
        return out

    def connect(self, host, port, tls):
        wait('profanity has started', lambda: 'profanity' in self.text().lower())
        del self.screen[:]
        self.type('/connect %s@example.com server %s port %d tls %s' % (self.user, host, port, tls))
        wait('profanity asks for the password', lambda: 'password' in self.text().lower())
        self.type('pw-' + self.user)
        if tls == 'legacy':  # this mode cannot trust in advance
            wait('profanity asks about the certificate', lambda: '/tls allow' in self.text())
            self.type('/tls allow')
        wait('%s is logged in with profanity' % self.user, lambda: 'logged in successfully' in self.text(), 30)

    def end(self):
        try:
            self.type('/quit')
            time.sleep(0.3)
            os.kill(self.pid, signal.SIGTERM)
        except OSError:
            pass
        os.waitpid(self.pid, 0)


def sessions(cluster):
    return {s['user']: s for s in cluster.nodes[0].json('session', 'list')}


def test(cluster):
    cluster.start()
    n1, n2, n3 = cluster.nodes
    cluster.add_local_users(['ann', 'bob'])
    n1.cli('user', 'assign', 'ann', '--node', 'n1')
    n1.cli('user', 'assign', 'bob', '--node', 'n2')
    ann, bob = Profanity(cluster, 'ann'), Profanity(cluster, 'bob')
    try:
        ann.connect(n1.address, 5222, 'trust')
        bob.connect(n3.address, 5223, 'legacy')
        wait('both have sessions', lambda: set(sessions(cluster)) == {'ann', 'bob'})
        assert sessions(cluster)['bob']['node'] == 'n2', 'bob is not at home: %s' % sessions(cluster)
        ann.type('/sub request bob@example.com')
        wait('bob is asked', lambda: 'ubscription' in bob.text() or 'uthoriz' in bob.text())
        bob.type('/sub allow ann@example.com')
        ann.type('/msg bob@example.com hello from ann')
        wait('bob has it', lambda: 'hello from ann' in bob.chat_log())
        bob.type('/msg ann@example.com hello from bob')
        wait('ann has it', lambda: 'hello from bob' in ann.chat_log())
        # away and back: the offline message
        bob.type('/disconnect')
        wait('bob is gone', lambda: 'bob' not in sessions(cluster))
        ann.type('/msg bob@example.com for later')
        bob.connect(n1.address, 5222, 'trust')
        wait('bob got what was kept', lambda: 'for later' in bob.chat_log())
        assert bob.chat_log().count('for later') == 1
    except Exception:
        print(ann.text()[-1500:])
        print(bob.text()[-1500:])
        raise
    finally:
        ann.end()
        bob.end()


if __name__ == '__main__':
    run_test(test)
