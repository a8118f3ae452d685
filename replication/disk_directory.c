/* The real disk: files of one directory. */
#include "base/mem.h"
#include "replication/disk.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

struct directory {
    struct disk disk;
    int fd, lock_fd;
};
struct disk_file {
    int fd;
};

static int map_errno(void)
{
    switch (errno) {
    case ENOSPC:
    case EDQUOT:
        return ERR_NOSPACE;
    case ENOENT:
        return ERR_NOTFOUND;
    case EROFS:
        return ERR_READONLY;
    default:
        return ERR_IO;
    }
}

static struct directory *directory_of(struct disk *d)
{
    return container_of(d, struct directory, disk);
}

static int file_open(struct disk *d, const char *name, bool create, struct disk_file **out)
{
    int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT : 0);
    int fd = openat(directory_of(d)->fd, name, flags, 0600);
    if (fd < 0)
        return map_errno();
    *out = mem_new(struct disk_file);
    (*out)->fd = fd;
    return 0;
}

static void file_close(struct disk_file *f)
{
    if (!f)
        return;
    close(f->fd);
    mem_free(f);
}

static int file_write(struct disk_file *f, uint64_t offset, const void *data, size_t n_bytes)
{
    const char *p = data;
    while (n_bytes > 0) {
        ssize_t n = pwrite(f->fd, p, n_bytes, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return map_errno();
        if (n == 0)
            return ERR_IO;
        p += n;
        offset += (uint64_t)n;
        n_bytes -= (size_t)n;
    }
    return 0;
}

static int file_read(struct disk_file *f, uint64_t offset, void *data, size_t n_bytes, size_t *n_read)
{
    *n_read = 0;
    while (*n_read < n_bytes) {
        ssize_t n = pread(f->fd, (char *)data + *n_read, n_bytes - *n_read, (off_t)(offset + *n_read));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return map_errno();
        if (n == 0)
            break;
        *n_read += (size_t)n;
    }
    return 0;
}

static int file_sync(struct disk_file *f)
{
    return fdatasync(f->fd) ? map_errno() : 0;
}

static int dir_rename(struct disk *d, const char *from, const char *to)
{
    int fd = directory_of(d)->fd;
    return renameat(fd, from, fd, to) ? map_errno() : 0;
}

static int dir_unlink(struct disk *d, const char *name)
{
    return unlinkat(directory_of(d)->fd, name, 0) ? map_errno() : 0;
}

static int dir_sync_names(struct disk *d)
{
    return fsync(directory_of(d)->fd) ? map_errno() : 0;
}

static int dir_list(struct disk *d, void (*each)(void *ctx, const char *name), void *ctx)
{
    int fd = openat(directory_of(d)->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return map_errno();
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return ERR_IO;
    }
    struct dirent *e;
    errno = 0;
    while ((e = readdir(dir)))
        if (e->d_name[0] != '.')
            each(ctx, e->d_name);
    int rc = errno ? ERR_IO : 0;
    closedir(dir);
    return rc;
}

static uint64_t dir_free_bytes(struct disk *d)
{
    struct statvfs s;
    if (fstatvfs(directory_of(d)->fd, &s))
        return 0;
    return (uint64_t)s.f_bavail * s.f_frsize;
}

static const struct disk_ops directory_ops = {
    .open = file_open,
    .close = file_close,
    .write = file_write,
    .read = file_read,
    .sync = file_sync,
    .rename = dir_rename,
    .unlink = dir_unlink,
    .sync_names = dir_sync_names,
    .list = dir_list,
    .free_bytes = dir_free_bytes,
};

int disk_open_directory(struct disk **out, const char *dir, struct err_ctx *err)
{
    bool is_new = mkdir(dir, 0700) == 0;
    if (!is_new && errno != EEXIST)
        return err_set(err, map_errno(), "cannot make %s: %s", dir, strerror(errno));
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, map_errno(), "cannot open %s: %s", dir, strerror(errno));
    int lock_fd = openat(fd, ".lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (lock_fd < 0 || flock(lock_fd, LOCK_EX | LOCK_NB)) {
        bool is_held = errno == EWOULDBLOCK;
        int rc = is_held ? err_set(err, ERR_CONFLICT, "%s is in use by another process; stop it first", dir)
                         : err_set(err, map_errno(), "cannot lock %s: %s", dir, strerror(errno));
        if (lock_fd >= 0)
            close(lock_fd);
        close(fd);
        return rc;
    }
    int parent = is_new ? openat(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (parent >= 0) { /* or a power loss takes the new directory with all that is synced in it */
        fsync(parent);
        close(parent);
    }
    struct directory *d = mem_new(struct directory);
    d->disk.ops = &directory_ops;
    d->fd = fd;
    d->lock_fd = lock_fd;
    *out = &d->disk;
    return 0;
}

void disk_close_directory(struct disk *disk)
{
    if (!disk)
        return;
    struct directory *d = directory_of(disk);
    close(d->lock_fd);
    close(d->fd);
    mem_free(d);
}
