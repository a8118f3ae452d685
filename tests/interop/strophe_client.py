#!/usr/bin/python3
"""libstrophe (strophe_peer.c): SCRAM over STARTTLS and direct TLS on any node, roster, subscription, messages; its
stream management over a connection that is cut: resumed on the same and on another node, nothing lost or doubled."""
import os
import queue
import socket
import struct
import subprocess
import sys
import threading
import time

from harness import BUILD, SLOW, run_test, step

PEER = os.path.join(BUILD, 'tests', 'interop', 'strophe_peer')
if not os.path.exists(PEER):
    print('SKIP: built without libstrophe')
    sys.exit(77)


class Cable:
    """Between a client and a node; cut() is a reset for both."""

    count = 0

    def __init__(self, host, port):
        Cable.count += 1
        self.target, self.address = (host, port), '127.0.1.%d' % Cable.count
        self.ends = []
        self.listener = socket.create_server((self.address, port))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(self.target)
            self.ends += [near, far]
            for a, b in ((near, far), (far, near)):
                threading.Thread(target=self.carry, args=(a, b), daemon=True).start()

    def carry(self, a, b):
        try:
            while True:
                data = a.recv(65536)
                if not data:
                    break
                b.sendall(data)
        except OSError:
            pass

    def cut(self):
        for s in self.ends:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        # a thread that reads keeps a socket open
        for s in self.ends:
            s.shutdown(socket.SHUT_RDWR)
            s.close()
        self.listener.close()


class Peer:
    def __init__(self, cluster, user, host, port, sm=True):
        self.user = user
        self.cable = Cable(host, port)
        self.process = subprocess.Popen([PEER, '%s@example.com/strophe' % user, 'pw-' + user, self.cable.address, str(port), cluster.ca,
                                         '1' if sm else '0'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines = queue.Queue()
        self.seen = []
        threading.Thread(target=self.read, daemon=True).start()

    def reconnect(self, host, port):
        self.cable = Cable(host, port)
        self.do('reconnect %d %s' % (port, self.cable.address))

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

    def messages_until(self, last):
        """Bodies up to one, in order."""
        bodies = []
        while not bodies or bodies[-1] != last:
            bodies.append(self.expect('message ').split(' ', 2)[2])
        return bodies

    def end(self):
        self.do('quit')
        self.process.wait(20 * SLOW)


def befriend(a, b):
    for x, y in ((a, b), (b, a)):
        x.do('presence subscribe %s@example.com' % y.user)
        y.expect('presence %s@example.com subscribe' % x.user)
        y.do('presence subscribed %s@example.com' % x.user)
        x.expect('presence %s@example.com subscribed' % y.user)


def cut_and_resume(a, b, host, port):
    """b is cut while messages come; some are sent while it is away."""
    for i in range(20):
        a.do('send bob@example.com/strophe early %d' % i)
    b.expect('message ann@example.com/strophe early 5')
    b.cable.cut()
    b.expect('disconnected')
    early = [s.split(' ', 2)[2] for s in b.seen if s.startswith('message')]
    for i in range(20):
        a.do('send bob@example.com/strophe late %d' % i)
    b.reconnect(host, port)
    b.expect('again bob@example.com/strophe')
    rest = b.messages_until('late 19')
    got = ['early %d' % i for i in range(6)] + early + rest
    wanted = ['early %d' % i for i in range(20)] + ['late %d' % i for i in range(20)]
    assert got == wanted, 'after resumption on %s: %r' % (host, got)
    # nobody saw it go
    a.do('roster')
    a.expect('done')
    assert not [s for s in a.seen if s.startswith('presence bob')], a.seen


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
    cut_and_resume(a, b, n3.address, 5223)
    step('resumed on the same node')
    cut_and_resume(a, b, n1.address, 5222)
    step('resumed on another node')
    a.end()
    b.end()
    cluster.check_equal()


if __name__ == '__main__':
    run_test(test)
