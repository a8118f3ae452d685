"""Is a recorded history of concurrent operations linearizable? Wing & Gong's search with Lowe's memory of what was tried
(Wing, Gong: Testing and verifying concurrent objects, 1993; Lowe: Testing for linearizability, 2017), one object at a time:
a history is linearizable if and only if that of each object is (Herlihy, Wing 1990, theorem 1).

A history is a list of Op. Values written to one object are all different; that is what makes the search short:
an operation of unknown outcome whose value nobody ever saw may be left out, and the order of a list's elements is known from
what was read.

    register   write(value) -> None     read() -> value      cas((old, new)) -> True or the value that was there
    list       append(value) -> None    read() -> Tail(...)

An object begins as a register with INITIAL, or as an empty list.
"""
from collections import defaultdict, namedtuple

INITIAL = None
UNKNOWN = float('inf')  # ended: nobody knows whether it happened, or ever will

# object: (kind, name); began, ended: ns of one clock
Op = namedtuple('Op', 'object name value result began ended client', defaults=('',))
# The last elements of a list in order; whole: all of them.
Tail = namedtuple('Tail', 'elements whole')


class Anomaly(Exception):
    """The history is not linearizable; the text says which operations are the proof."""


def describe(op):
    end = 'unknown' if op.ended == UNKNOWN else '%.6f' % (op.ended / 1e9)
    text = repr(op.result)
    return '%.6f .. %-12s %-8s %s %s -> %s' % (op.began / 1e9, end, op.client, op.name, '' if op.value is None else op.value,
                                               text if len(text) < 200 else '... ' + text[-200:])


# ---- objects: step(state, op) -> new state, or IMPOSSIBLE ----

IMPOSSIBLE = object()


class Register:
    def __init__(self, ops):
        written = {INITIAL}
        seen = set()
        for op in ops:
            if op.name != 'read':
                new = op.value if op.name == 'write' else op.value[1]
                if new in written:
                    raise ValueError('%r is written twice: the values of a history must differ' % (new,))
                written.add(new)
            if op.ended == UNKNOWN:
                continue
            if op.name == 'read':
                seen.add(op.result)
            elif op.name == 'cas':
                seen.add(op.value[0] if op.result is True else op.result)
        for op in ops:
            observed = op.result if op.name == 'read' else op.value[0] if op.name == 'cas' and op.result is True else \
                op.result if op.name == 'cas' else INITIAL
            if op.ended != UNKNOWN and observed not in written:
                raise Anomaly('a value that nobody wrote:\n' + describe(op))
        # An unknown one that was seen has itself seen what it replaced.
        chain = {op.value[1]: op.value[0] for op in ops if op.name == 'cas' and op.ended == UNKNOWN}
        for new in list(seen):
            while new in chain and chain[new] not in seen:
                new = chain[new]
                seen.add(new)
        # What is left out was seen by nobody: any order with it is as good without it.
        self.ops = [op for op in ops if op.ended != UNKNOWN or
                    (op.name == 'write' and op.value in seen) or (op.name == 'cas' and op.value[1] in seen)]

    # (value, must the next operation see it). One of unknown outcome that was seen took effect just before the first that
    # saw it: between the two nothing can be, as every operation either sees the value or replaces it for good. Without
    # this rule every subset of them would be tried everywhere.
    initial = (INITIAL, False)

    def step(self, state, op):
        value, must_see = state
        unknown = op.ended == UNKNOWN
        if op.name == 'write':
            return IMPOSSIBLE if must_see else (op.value, unknown)
        if op.name == 'read':
            return (value, False) if op.result == value else IMPOSSIBLE
        old, new = op.value
        if unknown or op.result is True:
            return (new, unknown) if value == old else IMPOSSIBLE
        return (value, False) if op.result == value and value != old else IMPOSSIBLE


