#!/usr/bin/python3
"""The checker of histories (linear.py) on histories that are right and on histories that are not."""
import random
import time
import unittest

from linear import UNKNOWN, Anomaly, Op, Tail, check

R, L = ('register', 'r'), ('list', 'l')


def write(v, began, ended):
    return Op(R, 'write', v, None, began, ended)


def read(v, began, ended):
    return Op(R, 'read', None, v, began, ended)


def cas(old, new, result, began, ended):
    return Op(R, 'cas', (old, new), result, began, ended)


def append(v, began, ended):
    return Op(L, 'append', v, None, began, ended)


def whole(v, began, ended):
    return Op(L, 'read', None, Tail(tuple(v), True), began, ended)


def tail(v, began, ended):
    return Op(L, 'read', None, Tail(tuple(v), False), began, ended)


class Right(unittest.TestCase):
    def good(self, *history):
        check(list(history))

    def test_nothing(self):
        self.good()
        self.good(read(None, 1, 2))

    def test_one_after_the_other(self):
        self.good(write(1, 1, 2), read(1, 3, 4), write(2, 5, 6), read(2, 7, 8))

    def test_a_read_beside_a_write_sees_the_old_or_the_new(self):
        self.good(write(1, 1, 2), write(2, 3, 10), read(1, 4, 5), read(2, 6, 7))
        self.good(write(1, 1, 2), write(2, 3, 10), read(2, 4, 5), read(2, 6, 7))

    def test_times_that_touch_are_concurrent(self):
        self.good(write(1, 1, 5), read(None, 5, 6))
        self.good(write(1, 5, 6), read(1, 1, 5))

    def test_two_writes_in_either_order(self):
        self.good(write(1, 1, 10), write(2, 1, 10), read(1, 11, 12))
        self.good(write(1, 1, 10), write(2, 1, 10), read(2, 11, 12))

    def test_unknown_may_have_happened(self):
        self.good(write(1, 1, UNKNOWN), read(1, 2, 3), read(1, 50, 51))

    def test_unknown_may_not_have_happened(self):
        self.good(write(1, 1, UNKNOWN), read(None, 2, 3), read(None, 50, 51))

    def test_unknown_may_happen_much_later(self):
        self.good(write(1, 1, UNKNOWN), read(None, 2, 3), write(2, 4, 5), read(2, 6, 7), read(1, 100, 101))

    def test_many_unknown(self):
        h = [write(i, 1, UNKNOWN) for i in range(200)]
        h += [read(i, 10 * i + 2, 10 * i + 3) for i in range(0, 200, 7)]
        self.good(*h)

    def test_cas(self):
        self.good(cas(None, 1, True, 1, 2), cas(None, 2, 1, 3, 4), cas(1, 3, True, 5, 6), read(3, 7, 8))

    def test_unknown_cas(self):
        self.good(cas(None, 1, None, 1, UNKNOWN), read(None, 2, 3), read(1, 4, 5))
        self.good(cas(7, 1, None, 1, UNKNOWN), read(None, 2, 3))

    def test_unknown_seen_only_by_unknown(self):
        self.good(write(1, 1, UNKNOWN), cas(1, 2, None, 3, UNKNOWN), cas(2, 3, None, 5, UNKNOWN), read(None, 6, 7), read(3, 8, 9))

    def test_one_of_two_cas_wins(self):
        self.good(cas(None, 1, True, 1, 5), cas(None, 2, 1, 1, 5))
        self.good(cas(None, 1, 2, 1, 5), cas(None, 2, True, 1, 5))

    def test_list(self):
        self.good(whole('', 1, 2), append('a', 3, 4), append('b', 5, 6), whole('ab', 7, 8))

    def test_appends_side_by_side(self):
        self.good(append('a', 1, 9), append('b', 1, 9), whole('ba', 10, 11), append('c', 12, 13), whole('bac', 14, 15))

    def test_unknown_append(self):
        self.good(append('a', 1, UNKNOWN), append('b', 2, 3), whole('b', 4, 5), whole('ba', 9, 10))
        self.good(append('a', 1, UNKNOWN), append('b', 2, 3), whole('b', 4, 5), append('c', 6, 7), whole('bc', 9, 10))

    def test_tails(self):
        self.good(append('a', 1, 2), append('b', 3, 4), whole('ab', 5, 6), append('c', 7, 8), tail('bc', 9, 10),
                  append('d', 11, 20), tail('bc', 12, 13), tail('cd', 14, 15), tail('', 21, 22))

    def test_objects_are_apart(self):
        other = ('register', 's')
        self.good(write(1, 1, 2), Op(other, 'read', None, None, 3, 4), Op(other, 'write', 1, None, 5, 6))


