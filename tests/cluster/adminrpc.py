"""The admin RPC of a node without a process per call: for tests that count milliseconds."""
import socket
import struct
import threading
import time


def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def field(number, value):
    return varint(number << 3 | 2) + varint(len(value)) + value


def parse(data):
    """Fields of a message: {number: last value}."""
    out, at = {}, 0

    def number():
        nonlocal at
        n = shift = 0
        while True:
            byte = data[at]
            at += 1
            n |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return n
    while at < len(data):
        tag = number()
        if tag & 7 == 2:
            n = number()
            out[tag >> 3] = data[at:at + n]
            at += n
        else:
            out[tag >> 3] = number()
    return out


def call(node, *words, timeout=30):
    """(status, message); OSError when the node is not there or leaves."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(timeout)
    with s:
        s.connect(node.dir + '/admin.sock')
        body = field(1, words[0].encode()) + field(2, words[1].encode())
        for w in words[2:]:
            body += field(3, str(w).encode())
        s.sendall(struct.pack('<I', len(body)) + body)
        data = b''
        while len(data) < 4 or len(data) < 4 + struct.unpack('<I', data[:4])[0]:
            more = s.recv(65536)
            if not more:
                raise OSError('the node has left')
            data += more
        reply = parse(data[4:])
        return reply.get(STATUS, 0), reply.get(MESSAGE, b'').decode()


STATUS, MESSAGE = 1, 2


class Writer(threading.Thread):
    """Writes all the time through NODE; notes when each acknowledgement came."""

    def __init__(self, node, user):
        super().__init__(daemon=True)
        self.node, self.user, self.stop = node, user, False
        self.times, self.refused, self.last_refusal = [], 0, ''

    def run(self):
        n = 0
        while not self.stop:
            n += 1
            try:
                status, message = call(self.node, 'user', 'lock' if n % 2 else 'unlock', self.user)
            except OSError as e:
                status, message = 3, str(e)
            if status == 0:
                self.times.append(time.monotonic())
            else:
                self.refused += 1
                self.last_refusal = message
                time.sleep(0.002)


class Writers:
    """Several at once; the longest time without an acknowledgement."""

    def __init__(self, node, users):
        self.list = [Writer(node, u) for u in users]
        for w in self.list:
            w.start()

    def times(self):
        return sorted(t for w in self.list for t in w.times)

    def longest_gap(self, since, until=None):
        times = [t for t in self.times() if until is None or t <= until]
        return max((b - a for a, b in zip(times, times[1:]) if b > since), default=float('inf'))

    def count_after(self, since):
        return sum(t > since for t in self.times())

    def refused(self):
        return sum(w.refused for w in self.list)

    def end(self):
        for w in self.list:
            w.stop = True
        for w in self.list:
            w.join()
