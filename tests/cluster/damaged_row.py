#!/usr/bin/python3
"""Damage of the store on disk: a bit of a row, pages of zeros, a file cut off under a running node; on a follower, on
the leader, on a witness, on two of three at once. Nobody is asked: the node that is damaged stops serving, says so, takes a
fresh copy from another member and comes back, and every node ends with equal tables. With replication.auto_repair off it
waits for a person."""
import os
import struct

from harness import run_test, step, wait


def data_file(node):
    return os.path.join(node.dir, 'store', 'data.mdb')


def flip(node, text):
    with open(data_file(node), 'r+b') as f:
        data = f.read()
        at = data.find(text)
        assert at > 0, 'the row is not in the file'
        f.seek(at + 3)
        f.write(bytes([data[at + 3] ^ 4]))


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82f63b78 if crc & 1 else 0)
    return struct.pack('<I', crc ^ 0xffffffff)


def change_silently(node, text):
    """Another letter in a row of table user, and the checksum to it: only other nodes' rows, or the table's sum, show it."""
    with open(data_file(node), 'r+b') as f:
        data = f.read()
        n_changed, at = 0, data.find(text)
        while at > 0:
            for begin in range(at - 40, at - 8):  # {size 4, flags 2, key size 2}, key: a uid, row, checksum
                size, flags, n_key = struct.unpack_from('<IHH', data, begin)
                key, row = begin + 8, begin + 16
                if n_key != 8 or flags or not 8 < size < 400 or data[row + size - 4:row + size] != \
                        crc32c(data[key:row + size - 4]):
                    continue
                changed = data[row:row + size - 4].replace(text, text[:-1] + b'?')
                f.seek(row)
                f.write(changed + crc32c(data[key:row] + changed))
                n_changed += 1
            at = data.find(text, at + 1)
    assert n_changed, 'no row with this text'


