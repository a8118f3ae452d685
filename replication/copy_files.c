#include "replication/copy_files.h"

#include "base/mem.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

void copy_info_encode(struct buf *out, const struct copy_info *info)
{
    buf_add(out, info->id, sizeof(info->id));
    buf_add_u64(out, info->applied);
    buf_add_u64(out, info->n_bytes);
}

int copy_info_decode(struct copy_info *out, const uint8_t *body, size_t n_bytes)
{
    struct reader r;
    reader_init(&r, body, n_bytes);
    const void *id = read_bytes(&r, sizeof(out->id));
    out->applied = read_u64(&r);
    out->n_bytes = read_u64(&r);
    if (r.failed)
        return ERR_MALFORMED;
    memcpy(out->id, id, sizeof(out->id));
    return 0;
}

uint64_t copy_free_bytes(const char *dir)
{
    struct statvfs v;
    return statvfs(dir, &v) ? 0 : (uint64_t)v.f_bavail * v.f_frsize;
}

uint64_t copy_room(uint64_t n_bytes)
{
    static const uint64_t least = 64 << 20, more = 192 << 20;
    return n_bytes + least + (n_bytes < more ? n_bytes : more);
}

int copy_remove_dir(const char *dir)
{
    DIR *d = opendir(dir);
    if (!d)
        return errno == ENOENT ? 0 : ERR_IO;
    for (struct dirent *e; (e = readdir(d));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (unlinkat(dirfd(d), e->d_name, 0) != 0) {
            char *below = mem_printf("%s/%s", dir, e->d_name);
            copy_remove_dir(below);
            mem_free(below);
        }
    }
    closedir(d);
    return rmdir(dir) == 0 ? 0 : ERR_IO;
}

int copy_sync_path(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ERR_IO;
    int code = fsync(fd) == 0 ? 0 : ERR_IO;
    close(fd);
    return code;
}

int copy_exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 ? 1 : errno == ENOENT ? 0 : ERR_IO;
}
