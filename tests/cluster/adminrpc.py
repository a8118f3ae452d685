"""Writers over the admin RPC, without a process per call: for tests that count milliseconds."""
import threading
import time

import rpc


def call(node, *words, timeout=30):
    """(status, message); OSError when the node is not there or leaves."""
    status, message, _ = rpc.call(node, *words, timeout=timeout)
    return status, message


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
