/* The faults of a disk and of a clock, for tests: preloaded into impnode (LD_PRELOAD), told by the test what
 * to do.
 *
 * Below the directory $IMP_FAULT_ROOT it does three things.
 *
 * 1. Undo journal. Before a write what it overwrites goes to $IMP_FAULT_JOURNAL, sector by sector; so do
 * sizes and names; a sync is noted when it is over, with the moment at which it began. From that faultfs.py
 * can play a power loss after the process was killed: each sector that no later sync covers is any of the
 * versions that it had since, sizes too, and creates, renames and unlinks that no sync of their directory
 * covers are undone from some point on. A file that is removed or replaced is kept in $IMP_FAULT_TRASH until
 * then.
 * 2. Rules in the control file $IMP_FAULT_CONTROL, which the test maps too: an operation on a path fails with
 * an errno, or takes its time, from the Nth on, so many times.
 * 3. CLOCK_REALTIME is off by so much, and so much space is said to be free.
 *
 * Every real operation is a system call of its own: nothing here depends on what else is preloaded. Lock
 * files are left alone (closing a second descriptor would drop POSIX locks). What is written through a
 * mapping is not seen: LMDB writes its data file with pwrite, as we open it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

enum { SECTOR = 512, MAX_FD = 4096, N_RULES = 8, CHUNK = 1 << 20, JOURNAL_MAGIC = 0x4c4e524a };
enum op { OP_OPEN = 1, OP_READ = 2, OP_WRITE = 4, OP_SYNC = 8, OP_NAME = 16, OP_SIZE = 32 };
enum kind { KIND_WRITE, KIND_SIZE, KIND_SYNC, KIND_CREATE, KIND_RENAME, KIND_UNLINK, KIND_MKDIR, KIND_RMDIR };

/* The layout is faultfs.py's too. */
struct control {
    _Atomic uint64_t sequence;
    _Atomic int64_t clock_offset_ns;
    _Atomic uint64_t free_bytes; /* UINT64_MAX: what there is */
    _Atomic uint32_t journals, syncs_really;
    struct rule {
        _Atomic uint32_t ops; /* 0: unused */
        _Atomic uint32_t number, delay_ms, hits;
        _Atomic int64_t skip, count; /* count < 0: for ever */
        char path[96];               /* a part of the path */
    } rules[N_RULES];
};

struct record {
    uint32_t magic, kind;
    uint64_t sequence, inode, offset, n_bytes, size, extra; /* n_bytes follow, or zeros if extra is 1 */
    char name[64], other[64];
};

static struct control *control;
static char root[PATH_MAX], trash[PATH_MAX];
static size_t root_length;
static int journal = -1;
static struct {
    char path[256]; /* below the root; "": not ours */
    uint64_t inode;
    bool is_dir;
} files[MAX_FD];
static int (*next_clock_gettime)(clockid_t, struct timespec *);

/* ---- real ones ---- */

#define REAL(name, ...) syscall(SYS_##name, __VA_ARGS__)

static int real_stat(const char *path, struct stat *st)
{
    return (int)REAL(newfstatat, AT_FDCWD, path, st, AT_SYMLINK_NOFOLLOW);
}

static int real_fstat(int fd, struct stat *st)
{
    return (int)REAL(newfstatat, fd, "", st, AT_EMPTY_PATH);
}

__attribute__((constructor)) static void begin(void)
{
    next_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    const char *c = getenv("IMP_FAULT_CONTROL"), *r = getenv("IMP_FAULT_ROOT"),
               *j = getenv("IMP_FAULT_JOURNAL"), *t = getenv("IMP_FAULT_TRASH");
    if (!c || !r || !j || !t || control)
        return;
    int fd = (int)REAL(openat, AT_FDCWD, c, O_RDWR | O_CLOEXEC);
    journal = (int)REAL(openat, AT_FDCWD, j, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || journal < 0) {
        fprintf(stderr, "faultfs: %s, %s: %s\n", c, j, strerror(errno));
        abort();
    }
    void *map = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    REAL(close, fd);
    if (map == MAP_FAILED)
        abort();
    snprintf(root, sizeof(root), "%s", r);
    snprintf(trash, sizeof(trash), "%s", t);
    root_length = strlen(root);
    control = map;
}

/* ---- what is ours ---- */

