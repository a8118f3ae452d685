"""The admin RPC (node/rpc/admin.proto) without impcli in between: cheap enough for thousands of calls.

    status, message, document = call(node, 'settings', 'get', 'axl.user', options={'current': ''}, timeout=5)

raises Unanswered when the node cannot be reached or gives no answer: sent tells whether it may have got the request.
"""
import json
import socket
import struct


class Unanswered(OSError):
    def __init__(self, text, sent):
        super().__init__(text)
        self.sent = sent


def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def field(number, data):
    data = data.encode() if isinstance(data, str) else data
    return varint(number << 3 | 2) + varint(len(data)) + data


def pack(area, verb, args, options, stdin):
    out = field(1, area) + field(2, verb) + b''.join(field(3, a) for a in args)
    for name, value in (options or {}).items():
        out += field(4, field(1, name) + field(2, value))
    if stdin:
        out += field(5, stdin)
    return out + varint(9 << 3) + varint(2)  # the answer as JSON


def unpack(data):
    """status, message and JSON of an AdminReply."""
    at, found = 0, {1: 0, 2: b'', 4: b''}

    def number():
        nonlocal at
        n = shift = 0
        while True:
            b = data[at]
            at += 1
            n |= (b & 127) << shift
            shift += 7
            if b < 128:
                return n
    while at < len(data):
        tag = number()
        n = number()
        if tag & 7 == 2:
            found[tag >> 3] = data[at:at + n]
            at += n
        else:
            found[tag >> 3] = n
    return found[1], found[2].decode(), json.loads(found[4]) if found[4] else None


def read_all(s, n):
    out = bytearray()
    while len(out) < n:
        data = s.recv(n - len(out))
        if not data:
            raise OSError('the node ended the connection')
        out += data
    return bytes(out)


def call(node, area, verb, *args, options=None, stdin='', timeout=10):
    body = pack(area, verb, [str(a) for a in args], options, stdin)
    sent = False
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(timeout)
        try:
            s.connect(node.dir + '/admin.sock')
            sent = True
            s.sendall(struct.pack('<I', len(body)) + body)
            n, = struct.unpack('<I', read_all(s, 4))
            return unpack(read_all(s, n))
        except OSError as e:
            raise Unanswered('%s %s on %s: %s' % (area, verb, node.name, e or 'no answer in time'), sent) from None
