"""A LAN with faults between network namespaces: a switch in user space, with a TAP device in each namespace.

Rules are per ordered pair of ports, so that faults can be one-way; all random choices come from one seed. Frames are never
changed. A cut drops frames silently, as a broken switch does; unplug() takes the carrier away from one port.

In a test: lan = Lan(seed); lan.add('n1', 'netns', '10.77.0.1'); lan.rule('n1', 'n2', loss=10); lan.cut('n1', 'n3');
lan.heal(). As a program it is the switch itself: one JSON command a line on standard input, an answer for each.
"""
import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, TUNSETCARRIER = 0x400454ca, 0x400454e2
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
# delay, jitter: ms, frames of a pair stay in order. reorder: percent of frames that overtake those waiting before them (so it
# needs a delay). loss, dup: percent. cut: nothing gets through.
CLEAN = {'delay': 0, 'jitter': 0, 'loss': 0, 'dup': 0, 'reorder': 0, 'cut': False}
QUEUE_FRAMES = 20000


class Lan:
    def __init__(self, seed=0):
        self.names = []
        self.process = subprocess.Popen([sys.executable, os.path.abspath(__file__), str(seed)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, start_new_session=True)

    def _do(self, **command):
        self.process.stdin.write(json.dumps(command) + '\n')
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise OSError('the switch has ended')
        return json.loads(answer)

    def add(self, name, netns, address):
        """netns None: the namespace of the test."""
        device = self._do(do='add', name=name)
        run = lambda *words: subprocess.run(['ip', *words], check=True)
        inside = ['-n', netns] if netns else []
        if netns:
            run('link', 'set', device, 'netns', netns)
        run(*inside, 'link', 'set', device, 'name', 'eth0')
        run(*inside, 'addr', 'add', address + '/24', 'dev', 'eth0')
        run(*inside, 'link', 'set', 'eth0', 'up')
        self.names.append(name)

    def rule(self, a, b, **rule):
        """From A to B; None: from or to all. What is not named stays as it is."""
        self._do(do='rule', a=a, b=b, rule=rule)

    def both(self, a, b, **rule):
        self.rule(a, b, **rule)
        self.rule(b, a, **rule)

    def cut(self, a, b):
        """A is no longer heard by B."""
        self.rule(a, b, cut=True)

    def split(self, *groups):
        """Nodes of different groups do not hear each other."""
        for g in groups:
            for h in groups:
                if g is not h:
                    for a in g:
                        for b in h:
                            self.cut(a, b)

    def everywhere(self, names, **rule):
        for a in names:
            for b in names:
                if a != b:
                    self.rule(a, b, **rule)

    def heal(self):
        self._do(do='heal')

    def plug(self, name, plugged):
        self._do(do='plug', name=name, plugged=plugged)

    def counts(self):
        """Frames passed on and dropped."""
        return self._do(do='counts')

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Switch:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.ports, self.fds, self.rules = {}, {}, {}  # name -> fd, fd -> name, (fd, fd) -> rule that is not clean
        self.where = {}       # MAC -> fd
        self.waiting = []     # heap of (due, number, fd, frame)
        self.last_due = {}    # (fd, fd) -> due
        self.number = self.passed = self.dropped = 0
        self.poll = select.epoll()

    # ---- commands ----

    def command(self, c):
        what = c['do']
        if what == 'add':
            return self.add(c['name'])
        if what == 'rule':
            for a in [self.ports[c['a']]] if c['a'] else list(self.fds):
                for b in [self.ports[c['b']]] if c['b'] else list(self.fds):
                    if a != b:
                        self.rules[a, b] = {**self.rules.get((a, b), CLEAN), **c['rule']}
        elif what == 'heal':
            self.rules.clear()
        elif what == 'plug':
            fcntl.ioctl(self.ports[c['name']], TUNSETCARRIER, struct.pack('i', c['plugged']))
        elif what == 'counts':
            return {'passed': self.passed, 'dropped': self.dropped}
        return 'ok'

    def add(self, name):
        device = 'tap%d-%d' % (os.getpid() % 100000, len(self.fds))
        fd = os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack('16sH14x', device.encode(), IFF_TAP | IFF_NO_PI))
        self.ports[name], self.fds[fd] = fd, name
        self.poll.register(fd, select.EPOLLIN)
        return device

    # ---- frames ----

    def write(self, fd, frame):
        try:
            os.write(fd, frame)
            self.passed += 1
        except OSError:  # its device is down or its queue is full
            self.dropped += 1

    def send(self, a, b, frame):
        rule = self.rules.get((a, b))
        if rule is None:
            self.write(b, frame)
            return
        chance = lambda percent: percent > 0 and self.random.random() * 100 < percent
        if rule['cut'] or chance(rule['loss']) or len(self.waiting) > QUEUE_FRAMES:
            self.dropped += 1
            return
        for _ in range(2 if chance(rule['dup']) else 1):
            due = time.monotonic()
            if rule['delay'] or rule['jitter']:
                if not chance(rule['reorder']):
                    due += (rule['delay'] + self.random.uniform(0, rule['jitter'])) / 1000
                    due = self.last_due[a, b] = max(due, self.last_due.get((a, b), 0))
                self.number += 1
                heapq.heappush(self.waiting, (due, self.number, a, b, frame))
            else:
                self.write(b, frame)

    def receive(self, a):
        for _ in range(64):
            try:
                frame = os.read(a, 65536)
            except OSError:  # nothing more, or its namespace is being deleted
                return
            self.where[frame[6:12]] = a
            to = None if frame[0] & 1 else self.where.get(frame[0:6])
            for b in [to] if to else self.fds:
                if b != a:
                    self.send(a, b, frame)

    def run(self):
        commands = sys.stdin.fileno()
        self.poll.register(commands, select.EPOLLIN)
        text = b''
        while True:
            timeout = max(0, self.waiting[0][0] - time.monotonic()) if self.waiting else -1
            for fd, _ in self.poll.poll(timeout):
                if fd != commands:
                    self.receive(fd)
                    continue
                data = os.read(commands, 65536)
                if not data:
                    return
                *lines, text = (text + data).split(b'\n')
                for line in lines:
                    print(json.dumps(self.command(json.loads(line))), flush=True)
            now = time.monotonic()
            while self.waiting and self.waiting[0][0] <= now:
                _, _, a, b, frame = heapq.heappop(self.waiting)
                # what was on its way when the cable was cut is lost, too
                if self.rules.get((a, b), CLEAN)['cut']:
                    self.dropped += 1
                else:
                    self.write(b, frame)


if __name__ == '__main__':
    Switch(int(sys.argv[1])).run()
