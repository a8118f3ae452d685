#!/usr/bin/python3
"""docs/attacks.md against the tree: every test that it names exists, conversations of a row say so, no row is without."""
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
# those of the list that concern what is built
ROWS = {1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 21, 22, 23, 24, 29, 31}
KINDS = {'unit': ['tests/unit/%s_test.c', 'tests/unit/%s_test.py'], 'cluster': ['tests/cluster/%s.py'],
         'fuzz': ['tests/fuzz/%s_fuzz.c']}


def problem_with(row, name):
    if name.endswith('.conv'):
        path = os.path.join(HERE, name)
        if not os.path.exists(path):
            return 'there is no %s' % name
        with open(path, encoding='utf-8') as f:
            if not re.search(r'^===.*\battack %d\b' % row, f.read(), re.M):
                return '%s has no conversation of attack %d' % (name, row)
        return None
    kind, _, rest = name.partition('_')
    if not any(os.path.exists(os.path.join(ROOT, p % rest)) for p in KINDS.get(kind, [])):
        return 'there is no test %s' % name
    return None


def main():
    with open(os.path.join(ROOT, 'docs', 'attacks.md'), encoding='utf-8') as f:
        rows = re.findall(r'^\| (\d+) \|[^|]*\|([^|]*)\|$', f.read(), re.M)
    bad = ['row %s: %s' % (row, why) for row, tests in rows for name in tests.split(',')
           for why in [problem_with(int(row), name.strip())] if why]
    bad += ['no test of row %d' % row for row in sorted(ROWS - {int(row) for row, _ in rows})]
    print('\n'.join(bad) or '%d rows' % len(rows))
    sys.exit(1 if bad else 0)


if __name__ == '__main__':
    main()
