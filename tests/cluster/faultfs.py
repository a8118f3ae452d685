"""Faults of one node's disk and clock: preloads faultfs.c into its processes and tells it what to do.

    faults = Faults(node)              before node.init(), join() or start()
    faults.rule('write', '/log/', errno.EIO)      ... faults.clear()
    faults.clock(+7200)
    node.kill(); faults.lose_power(rng)           then node.start()
"""
import collections
import mmap
import os
import struct
import subprocess

from harness import BUILD, IMPNODE

OPS = {'open': 1, 'read': 2, 'write': 4, 'sync': 8, 'name': 16, 'size': 32}
EVERYTHING_BUT_READS = 1 | 4 | 8 | 16 | 32
SECTOR = 512
RULE = struct.Struct('<IIIIqq96s')
HEAD = struct.Struct('<QqQII')
RECORD = struct.Struct('<IIQQQQQQ64s64s')
MAGIC = 0x4c4e524a
WRITE, SIZE, SYNC, CREATE, RENAME, UNLINK, MKDIR, RMDIR = range(8)


def sanitizer():
    """Its runtime must be the first library that is loaded."""
    out = subprocess.run(['ldd', IMPNODE], capture_output=True, text=True).stdout
    return [line.split()[2] for line in out.splitlines() if 'libasan' in line or 'libtsan' in line]


Record = collections.namedtuple('Record', 'kind sequence inode offset n size extra name other at')