def zero_pages(node, first=2, every=1):
    """All but the two meta pages, or each EVERYth."""
    size = os.path.getsize(data_file(node))
    with open(data_file(node), 'r+b') as f:
        for page in range(first, size // 4096, every):
            f.seek(page * 4096)
            f.write(bytes(4096))


def cut(node):
    with open(data_file(node), 'r+b') as f:
        f.truncate(16384)


def alarms(node, about, all_of_them=False):
    listed = node.json('alarm', 'list', *(['--all'] if all_of_them else []))
    return [a for a in listed if a['name'] == 'TablesDiffer' and a['node'] == about.name]


def state(seen_from, node):
    return seen_from.json('dbreplication', 'runtimestate', node.name)['nodes'][0]


def whole(cluster, healthy, node, n_alarms):
    """NODE is back by itself, and what happened can be read."""
    wait('%s is well again' % node.name, lambda: state(healthy, node)['state'] == 2 and
         state(healthy, node)['services'] == 'running')
    wait('the alarm about %s is over' % node.name, lambda: len(alarms(healthy, node, True)) >= n_alarms and
         not alarms(healthy, node))
    wait('the audit tells of it', lambda: [a for a in healthy.json('audit', 'list') if
                                           a['command'].startswith('dbreplication repair %s' % node.name)])
    step('%s is whole' % node.name)


def test(cluster):
    n1, n2, n3 = cluster.nodes
    n1.init()
    n1.start()
    wait('n1 answers', lambda: n1.cli('node', 'list'))
    cluster.add(n2, n1)
    n3.join(n1, cluster.token(n1), extra=('--witness',))
    n3.start()
    cluster.wait_running([n1, n2])
    cluster.wait_voters()
    cluster.add_local_users(['filler%03d' % i for i in range(60)])
    n1.cli('user', 'add', 'victim-of-the-bit', '--password-stdin', stdin='secret\n')
    cluster.check_equal()

    step('a bit of a row, found by the scrub')
    n2.stop()
    flip(n2, b'victim-of-the-bit')
    n1.cli('settings', 'set', 'storage.scrub', '10')
    n2.start()
    wait('the alarm is raised', lambda: alarms(n1, n2, True))
    assert n1.runs_services()
    whole(cluster, n1, n2, 1)
    text = alarms(n1, n2, True)[0]['text']
    assert 'fresh copy' in text, text
    n1.cli('settings', 'set', 'storage.scrub', '3600')

    step('pages of zeros on a witness that was killed')
    n3.kill()
    zero_pages(n3)
    n3.start()
    whole(cluster, n1, n3, 1)

    step('the file of the leader is cut off while it runs')
    leader = cluster.leader()
    other = n2 if leader is n1 else n1
    cut(leader)
    n1.cli('user', 'add', 'written-meanwhile', '--password-stdin', stdin='secret\n', check=False)
    wait('another node leads', lambda: state(other, leader) and cluster.leader() not in (None, leader))
    whole(cluster, other, leader, 1)

    step('two of three at once, and nothing can be written')
    n2.kill()
    n3.kill()
    zero_pages(n2, 2, 3)
    cut(n3)
    n2.start()
    n3.start()
    for node in (n2, n3):
        wait('%s is well again' % node.name, lambda: state(n1, node)['state'] == 2)
    cluster.wait_running()
    cluster.check_equal()

    step('auto repair is off')
    n1.cli('settings', 'set', 'replication.auto_repair', 'false')
    n2.stop()
    zero_pages(n2)
    n2.start()
    wait('n2 is in state 3', lambda: state(n1, n2)['state'] == 3)
    wait('the alarm says what to do', lambda: 'impcli dbreplication repair n2' in alarms(n1, n2)[0]['text'])
    n1.cli('user', 'add', 'without-n2', '--password-stdin', stdin='secret\n')
    assert state(n1, n2)['state'] == 3
    n1.cli('dbreplication', 'repair', 'n2')
    whole(cluster, n1, n2, 2)
    cluster.check_equal()

    step('a row that is another one, with the right checksum')
    n1.cli('user', 'add', 'not-the-same', '--password-stdin', stdin='secret\n')
    cluster.check_equal()
    same = n1.json('dbreplication', 'status', '--table', 'user')
    assert same['match'] and same['ranges'] == [] and same['rows_differ'] == [], same
    n3.stop()
    change_silently(n3, b'not-the-same')
    n3.start()
    wait('n3 is in', lambda: state(n1, n3)['state'] == 2)
    cluster.check_equal()  # what the nodes say of their tables is equal, what is in them is not
    found = n1.json('dbreplication', 'status', '--table', 'user')
    assert not found['match'] and found['tables'][0]['match'] and len(found['ranges']) == 1, found
    (row,) = found['rows_differ']
    assert row['nodes']['n1'] == row['nodes']['n2'] != row['nodes']['n3'] and row['key'].startswith('uid '), row
    text = n1.cli('dbreplication', 'status', '--table', 'user')
    assert 'differs: from uid' in text and 'Errors or Data Mismatches found' in text, text
    n1.cli('settings', 'set', 'storage.scrub', '10')
    wait('its own scrub sees it', lambda: state(n1, n3)['state'] == 3)
    n1.cli('dbreplication', 'repair', 'n3')
    whole(cluster, n1, n3, 2)
    assert n1.json('dbreplication', 'status', '--table', 'user')['match']

    step('the third copy in a day is the last that comes by itself')
    n1.cli('settings', 'set', 'replication.auto_repair', 'true')
    while len(alarms(n1, n2, True)) < 3:
        n = len(alarms(n1, n2, True))
        n2.kill()
        zero_pages(n2)
        n2.start()
        whole(cluster, n1, n2, n + 1)
    n2.kill()
    zero_pages(n2)
    n2.start()
    wait('the alarm says why not', lambda: '3 copies in 24 hours' in alarms(n1, n2)[0]['text'])
    n1.cli('dbreplication', 'repair', 'n2')
    whole(cluster, n1, n2, 4)
    n1.cli('settings', 'unset', 'replication.auto_repair')
    cluster.check_equal()
    for node in cluster.nodes:
        assert not os.path.exists(os.path.join(node.dir, 'damaged'))


if __name__ == '__main__':
    run_test(test)