static bool is_below_root(const char *path)
{
    return control && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static bool is_ours(const char *path)
{
    if (!is_below_root(path))
        return false;
    const char *name = strrchr(path, '/') + 1;
    return strncmp(name, "lock", 4) && strcmp(name, ".lock") && strcmp(name, "admin.sock");
}

/* The absolute path of NAME at DIR, whether or not it exists. */
static bool path_at(char out[PATH_MAX], int dir, const char *name)
{
    if (!control || !name)
        return false;
    if (*name == '/') {
        snprintf(out, PATH_MAX, "%s", name);
        return is_ours(out);
    }
    char link[64];
    snprintf(link, sizeof(link), dir == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", dir);
    ssize_t n = REAL(readlinkat, AT_FDCWD, link, out, PATH_MAX - 1);
    if (n <= 0)
        return false;
    out[n] = '\0';
    if (strcmp(name, "."))
        snprintf(out + n, (size_t)(PATH_MAX - n), "/%s", name);
    return is_ours(out);
}

static uint64_t parent_inode(const char *path, const char **name)
{
    char parent[PATH_MAX];
    struct stat st;
    snprintf(parent, sizeof(parent), "%s", path);
    char *slash = strrchr(parent, '/');
    *name = path + (slash - parent) + 1;
    *slash = '\0';
    return real_stat(parent, &st) ? 0 : st.st_ino;
}

static void remember(int fd)
{
    char path[PATH_MAX];
    struct stat st;
    if (fd < 0 || fd >= MAX_FD || !path_at(path, fd, ".") || real_fstat(fd, &st))
        return;
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
        return;
    files[fd].inode = st.st_ino;
    files[fd].is_dir = S_ISDIR(st.st_mode);
    snprintf(files[fd].path, sizeof(files[fd].path), "%s", path);
}

static const char *path_of(int fd)
{
    return fd >= 0 && fd < MAX_FD && *files[fd].path ? files[fd].path : NULL;
}

static void forget(int fd)
{
    if (path_of(fd))
        *files[fd].path = '\0';
}

/* ---- rules ---- */

/* 0, or the errno that this operation fails with. Takes its time first. */
static int obey(unsigned op, const char *path)
{
    if (!control)
        return 0;
    for (struct rule *r = control->rules; r < control->rules + N_RULES; r++) {
        if (!(r->ops & op) || !strstr(path, r->path))
            continue;
        if (atomic_fetch_sub(&r->skip, 1) > 0)
            continue;
        if (r->count == 0)
            continue;
        if (r->count > 0)
            atomic_fetch_sub(&r->count, 1);
        r->hits++;
        for (uint32_t waited = 0; waited < r->delay_ms && r->ops & op; waited += 5)
            REAL(nanosleep, &(struct timespec){.tv_nsec = 5 * 1000 * 1000}, NULL);
        if (r->number && r->ops & op)
            return (int)r->number;
    }
    return 0;
}

#define OBEY(op, path)                                                                                       \
    do {                                                                                                     \
        int number_ = obey(op, path);                                                                        \
        if (number_) {                                                                                       \
            errno = number_;                                                                                 \
            return -1;                                                                                       \
        }                                                                                                    \
    } while (0)

/* ---- journal ---- */

static void note(struct record *r, const void *data)
{
    if (!control->journals)
        return;
    int keep = errno;
    r->magic = JOURNAL_MAGIC;
    if (!r->sequence)
        r->sequence = atomic_fetch_add(&control->sequence, 1) + 1;
    struct iovec v[2] = {{r, sizeof(*r)}, {(void *)data, data ? r->n_bytes : 0}};
    ssize_t want = (ssize_t)(v[0].iov_len + v[1].iov_len);
    if (REAL(writev, journal, v, 2) != want) {
        static const char text[] = "faultfs: the journal cannot be written\n";
        REAL(write, 2, text, sizeof(text) - 1);
        abort();
    }
    errno = keep;
}

static bool is_zero(const char *p, size_t n)
{
    return n == 0 || (p[0] == 0 && !memcmp(p, p + 1, n - 1));
}

/* What the file has in these sectors, before it is overwritten or cut off. */
static void note_content(int fd, uint64_t offset, uint64_t n_bytes)
{
    struct stat st;
    char link[64];
    int keep = errno;
    if (!control->journals || real_fstat(fd, &st))
        return;
    uint64_t size = (uint64_t)st.st_size, from = offset / SECTOR * SECTOR,
             to = (offset + n_bytes + SECTOR - 1) / SECTOR * SECTOR;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    int in = (int)REAL(openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC);
    if (in < 0)
        abort();
    static __thread char *bytes;
    if (!bytes)
        bytes = mmap(NULL, CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (uint64_t at = from; at < to; at += CHUNK) {
        size_t n = to - at < CHUNK ? to - at : CHUNK;
        ssize_t got = at < size ? REAL(pread64, in, bytes, n, at) : 0;
        if (got < 0)
            abort();
        memset(bytes + got, 0, n - (size_t)got);
        bool zero = is_zero(bytes, n);
        note(&(struct record){.kind = KIND_WRITE,
                              .inode = st.st_ino,
                              .offset = at,
                              .n_bytes = n,
                              .size = size,
                              .extra = zero},
             zero ? NULL : bytes);
    }
    REAL(close, in);
    errno = keep;
}

static void note_size(int fd)
{
    struct stat st;
    if (!real_fstat(fd, &st))
        note(&(struct record){.kind = KIND_SIZE, .inode = st.st_ino, .size = (uint64_t)st.st_size}, NULL);
}

static void note_name(enum kind kind, const char *path, const char *other, uint64_t kept)
{
    const char *name, *other_name = "";
    struct record r = {.kind = kind, .inode = parent_inode(path, &name), .extra = kept};
    if (other)
        r.offset = parent_inode(other, &other_name);
    snprintf(r.name, sizeof(r.name), "%s", name);
    snprintf(r.other, sizeof(r.other), "%s", other_name);
    note(&r, NULL);
}

/* A second name for a file that is about to lose this one. 0: there is none, or it is a directory. */
static uint64_t keep_file(const char *path)
{
    struct stat st;
    char kept[PATH_MAX];
    if (!control->journals || real_stat(path, &st) || !S_ISREG(st.st_mode))
        return 0;
    uint64_t number = atomic_fetch_add(&control->sequence, 1) + 1;
    snprintf(kept, sizeof(kept), "%.*s/%llu", (int)(sizeof(kept) - 32), trash, (unsigned long long)number);
    if (REAL(linkat, AT_FDCWD, path, AT_FDCWD, kept, 0))
        abort();
    return number;
}

/* ---- open, close ---- */

static int do_open(int dir, const char *name, int flags, mode_t mode)
{
    char path[PATH_MAX];
    struct stat st;
    if (!path_at(path, dir, name)) {
        int fd = (int)REAL(openat, dir, name, flags, mode);
        if (fd >= 0)
            remember(fd); /* a relative or linked way to it */
        return fd;
    }
    bool writes = (flags & O_ACCMODE) != O_RDONLY || flags & O_CREAT;
    if (writes)
        OBEY(OP_OPEN, path);
    bool is_new = flags & O_CREAT && real_stat(path, &st);
    if (is_new)
        OBEY(OP_NAME, path);
    int fd = (int)REAL(openat, dir, name, flags & ~O_TRUNC, mode);
    if (fd < 0)
        return fd;
    remember(fd);
    if (is_new)
        note_name(KIND_CREATE, path, NULL, 0);
    else if (flags & O_TRUNC && ftruncate(fd, 0)) {
        close(fd);
        return -1;
    }
    return fd;
}

#define MODE_OF(flags, mode)                                                                                 \
    mode_t mode = 0;                                                                                         \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                                                                 \
        va_list args_;                                                                                       \
        va_start(args_, flags);                                                                              \
        mode = va_arg(args_, mode_t);                                                                        \
        va_end(args_);                                                                                       \
    }

int open(const char *name, int flags, ...)
{
    MODE_OF(flags, mode);
    return do_open(AT_FDCWD, name, flags, mode);
}
int open64(const char *name, int flags, ...) __attribute__((alias("open")));
int openat(int dir, const char *name, int flags, ...)
{
    MODE_OF(flags, mode);
    return do_open(dir, name, flags, mode);
}
int openat64(int dir, const char *name, int flags, ...) __attribute__((alias("openat")));
int __open_2(const char *name, int flags)
{
    return do_open(AT_FDCWD, name, flags, 0);
}
int __open64_2(const char *name, int flags) __attribute__((alias("__open_2")));
int __openat_2(int dir, const char *name, int flags)
{
    return do_open(dir, name, flags, 0);
}
int __openat64_2(int dir, const char *name, int flags) __attribute__((alias("__openat_2")));

int close(int fd)
{
    forget(fd);
    return (int)REAL(close, fd);
}
int closedir(DIR *dir) /* closes its descriptor by itself */
{
    static int (*next)(DIR *);
    if (!next)
        next = dlsym(RTLD_NEXT, "closedir");
    forget(dirfd(dir));
    return next(dir);
}

/* ---- content ---- */

static uint64_t bytes_of(const struct iovec *v, int n)
{
    uint64_t sum = 0;
    for (int i = 0; i < n; i++)
        sum += v[i].iov_len;
    return sum;
}

static uint64_t position_of(int fd)
{
    struct stat st;
    if (REAL(fcntl, fd, F_GETFL) & O_APPEND && !real_fstat(fd, &st))
        return (uint64_t)st.st_size;
    return (uint64_t)REAL(lseek, fd, 0, SEEK_CUR);
}

#define BEFORE_WRITE(fd, offset, n_bytes)                                                                    \
    if (path_of(fd)) {                                                                                       \
        OBEY(OP_WRITE, path_of(fd));                                                                         \
        note_content(fd, (uint64_t)(offset), n_bytes);                                                       \
    }

ssize_t write(int fd, const void *data, size_t n)
{
    BEFORE_WRITE(fd, position_of(fd), n);
    return REAL(write, fd, data, n);
}
ssize_t writev(int fd, const struct iovec *v, int n)
{
    BEFORE_WRITE(fd, position_of(fd), bytes_of(v, n));
    return REAL(writev, fd, v, n);
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t offset)
{
    BEFORE_WRITE(fd, offset, n);
    return REAL(pwrite64, fd, data, n, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t n, off_t offset) __attribute__((alias("pwrite")));
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t offset)
{
    BEFORE_WRITE(fd, offset, bytes_of(v, n));
    return REAL(pwritev, fd, v, n, offset, 0);
}
ssize_t pwritev64(int fd, const struct iovec *v, int n, off_t offset) __attribute__((alias("pwritev")));

static ssize_t do_pread(int fd, void *data, size_t n, off_t offset)
{
    if (path_of(fd))
        OBEY(OP_READ, path_of(fd));
    return REAL(pread64, fd, data, n, offset);
}
ssize_t pread(int fd, void *data, size_t n, off_t offset)
{
    return do_pread(fd, data, n, offset);
}
ssize_t pread64(int fd, void *data, size_t n, off_t offset) __attribute__((alias("pread")));
ssize_t __pread_chk(int fd, void *data, size_t n, off_t offset, size_t room)
{
    (void)room;
    return do_pread(fd, data, n, offset);
}
ssize_t __pread64_chk(int fd, void *data, size_t n, off_t offset, size_t room)
    __attribute__((alias("__pread_chk")));

int ftruncate(int fd, off_t size)
{
    if (path_of(fd)) {
        struct stat st;
        OBEY(OP_SIZE, path_of(fd));
        if (!real_fstat(fd, &st) && size < st.st_size)
            note_content(fd, (uint64_t)size, (uint64_t)(st.st_size - size));
        else
            note_size(fd);
    }
    return (int)REAL(ftruncate, fd, size);
}
int ftruncate64(int fd, off_t size) __attribute__((alias("ftruncate")));

int fallocate(int fd, int mode, off_t offset, off_t n)
{
    if (path_of(fd)) {
        OBEY(OP_SIZE, path_of(fd));
        note_size(fd);
    }
    return (int)REAL(fallocate, fd, mode, offset, n);
}
int fallocate64(int fd, int mode, off_t offset, off_t n) __attribute__((alias("fallocate")));
int posix_fallocate(int fd, off_t offset, off_t n)
{
    return fallocate(fd, 0, offset, n) ? errno : 0;
}
int posix_fallocate64(int fd, off_t offset, off_t n) __attribute__((alias("posix_fallocate")));

static int do_sync(int fd, bool data_only)
{
    const char *path = path_of(fd);
    if (!path)
        return (int)(data_only ? REAL(fdatasync, fd) : REAL(fsync, fd));
    uint64_t upto = atomic_load(&control->sequence), inode = files[fd].inode;
    OBEY(OP_SYNC, path);
    if (control->syncs_really && (data_only ? REAL(fdatasync, fd) : REAL(fsync, fd)))
        return -1;
    const char *lies =
        getenv("IMP_FAULT_LIES"); /* a disk that says so and does not: shows that a test would see it */
    if (!lies || !strstr(path, lies))
        note(&(struct record){.kind = KIND_SYNC, .inode = inode, .offset = upto}, NULL);
    return 0;
}
int fsync(int fd)
{
    return do_sync(fd, false);
}
int fdatasync(int fd)
{
    return do_sync(fd, true);
}

/* ---- names ---- */

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    char a[PATH_MAX], b[PATH_MAX];
    if (!path_at(a, from_dir, from) || !path_at(b, to_dir, to))
        return (int)REAL(renameat, from_dir, from, to_dir, to);
    OBEY(OP_NAME, a);
    uint64_t kept = keep_file(b);
    note_name(KIND_RENAME, a, b, kept);
    return (int)REAL(renameat, from_dir, from, to_dir, to);
}
int rename(const char *from, const char *to)
{
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}

int unlinkat(int dir, const char *name, int flags)
{
    char path[PATH_MAX];
    struct stat st;
    if (!path_at(path, dir, name))
        return (int)REAL(unlinkat, dir, name, flags);
    OBEY(OP_NAME, path);
    if (flags & AT_REMOVEDIR) {
        int rc = (int)REAL(unlinkat, dir, name, flags);
        if (!rc)
            note_name(KIND_RMDIR, path, NULL, 0);
        return rc;
    }
    if (!real_stat(path, &st) && S_ISREG(st.st_mode))
        note_name(KIND_UNLINK, path, NULL, keep_file(path));
    return (int)REAL(unlinkat, dir, name, flags);
}
int unlink(const char *name)
{
    return unlinkat(AT_FDCWD, name, 0);
}
int rmdir(const char *name)
{
    return unlinkat(AT_FDCWD, name, AT_REMOVEDIR);
}
int remove(const char *name)
{
    struct stat st;
    return unlinkat(AT_FDCWD, name, !real_stat(name, &st) && S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0);
}

int mkdirat(int dir, const char *name, mode_t mode)
{
    char path[PATH_MAX];
    bool ours = path_at(path, dir, name);
    struct stat st;
    if (ours && real_stat(path, &st)) {
        OBEY(OP_NAME, path);
        note_name(KIND_MKDIR, path, NULL, 0);
    }
    return (int)REAL(mkdirat, dir, name, mode);
}
int mkdir(const char *name, mode_t mode)
{
    return mkdirat(AT_FDCWD, name, mode);
}

/* ---- space ---- */

int statvfs(const char *path, struct statvfs *out)
{
    static int (*next)(const char *, struct statvfs *);
    if (!next)
        next = dlsym(RTLD_NEXT, "statvfs");
    int rc = next(path, out);
    if (!rc && is_below_root(path) && control->free_bytes != UINT64_MAX)
        out->f_bavail = out->f_bfree = control->free_bytes / out->f_frsize;
    return rc;
}
int fstatvfs(int fd, struct statvfs *out)
{
    static int (*next)(int, struct statvfs *);
    if (!next)
        next = dlsym(RTLD_NEXT, "fstatvfs");
    int rc = next(fd, out);
    if (!rc && path_of(fd) && control->free_bytes != UINT64_MAX)
        out->f_bavail = out->f_bfree = control->free_bytes / out->f_frsize;
    return rc;
}

/* ---- the clock ---- */

int clock_gettime(clockid_t clock, struct timespec *t)
{
    int rc = next_clock_gettime ? next_clock_gettime(clock, t) : (int)REAL(clock_gettime, clock, t);
    if (rc || !control || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
        return rc;
    int64_t ns = t->tv_sec * 1000000000ll + t->tv_nsec + control->clock_offset_ns;
    t->tv_sec = ns / 1000000000;
    t->tv_nsec = ns % 1000000000;
    return 0;
}
int gettimeofday(struct timeval *restrict t, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    *t = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return 0;
}
time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}