class Wrong(unittest.TestCase):
    def bad(self, text, *history):
        with self.assertRaises(Anomaly) as e:
            check(list(history))
        self.assertIn(text, str(e.exception))

    def test_stale_read(self):
        self.bad('cannot have happened', write(1, 1, 2), write(2, 3, 4), read(1, 5, 6))
        self.bad('cannot have happened', write(1, 1, 2), read(None, 3, 4))

    def test_reads_go_back(self):
        # both reads are beside the write, but the second one began after the first had seen it
        self.bad('cannot have happened', write(1, 1, 2), write(2, 3, 20), read(2, 4, 5), read(1, 6, 7))

    def test_two_readers_in_different_order(self):
        self.bad('cannot have happened', write(1, 1, 20), write(2, 1, 20), read(1, 2, 3), read(2, 4, 5), read(1, 6, 7))

    def test_read_from_the_future(self):
        self.bad('cannot have happened', read(1, 1, 2), write(1, 3, 4))
        self.bad('nobody wrote', read(1, 1, 2))

    def test_lost_write(self):
        self.bad('cannot have happened', write(1, 1, 2), read(1, 3, 4), read(None, 5, 6))

    def test_unknown_cannot_come_and_go(self):
        self.bad('cannot have happened', write(1, 1, UNKNOWN), write(2, 2, 3), read(1, 4, 5), read(2, 6, 7))

    def test_unknown_not_before_it_began(self):
        self.bad('cannot have happened', read(1, 1, 2), write(1, 5, UNKNOWN))

    def test_refused_write_shows(self):
        # a write that was refused is left out of the history: nobody may ever see it
        self.bad('nobody wrote', write(1, 1, 2), read(9, 3, 4))

    def test_both_cas_win(self):
        self.bad('cannot have happened', cas(None, 1, True, 1, 5), cas(None, 2, True, 1, 5))

    def test_cas_refused_without_cause(self):
        self.bad('cannot have happened', write(1, 1, 2), cas(1, 2, 1, 3, 4))
        self.bad('cannot have happened', write(1, 1, 2), write(3, 3, 4), cas(3, 2, 1, 5, 6))

    def test_cas_from_a_value_that_is_gone(self):
        self.bad('cannot have happened', write(1, 1, 2), write(2, 3, 4), cas(1, 3, True, 5, 6))

    def test_unknown_cas_from_nowhere(self):
        self.bad('cannot have happened', write(1, 1, 2), cas(7, 3, None, 3, UNKNOWN), read(3, 5, 6))
        self.bad('cannot have happened', write(1, 1, UNKNOWN), cas(1, 2, None, 3, UNKNOWN), read(2, 4, 5), read(1, 8, 9))

    def test_lost_append(self):
        self.bad('cannot have happened', append('a', 1, 2), append('b', 3, 4), whole('b', 5, 6))
        self.bad('cannot have happened', append('a', 1, 2), whole('', 3, 4))

    def test_lost_in_the_middle(self):
        self.bad('another place', append('a', 1, 2), append('b', 3, 4), append('c', 5, 6), whole('abc', 7, 8), whole('ac', 9, 10))

    def test_lost_before_a_tail(self):
        self.bad('cannot have happened', append('a', 1, 2), whole('a', 3, 4), append('b', 5, 6), append('c', 7, 8),
                 tail('ac', 9, 10))

    def test_doubled_append(self):
        self.bad('there twice', append('a', 1, 2), append('b', 3, 4), whole('aba', 5, 6))

    def test_doubled_beyond_a_tail(self):
        self.bad('another place', append('a', 1, 2), append('b', 3, 4), append('c', 5, 6), whole('abc', 7, 8), tail('ca', 9, 10))

    def test_elements_change_places(self):
        self.bad('another place', append('a', 1, 20), append('b', 1, 20), whole('ab', 2, 3), whole('ba', 4, 5))

    def test_list_order_against_time(self):
        self.bad('cannot have happened', append('a', 1, 2), append('b', 3, 4), whole('ba', 5, 6))

    def test_list_goes_back(self):
        self.bad('cannot have happened', append('a', 1, 2), append('b', 3, 20), whole('ab', 4, 5), whole('a', 6, 7))
        self.bad('cannot have happened', append('a', 1, 2), append('b', 3, 20), whole('ab', 4, 5), tail('a', 6, 7))

    def test_element_of_nobody(self):
        self.bad('nobody appended', append('a', 1, 2), whole('ax', 3, 4))

    def test_element_from_the_future(self):
        self.bad('cannot have happened', append('a', 1, 2), whole('ab', 3, 4), append('b', 5, 6))


