"""Elements as they come from a stream, patterns for them, and the comparison of the two.

A pattern is XML with the default namespace jabber:client. What it names must be there; more may be there. In values
and text: {variable}, {=name} captures, {/regex/}, "..." stands for any text that is not empty, {none} as a whole
value says that the attribute must be absent. Elements and attributes of the namespace T say the rest (README.md).
"""
import re
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

T = 'urn:imp:conversation'
CLIENT = 'jabber:client'
STREAMS = 'http://etherx.jabber.org/streams'
XML = 'http://www.w3.org/XML/1998/namespace'
# a component and a server see the same stanzas under another name
SAME = {'jabber:component:accept': CLIENT, 'jabber:server': CLIENT}


class Element:
    __slots__ = ('ns', 'name', 'attrs', 'children', 'text', 'line', 'exactly')

    def __init__(self, ns, name, attrs, line=0):
        self.ns, self.name, self.attrs, self.line = ns, name, attrs, line
        self.children, self.text, self.exactly = [], '', False

    def get(self, name, ns=''):
        return self.attrs.get((ns, name))

    def find(self, name, ns=CLIENT):
        for c in self.children:
            if c.name == name and c.ns == ns:
                return c
        return None

    def __str__(self):
        return self.write(CLIENT)

    def write(self, outer):
        out = '<%s%s' % ('stream:' if self.ns == STREAMS else '', self.name)
        if self.ns != outer and self.ns != STREAMS:
            out += ' xmlns=%s' % quoteattr(self.ns)
        for (ns, name), value in self.attrs.items():
            out += ' %s%s=%s' % ('xml:' if ns == XML else '{%s}' % ns if ns else '', name, quoteattr(value))
        inner = escape(self.text) if not self.children or self.text.strip() else ''
        inner += ''.join(c.write(self.ns) for c in self.children)
        return out + ('>%s</%s%s>' % (inner, 'stream:' if self.ns == STREAMS else '', self.name) if inner else '/>')


def split_name(name):
    ns, _, local = name.rpartition(' ')
    return SAME.get(ns, ns), local


class Parser:
    """on_element gets every finished child of the root, and the root itself when it opens; on_end its end."""

    def __init__(self, on_root, on_element, on_end, base_line=0):
        self.on_root, self.on_element, self.on_end = on_root, on_element, on_end
        self.stack = []
        self.p = expat.ParserCreate(namespace_separator=' ')
        self.p.buffer_text = True
        self.p.StartElementHandler = self.start
        self.p.EndElementHandler = self.end
        self.p.CharacterDataHandler = self.data
        self.base_line = base_line

    def feed(self, data):
        self.p.Parse(data, False)

    def start(self, name, attrs):
        ns, local = split_name(name)
        e = Element(ns, local, {split_name(k): v for k, v in attrs.items()}, self.base_line + self.p.CurrentLineNumber)
        self.stack.append(e)
        if len(self.stack) == 1:
            self.on_root(e)

    def end(self, name):
        e = self.stack.pop()
        if len(self.stack) == 1:
            self.on_element(e)
        elif self.stack:
            self.stack[-1].children.append(e)
        else:
            self.on_end()

    def data(self, text):
        if len(self.stack) > 1:
            self.stack[-1].text += text


HEAD = "<t:root xmlns='%s' xmlns:t='%s' xmlns:stream='%s'>" % (CLIENT, T, STREAMS)


def parse_patterns(text, line=0):
    """The top elements of TEXT; expat.ExpatError if it is no XML. LINE: of the text's first line in its file."""
    found = []
    p = Parser(lambda e: None, found.append, lambda: None, line - 1)
    p.feed(HEAD)
    p.feed(text)
    p.p.Parse('</t:root>', True)
    return found


TOKEN = re.compile(r'\{=([a-z_][\w.-]*)\}|\{/(.*?)/\}|\.\.\.', re.S)


class Mismatch(Exception):
    pass


