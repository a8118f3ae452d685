#include "replication/copy_files.h"

#include "base/mem.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void copy_info_encode(struct buf *out, const struct copy_info *info)
{
    buf_add(out, info->id, sizeof(info->id));
    buf_add_u64(out, info->applied);
    buf_add_u16(out, (uint16_t)info->n);
    for (unsigned i = 0; i < info->n; i++) {
        size_t n = strlen(info->files[i].name);
        buf_add_u8(out, (uint8_t)n);
        buf_add(out, info->files[i].name, n);
        buf_add_u64(out, info->files[i].size);
    }
}

static bool is_plain_name(const char *s, size_t n)
{
    if (n == 0 || n >= COPY_NAME_MAX || s[0] == '.')
        return false;
    for (size_t i = 0; i < n; i++)
        if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= '0' && s[i] <= '9') || s[i] == '.' || s[i] == '_'))
            return false;
    return true;
}

int copy_info_decode(struct copy_info *out, const uint8_t *body, size_t n_bytes)
{
    struct reader r;
    reader_init(&r, body, n_bytes);
    memset(out, 0, sizeof(*out));
    const void *id = read_bytes(&r, sizeof(out->id));
    out->applied = read_u64(&r);
    out->n = read_u16(&r);
    if (r.failed || out->n == 0 || out->n > COPY_MAX_FILES)
        return ERR_MALFORMED;
    memcpy(out->id, id, sizeof(out->id));
    for (unsigned i = 0; i < out->n; i++) {
        size_t n = read_u8(&r);
        const char *name = read_bytes(&r, n);
        if (!name || !is_plain_name(name, n))
            return ERR_MALFORMED;
        memcpy(out->files[i].name, name, n);
        out->files[i].size = read_u64(&r);
        for (unsigned j = 0; j < i; j++)
            if (strcmp(out->files[i].name, out->files[j].name) == 0)
                return ERR_MALFORMED;
    }
    return r.failed ? ERR_MALFORMED : 0;
}

int copy_list(struct copy_info *out, const char *dir, struct err_ctx *err)
{
    DIR *d = opendir(dir);
    if (!d)
        return err_set(err, ERR_IO, "%s: %s", dir, strerror(errno));
    int code = 0;
    out->n = 0;
    for (struct dirent *e; code == 0 && (e = readdir(d));) {
        struct stat st;
        if (e->d_name[0] == '.' || strcmp(e->d_name, "lock.mdb") == 0)
            continue;
        if (out->n == COPY_MAX_FILES || !is_plain_name(e->d_name, strlen(e->d_name)))
            code = err_set(err, ERR_INTERNAL, "%s: unexpected file %s", dir, e->d_name);
        else if (fstatat(dirfd(d), e->d_name, &st, 0) != 0)
            code = err_set(err, ERR_IO, "%s/%s: %s", dir, e->d_name, strerror(errno));
        else if (S_ISREG(st.st_mode)) {
            snprintf(out->files[out->n].name, COPY_NAME_MAX, "%s", e->d_name);
            out->files[out->n++].size = (uint64_t)st.st_size;
        }
    }
    closedir(d);
    return code;
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

bool copy_exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}