class Simulated(unittest.TestCase):
    """Long histories of an object that is right, with one result made wrong."""

    def history(self, rng, n, clients=12):
        """Each operation takes effect at a moment between its beginning and its end; some are of unknown outcome."""
        events, now = [], [0] * clients
        for i in range(n):
            c = rng.randrange(clients)
            began = now[c] + rng.randrange(1, 30)
            effect = began + rng.randrange(0, 30)
            ended = effect + rng.randrange(0, 30)
            now[c] = ended
            events.append((effect, i, c, began, ended))
        register, elements, written, out = None, [], [None], []
        for effect, i, c, began, ended in sorted(events):
            unknown = rng.random() < 0.05
            happens = not unknown or rng.random() < 0.5
            name = rng.choice(['write', 'read', 'cas', 'append', 'tail', 'whole'])
            end = UNKNOWN if unknown else ended
            if name == 'write':
                out.append(Op(R, 'write', i, None, began, end, c))
                written.append(i)
                register = i if happens else register
            elif name == 'read' and not unknown:
                out.append(Op(R, 'read', None, register, began, end, c))
            elif name == 'cas':
                old = rng.choice([register, rng.choice(written)])
                out.append(Op(R, 'cas', (old, i), True if old == register else register, began, end, c))
                register = i if happens and old == register else register
            elif name == 'append':
                out.append(Op(L, 'append', i, None, began, end, c))
                if happens:
                    elements.append(i)
            elif name in ('tail', 'whole') and not unknown:
                shown = elements if name == 'whole' or len(elements) < 40 else elements[-40:]
                out.append(Op(L, 'read', None, Tail(tuple(shown), shown is elements), began, end, c))
        rng.shuffle(out)
        return out

    def test_right(self):
        for seed in range(30):
            check(self.history(random.Random(seed), 600))

    def test_one_result_wrong(self):
        found = tried = 0
        for seed in range(60):
            rng = random.Random(seed)
            h = self.history(rng, 300)
            reads = [i for i, op in enumerate(h) if op.name == 'read' and op.object == R and op.result is not None]
            writes = [op.value for op in h if op.name == 'write' and op.ended != UNKNOWN]
            i = rng.choice(reads)
            # a value whose write ended long before, or began long after
            far = [w for w in writes for op in h if op.name == 'write' and op.value == w and
                   (op.ended < h[i].began - 300 or op.began > h[i].ended + 300)]
            if not far:
                continue
            h[i] = h[i]._replace(result=rng.choice(far))
            tried += 1
            try:
                check(h)
            except Anomaly:
                found += 1
        self.assertGreater(tried, 30)
        self.assertEqual(found, tried)

    def test_one_append_lost(self):
        for seed in range(20):
            rng = random.Random(seed)
            h = self.history(rng, 300)
            last = max((op for op in h if op.name == 'read' and op.object == L and op.result.whole), key=lambda op: op.began)
            acknowledged = [op.value for op in h if op.name == 'append' and op.ended < last.began and
                            op.value in last.result.elements]
            gone = rng.choice(acknowledged)
            h = [op._replace(result=Tail(tuple(e for e in op.result.elements if e != gone), op.result.whole))
                 if op.name == 'read' and op.object == L else op for op in h]
            with self.assertRaises(Anomaly):
                check(h)

    def test_fast_enough(self):
        h = self.history(random.Random(4711), 12000, clients=24)
        began = time.process_time()
        check(h)
        self.assertLess(time.process_time() - began, 20)


if __name__ == '__main__':
    unittest.main()