def match_value(pattern, value, variables, captures):
    """PATTERN against a text; adds to captures. True if it matches."""
    expression, names, at = '', [], 0
    for m in TOKEN.finditer(pattern):
        expression += re.escape(variables(pattern[at:m.start()]))
        at = m.end()
        if m.group(1):
            # the same name again must have the same value
            expression += '(.+)'
            names.append(m.group(1))
        elif m.group(2) is not None:
            expression += '(?:%s)' % m.group(2)
        else:
            expression += '.+'
    expression += re.escape(variables(pattern[at:]))
    found = re.fullmatch(expression, value, re.S)
    if not found:
        return False
    for name, text in zip(names, found.groups()):
        if captures.get(name, text) != text:
            return False
        captures[name] = text
    return True


def match(pattern, e, variables, captures, exactly=False, top=True):
    """None, or why the element does not match. Captures are only good if it does."""
    if (pattern.ns, pattern.name) == (T, 'any'):
        return None
    where = '<%s>' % e.name
    if pattern.name != e.name or pattern.ns != e.ns:
        return 'it is {%s}%s, not {%s}%s' % (e.ns, e.name, pattern.ns, pattern.name)
    exactly = exactly or pattern.get('exactly', T) is not None
    for (ns, name), wanted in pattern.attrs.items():
        if ns == T:
            continue
        value = e.get(name, ns)
        if wanted == '{none}':
            if value is not None:
                return "%s has the attribute %s='%s'" % (where, name, value)
        elif value is None:
            return '%s has no attribute %s' % (where, name)
        elif not match_value(wanted, value, variables, captures):
            return "%s %s: '%s', expected '%s'" % (where, name, value, variables(wanted, True))
    if exactly:
        more = [n for n in e.attrs if n not in pattern.attrs and not (top and n == (XML, 'lang'))]
        if more:
            return '%s has the attribute %s too' % (where, more[0][1])
    return match_content(pattern, e, where, variables, captures, exactly)


def match_content(pattern, e, where, variables, captures, exactly):
    wanted = pattern.text
    if wanted.strip():
        if pattern.children:
            wanted = wanted.strip()
        if wanted.strip() == '...' and not pattern.children:
            return None if e.text or e.children else '%s is empty' % where
        if not match_value(wanted, e.text.strip() if pattern.children else e.text, variables, captures):
            return "%s contains '%s', expected '%s'" % (where, e.text, variables(wanted, True))
    elif exactly and e.text.strip():
        return "%s contains '%s' too" % (where, e.text)
    plain = []
    for p in pattern.children:
        if p.ns == T and p.name == 'not':
            for q in p.children:
                for c in e.children:
                    if match(q, c, variables, dict(captures), False, False) is None:
                        return '%s contains %s, which must not be there' % (where, c)
        elif p.get('count', T) is not None:
            n = len([c for c in e.children if match(p, c, variables, dict(captures), False, False) is None])
            if n != int(p.get('count', T)):
                return '%s has %d times <%s>, expected %s' % (where, n, p.name, p.get('count', T))
        else:
            plain.append(p)
    reason = assign(plain, e.children, where, variables, captures, exactly, pattern.get('ordered', T) is not None)
    if reason:
        return reason
    counted = [p for p in pattern.children if p.get('count', T) is not None]
    if exactly and not counted and len(e.children) > len(plain):
        return '%s has %d children, expected %d' % (where, len(e.children), len(plain))
    return None


def assign(patterns, children, where, variables, captures, exactly, ordered):
    """Every pattern gets a child of its own; with 'ordered' in this order. Backtracks."""
    if not patterns:
        return None
    first, reason = patterns[0], None
    options = first.children if (first.ns, first.name) == (T, 'either') else [first]
    for i, c in enumerate(children):
        for option in options:
            trial = dict(captures)
            why = match(option, c, variables, trial, exactly, False)
            if why is None:
                rest = children[i + 1:] if ordered else children[:i] + children[i + 1:]
                why = assign(patterns[1:], rest, where, variables, trial, exactly, ordered)
                if why is None:
                    captures.update(trial)
                    return None
                reason = why
            elif option.name == c.name and option.ns == c.ns:
                reason = reason or why
    return reason or '%s has no <%s xmlns=%s>' % (where, first.name, quoteattr(first.ns))
