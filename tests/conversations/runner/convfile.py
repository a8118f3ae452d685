"""The text format of conversations (README.md): files into lists of steps."""
import os
import re
import shlex
from xml.parsers import expat

from xml_match import parse_patterns


class BadFile(Exception):
    pass


class Step:
    def __init__(self, file, line, text):
        self.file, self.line, self.text = file, line, text
        self.clients = []
        self.verb = None
        self.words, self.options = [], {}
        self.block = ''
        self.patterns = []
        self.mode = None

    def fail(self, what):
        raise BadFile('%s:%d: %s' % (self.file, self.line, what))

    def __str__(self):
        return '%s:%d: %s' % (os.path.relpath(self.file), self.line, self.text)


class Conversation:
    def __init__(self, file, line, title):
        self.file, self.line, self.title = file, line, title
        self.steps, self.users, self.clients = [], [], []
        self.exclusive = False
        self.source = []

    def __str__(self):
        return '%s:%d %s' % (os.path.relpath(self.file), self.line, self.title)

    def add_user(self, name):
        if name not in self.users:
            self.users.append(name)

    def add_client(self, name):
        if name not in self.clients:
            self.clients.append(name)
        if '.' in name:
            self.add_user(name.split('.')[0])


NAME = r'[a-z][a-z0-9_-]*'
CLIENT_NAME = re.compile(r'%s(\.%s)?$' % (NAME, NAME))
# verbs of clients: (has a block or XML behind it, what the block is)
CLIENT_VERBS = {
    'connect': None, 'online': None, 'raw': None, 'open': None, 'starttls': None, 'handshake': None, 'auth': None, 'bind': None,
    'sasl2': 'options', 'upgrade': None,
    'send': 'xml', 'bytes': 'text', 'frames': 'text', 'post': 'text', 'lose': 'text', 'expect': 'pattern', 'seek': 'pattern',
    'nothing': None, 'forget': None,
    'disconnect': None, 'kill': None, 'reconnect': None, 'closed': None, 'close': None,
}
GLOBAL_VERBS = {'user', 'friends', 'follows', 'sync', 'nothing', 'forget', 'impcli', 'let', 'exclusive', 'check'}
MODES = {'exactly', 'unordered', 'either'}


def join(lines):
    """Indented XML is one text: line ends and indentation between tags are nothing, elsewhere one space."""
    out = ''
    for line in lines:
        line = line.strip()
        if out and not (out.endswith('>') and line.startswith('<')):
            out += ' '
        out += line
    return out


def options_of(step, words):
    for w in words:
        name, eq, value = w.partition('=')
        if eq and re.fullmatch('[a-z0-9_-]+', name):
            step.options[name] = value
        else:
            step.words.append(w)


def read_step(step, c):
    """Fills the step from its first line; returns the rest of the line that belongs to the block."""
    first, _, rest = step.text.partition(' ')
    if first in GLOBAL_VERBS:
        step.verb = first
        if first in ('impcli', 'let', 'check'):
            step.rest = rest.strip()
            if first == 'impcli' and re.match(r'settings\b', step.rest) and not c.exclusive:
                step.fail("impcli settings changes other conversations too: say 'exclusive' first")
        else:
            try:
                options_of(step, shlex.split(rest))
            except ValueError as e:
                step.fail(str(e))
        if first in ('user', 'friends', 'follows'):
            for w in step.words:
                if not re.fullmatch(NAME, w):
                    step.fail("'%s' is no name of a user" % w)
                c.add_user(w)
            if first != 'user' and len(step.words) < 2:
                step.fail('%s needs two users' % first)
        if first == 'exclusive':
            c.exclusive = True
        return ''
    text = step.text
    while True:
        word, _, text = text.partition(' ')
        text = text.lstrip()
        name = word.rstrip(',')
        if name in CLIENT_VERBS and step.clients:
            step.verb = name
            break
        if not CLIENT_NAME.match(name):
            step.fail("'%s' is neither a client nor what a client does; known: %s; or %s"
                      % (word, ' '.join(CLIENT_VERBS), ' '.join(sorted(GLOBAL_VERBS))))
        step.clients.append(name)
        c.add_client(name)
        if not text:
            step.fail('nothing is said about what %s does' % ', '.join(step.clients))
    kind = CLIENT_VERBS[step.verb]
    if kind == 'pattern':
        word = text.split(' ', 1)[0]
        if word in MODES:
            step.mode = word
            text = text[len(word):].lstrip()
    if kind == 'options':
        at = text.find('<')
        text, rest = (text, '') if at < 0 else (text[:at], text[at:])
    elif kind:
        return text
    try:
        options_of(step, shlex.split(text))
    except ValueError as e:
        step.fail(str(e))
    return rest if kind == 'options' else ''


def finish(step, block_line, lines):
    kind = CLIENT_VERBS.get(step.verb)
    step.lines = [line.strip() for line in lines if line.strip()]
    if not kind:
        if step.lines and step.verb != 'impcli':
            step.fail("'%s' takes no indented lines" % step.verb)
        return
    if not step.lines and kind == 'options':
        step.block = ''
        return
    if not step.lines:
        step.fail("'%s' needs %s behind it or in indented lines below" % (step.verb, 'XML' if kind != 'text' else 'a text'))
    if kind == 'pattern':
        try:
            step.patterns = parse_patterns('\n'.join(line.strip() for line in lines), block_line)
        except expat.ExpatError as e:
            raise BadFile('%s:%d: no XML pattern: %s' % (step.file, block_line + e.lineno - 1, expat.ErrorString(e.code)))
        if not step.patterns:
            step.fail('no element is expected')
        if step.mode in ('unordered', 'either') and len(step.patterns) < 2:
            step.fail("'%s' needs two elements at least" % step.mode)
    else:
        step.block = join(step.lines) if step.verb != 'frames' else '\n'.join(step.lines)


def read(path):
    """The conversations of a file."""
    found, c, step, lines, block_line = [], None, None, [], 0
    with open(path, encoding='utf-8') as f:
        source = f.read().split('\n')

    def end_step():
        nonlocal step
        if step:
            finish(step, block_line, lines)
            c.steps.append(step)
        step = None

    for n, line in enumerate(source, 1):
        if line.startswith('==='):
            end_step()
            title = line.strip('= \t')
            if not title:
                raise BadFile('%s:%d: a conversation needs a title that names the rule' % (path, n))
            c = Conversation(path, n, title)
            found.append(c)
        elif not line.strip() or line.lstrip().startswith('#'):
            # between lines of one stanza it keeps the line numbers right
            if step:
                lines.append('')
        elif line[0] in ' \t':
            if not step:
                raise BadFile('%s:%d: an indented line that belongs to nothing' % (path, n))
            lines.append(line)
        else:
            if not c:
                raise BadFile("%s:%d: a file begins with '=== title of a conversation'" % (path, n))
            end_step()
            step, lines, block_line = Step(path, n, line.rstrip()), [], n + 1
            rest = read_step(step, c)
            if rest:
                lines, block_line = [rest], n
        if c:
            c.source.append((n, line))
    end_step()
    if not found:
        raise BadFile('%s:1: no conversation in it' % path)
    for c in found:
        if not c.steps:
            raise BadFile('%s:%d: the conversation has no steps' % (path, c.line))
        if not any(s.verb in ('expect', 'seek', 'nothing', 'closed', 'check') for s in c.steps):
            raise BadFile('%s:%d: the conversation expects nothing, so that it cannot fail' % (path, c.line))
    return found
