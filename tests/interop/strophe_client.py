#!/usr/bin/python3
"""libstrophe (strophe_peer.c): SCRAM over STARTTLS and direct TLS on any node, roster, subscription, messages."""
import os
import queue
import subprocess
import sys
import threading
import time

from harness import BUILD, SLOW, run_test, step

PEER = os.path.join(BUILD, 'tests', 'interop', 'strophe_peer')
if not os.path.exists(PEER):
    print('SKIP: built without libstrophe')
    sys.exit(77)


class Peer:
    def __init__(self, cluster, user, host, port, sm=True):
        self.user = user
        self.process = subprocess.Popen([PEER, '%s@example.com/strophe' % user, 'pw-' + user, host, str(port), cluster.ca,
                                         '1' if sm else '0'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines = queue.Queue()
        self.seen = []
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip('\n'))

    def do(self, line):
        self.process.stdin.write(line + '\n')
        self.process.stdin.flush()

    def expect(self, start, timeout=20):
        """The next line that begins so; what came before it is in self.seen."""
        end = time.monotonic() + timeout * SLOW
        self.seen = []
        while True:
            try:
                line = self.lines.get(timeout=max(end - time.monotonic(), 0.01))
            except queue.Empty:
                raise AssertionError('%s did not get "%s", but %r' % (self.user, start, self.seen))
            if line.startswith(start):
                return line
            self.seen.append(line)

    def end(self):
        self.do('quit')
        self.process.wait(20 * SLOW)


def befriend(a, b):
    for x, y in ((a, b), (b, a)):
        x.do('presence subscribe %s@example.com' % y.user)
        y.expect('presence %s@example.com subscribe' % x.user)
        y.do('presence subscribed %s@example.com' % x.user)
        x.expect('presence %s@example.com subscribed' % y.user)


def test(cluster):
    cluster.start()
    n1, n2, n3 = cluster.nodes
    cluster.add_local_users(['ann', 'bob'])
    n1.cli('user', 'assign', 'ann', '--node', 'n1')
    n1.cli('user', 'assign', 'bob', '--node', 'n2')
    a = Peer(cluster, 'ann', n1.address, 5222, sm=False)
    b = Peer(cluster, 'bob', n3.address, 5223)
    a.expect('connected ann@example.com/strophe')
    b.expect('connected bob@example.com/strophe')
    befriend(a, b)
    a.do('send bob@example.com hello')
    b.expect('message ann@example.com/strophe hello')
    b.do('send ann@example.com/strophe hello back')
    a.expect('message bob@example.com/strophe hello back')
    a.do('roster')
    a.expect('item bob@example.com both')
    a.expect('done')
    step('roster and messages')
    a.end()
    b.end()
    cluster.check_equal()


if __name__ == '__main__':
    run_test(test)
