#include "cli/backup.h"
#include "base/mem.h"
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int fail(struct err_ctx *err, const char *path)
{
    return err_set(err,
                   errno == EEXIST   ? ERR_EXISTS
                   : errno == ENOSPC ? ERR_NOSPACE
                                     : ERR_IO,
                   "%s: %s", path,
                   errno == EEXIST ? "exists already; a backup overwrites nothing" : strerror(errno));
}

static char *directory_of(const char *path)
{
    char *copy = mem_strdup(path), *dir = mem_strdup(dirname(copy));
    mem_free(copy);
    return dir;
}

int backup_file_open(struct backup_file *f, const char *path, struct err_ctx *err)
{
    struct stat st;
    *f = (struct backup_file){.path = path, .fd = -1, .tty = isatty(2) == 1};
    if (!lstat(path, &st)) {
        errno = EEXIST;
        return fail(err, path);
    }
    char *dir = directory_of(path);
    f->fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    mem_free(dir);
    if (f->fd >= 0)
        return 0;
    if (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)
        return fail(err, path);
    f->temporary = mem_printf("%s.XXXXXX", path);
    f->fd = mkostemp(f->temporary, O_CLOEXEC); /* 0600 */
    if (f->fd >= 0)
        return 0;
    mem_free(f->temporary);
    f->temporary = NULL;
    return fail(err, path);
}

int backup_file_write(struct backup_file *f, const void *data, size_t n_bytes, struct err_ctx *err)
{
    for (const char *p = data; n_bytes;) {
        ssize_t k = write(f->fd, p, n_bytes);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return fail(err, f->path);
        p += k;
        n_bytes -= (size_t)k;
    }
    return 0;
}

void backup_file_progress(struct backup_file *f, unsigned long long done, unsigned long long total)
{
    if (f->tty && total)
        fprintf(stderr, "\r%3llu %%", done * 100 / total);
}

static int name_it(struct backup_file *f)
{
    char own[64];
    snprintf(own, sizeof own, "/proc/self/fd/%d", f->fd);
    if (fsync(f->fd))
        return -1;
    if (f->temporary)
        return link(f->temporary, f->path);
    return linkat(AT_FDCWD, own, AT_FDCWD, f->path, AT_SYMLINK_FOLLOW);
}

static int sync_directory(const char *path)
{
    char *dir = directory_of(path);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 ? -1 : fsync(fd);
    if (fd >= 0)
        close(fd);
    mem_free(dir);
    return rc;
}

int backup_file_close(struct backup_file *f, bool keep, struct err_ctx *err)
{
    int rc = 0;
    if (f->tty)
        fputs("\r     \r", stderr);
    if (keep && (name_it(f) || sync_directory(f->path)))
        rc = fail(err, f->path);
    if (f->temporary)
        unlink(f->temporary);
    mem_free(f->temporary);
    close(f->fd);
    return rc;
}