class Faults:
    def __init__(self, node, journal=False):
        base = os.path.join(node.cluster.dir, node.name)
        self.node, self.root = node, node.dir
        self.control_path, self.journal, self.trash = base + '.control', base + '.journal', base + '.trash'
        os.makedirs(self.trash)
        with open(self.control_path, 'wb') as f:
            f.write(bytes(4096))
        self.file = open(self.control_path, 'r+b')
        self.map = mmap.mmap(self.file.fileno(), 4096)
        # slow disks of the machine are not what is tested: a sync is real only where the test wants it
        HEAD.pack_into(self.map, 0, 0, 0, 2**64 - 1, int(journal), int(not journal))
        self.n = 0
        node.env = {'LD_PRELOAD': ' '.join(sanitizer() + [os.path.join(BUILD, 'tests', 'cluster', 'libfaultfs.so')]),
                    'IMP_FAULT_CONTROL': self.control_path, 'IMP_FAULT_ROOT': os.path.realpath(self.root),
                    'IMP_FAULT_JOURNAL': self.journal, 'IMP_FAULT_TRASH': self.trash}

    # ---- rules ----

    def rule(self, ops, path='', number=0, delay_ms=0, skip=0, count=-1):
        """Operations OPS ('write sync') on paths with PATH in them, after SKIP of them, COUNT times (-1: for ever)."""
        mask = EVERYTHING_BUT_READS if ops == 'all' else sum(OPS[o] for o in ops.split())
        at = HEAD.size + self.n * RULE.size
        RULE.pack_into(self.map, at, 0, number, delay_ms, 0, skip, count, path.encode())
        struct.pack_into('<I', self.map, at, mask)  # now it is in force
        self.n += 1
        return self.n - 1

    def hits(self, rule):
        return RULE.unpack_from(self.map, HEAD.size + rule * RULE.size)[3]

    def clear(self):
        for i in range(self.n):
            struct.pack_into('<I', self.map, HEAD.size + i * RULE.size, 0)
        self.n = 0

    def clock(self, seconds):
        struct.pack_into('<q', self.map, 8, int(seconds * 1e9))

    def free_bytes(self, n):
        struct.pack_into('<Q', self.map, 16, 2**64 - 1 if n is None else n)

    # ---- power loss ----

    def records(self):
        """Of the journal, in the order of their sequence; contents stay in the file."""
        found = []
        try:
            f = open(self.journal, 'rb')
        except FileNotFoundError:
            return found
        with f:
            at, size = 0, os.fstat(f.fileno()).st_size
            while at + RECORD.size <= size:
                f.seek(at)
                magic, kind, sequence, inode, offset, n, length, extra, name, other = RECORD.unpack(f.read(RECORD.size))
                assert magic == MAGIC, 'the journal is damaged at %d' % at
                at += RECORD.size
                found.append(Record(kind, sequence, inode, offset, n, length, extra, name.rstrip(b'\0').decode(),
                                    other.rstrip(b'\0').decode(), at))
                if kind == WRITE and not extra:
                    at += n
        return sorted(found, key=lambda r: r.sequence)

    def lose_power(self, rng):
        """The node is dead; its directory becomes one that the disk could have after a power loss now. Says what was lost."""
        records = self.records()
        synced = collections.defaultdict(int)
        for r in records:
            if r.kind == SYNC:
                synced[r.inode] = max(synced[r.inode], r.offset)
        with open(self.journal, 'ab+') as journal:
            content = self.undo_content(rng, journal, [r for r in records if r.kind in (WRITE, SIZE) and
                                                       r.sequence > synced[r.inode]])
        names = self.undo_names(rng, [r for r in records if r.kind in (CREATE, RENAME, UNLINK, MKDIR, RMDIR) and
                                      (r.sequence > synced[r.inode] or r.kind == RENAME and r.sequence > synced[r.offset])])
        self.forget()
        return '%s, %d names' % (content, names)

    def forget(self):
        """What is there now is what the disk has."""
        for name in os.listdir(self.trash):
            os.unlink(os.path.join(self.trash, name))
        open(self.journal, 'wb').close()

    def inodes(self):
        found = {}
        for where, _, names in os.walk(self.root):
            found[os.stat(where).st_ino] = where
            for name in names:
                path = os.path.join(where, name)
                found[os.lstat(path).st_ino] = path
        for name in os.listdir(self.trash):
            path = os.path.join(self.trash, name)
            found.setdefault(os.stat(path).st_ino, path)
        return found

    def undo_content(self, rng, journal, records):
        paths, by_inode, n_sectors, n_old = self.inodes(), collections.defaultdict(list), 0, 0
        for r in records:
            by_inode[r.inode].append(r)
        for inode, rs in by_inode.items():
            if inode not in paths:
                continue  # made and removed since
            with open(paths[inode], 'r+b') as f:
                now = os.fstat(f.fileno()).st_size
                sectors = collections.defaultdict(list)  # what was there before each write
                for r in rs:
                    for k in range(r.n // SECTOR if r.kind == WRITE else 0):
                        sectors[r.offset + k * SECTOR].append(None if r.extra else r.at + k * SECTOR)
                keep_all, lose_all = rng.random() < 0.15, rng.random() < 0.15
                for at, versions in sectors.items():
                    n_sectors += 1
                    choice = len(versions) if keep_all else 0 if lose_all else rng.randrange(len(versions) + 1)
                    if choice == len(versions):
                        continue
                    n_old += 1
                    data = bytes(SECTOR)
                    if versions[choice] is not None:
                        journal.seek(versions[choice])
                        data = journal.read(SECTOR)
                    f.seek(at)
                    f.write(data)
                sizes = [r.size for r in rs] + [now]
                f.truncate(sizes[-1] if keep_all else sizes[0] if lose_all else rng.choice(sizes))
        return '%d of %d unsynced sectors in %d files' % (n_old, n_sectors, len(by_inode))

    def undo_names(self, rng, records):
        """The last ones, as many as chance wants: a file system keeps the order of them."""
        first = rng.randrange(len(records) + 1)
        for r in reversed(records[first:]):
            dirs = self.inodes()
            parent, other = dirs.get(r.inode), dirs.get(r.offset)
            # a directory that was removed since; its inode may be a file's by now
            if not parent or not os.path.isdir(parent) or other and not os.path.isdir(other):
                continue
            path = os.path.join(parent, r.name)
            kept = os.path.join(self.trash, str(r.extra)) if r.extra else None
            if r.kind == CREATE and os.path.lexists(path):
                os.unlink(path)
            elif r.kind == UNLINK and kept and not os.path.lexists(path):
                os.rename(kept, path)
            elif r.kind == MKDIR and os.path.isdir(path) and not os.listdir(path):
                os.rmdir(path)
            elif r.kind == RMDIR and not os.path.lexists(path):
                os.mkdir(path, 0o700)
            elif r.kind == RENAME and other and os.path.lexists(os.path.join(other, r.other)):
                os.rename(os.path.join(other, r.other), path)
                if kept:
                    os.rename(kept, os.path.join(other, r.other))
        return len(records) - first