class List:
    """The state is the length: all reads together say which element is where."""
    initial = 0

    def __init__(self, ops):
        self.order, self.place = [], {}
        reads = [op for op in ops if op.name == 'read' and op.ended != UNKNOWN]
        appended = {op.value for op in ops if op.name == 'append'}
        for op in sorted(reads, key=lambda op: op.ended):
            self._learn(op, appended)
        self.ops = [op for op in ops if op.ended != UNKNOWN or (op.name == 'append' and op.value in self.place)]

    def _learn(self, op, appended):
        elements = op.result.elements
        if len(set(elements)) != len(elements):
            raise Anomaly('an element is there twice:\n' + describe(op))
        strange = [e for e in elements if e not in appended]
        if strange:
            raise Anomaly('an element that nobody appended (%r):\n%s' % (strange[0], describe(op)))
        if op.result.whole:
            at = 0
        elif not elements:
            return
        elif elements[0] in self.place:
            at = self.place[elements[0]]
        else:
            raise ValueError('reads do not overlap: read longer tails')
        for e in elements:
            if at < len(self.order) and self.order[at] != e or self.place.get(e, at) != at:
                raise Anomaly('element %r is in another place than in an earlier read:\n%s' % (e, describe(op)))
            if at == len(self.order):
                self.order.append(e)
                self.place[e] = at
            at += 1

    def step(self, state, op):
        if op.name == 'append':
            # an element that no read has shown can only come after all that were shown
            place = self.place.get(op.value)
            fits = state == place if place is not None else state >= len(self.order)
            return state + 1 if fits else IMPOSSIBLE
        n = len(op.result.elements)
        if op.result.whole:
            return state if state == n else IMPOSSIBLE
        if n == 0:
            return state
        return state if state == self.place[op.result.elements[-1]] + 1 else IMPOSSIBLE


KINDS = {'register': Register, 'list': List}


# ---- the search ----

class Entry:
    __slots__ = ('op', 'match', 'before', 'next', 'number')


def _entries(ops):
    """Calls and returns in the order of time as a linked list. A call and a return at the same time: the call first, so that
    they overlap."""
    events = []
    for i, op in enumerate(ops):
        events.append((op.began, 0, i))
        if op.ended != UNKNOWN:
            events.append((op.ended, 1, i))
    events.sort()
    head = last = Entry()
    head.op = head.match = head.before = head.next = None
    calls = {}
    for _, is_return, i in events:
        e = Entry()
        e.op, e.number, e.match, e.before, e.next = ops[i], i, None, last, None
        if is_return:
            e.op = None
            calls[i].match = e
            e.match = calls[i]
        else:
            calls[i] = e
        last.next = e
        last = e
    return head


def _lift(e):
    """Takes the call and its return out of the list."""
    for x in (e, e.match):
        if x is not None:
            x.before.next = x.next
            if x.next is not None:
                x.next.before = x.before


def _unlift(e):
    for x in (e.match, e):
        if x is not None:
            x.before.next = x
            if x.next is not None:
                x.next.before = x


def check_object(kind, ops):
    """Raises Anomaly."""
    model = KINDS[kind](ops)
    head = _entries(model.ops)
    n_left = sum(op.ended != UNKNOWN for op in model.ops)
    state, done, stack, tried = model.initial, 0, [], set()
    entry, deepest, stuck = head.next, [], None
    while n_left:
        if entry is not None and entry.op is not None:
            new = model.step(state, entry.op)
            if new is not IMPOSSIBLE and (done | 1 << entry.number, new) not in tried:
                tried.add((done | 1 << entry.number, new))
                stack.append((entry, state))
                state, done = new, done | 1 << entry.number
                n_left -= entry.match is not None
                _lift(entry)
                entry = head.next
            else:
                entry = entry.next
            continue
        # a return whose call has not taken effect yet: undo the last choice
        if len(stack) >= len(deepest):
            deepest, stuck = [e.op for e, _ in stack], entry.match.op if entry is not None else None
        if not stack:
            raise Anomaly(_explain(model, deepest, stuck))
        entry, state = stack.pop()
        done &= ~(1 << entry.number)
        n_left += entry.match is not None
        _unlift(entry)
        entry = entry.next


def _explain(model, deepest, stuck):
    lines = ['no order of the operations explains what was seen. The longest that does ends with']
    lines += ['    ' + describe(op) for op in deepest[-6:]] or ['    (nothing)']
    if stuck is not None:
        lines += ['and then this one cannot have happened', '    ' + describe(stuck)]
        placed = {id(op) for op in deepest}
        beside = [op for op in model.ops if id(op) not in placed and op is not stuck and op.began <= stuck.ended]
        lines += ['beside'] + ['    ' + describe(op) for op in beside[:12]] if beside else []
    return '\n'.join(lines)


def check(history):
    """Of all objects. Raises Anomaly with the first object that is not linearizable; returns how many operations each has."""
    objects = defaultdict(list)
    for op in history:
        objects[op.object].append(op)
    for (kind, name), ops in sorted(objects.items()):
        try:
            check_object(kind, ops)
        except Anomaly as e:
            raise Anomaly('%s %s: %s' % (kind, name, e)) from None
    return {name: len(ops) for (kind, name), ops in objects.items()}
