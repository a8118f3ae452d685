/* The side file of durable points, and what is done with it before the environment is opened. */
#include "storage/side_file.h"
#include "base/htab.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { POINT_VERSION = 1, PAGE_BYTES_MAX = 64 * 1024 };
enum { POINT_FIXED_BYTES = 8 + 4 + 4 + STORE_ID_BYTES + 8 + 8 + 8 + 4 };
static const char POINT_MAGIC[8] = {'i', 'm', 'p', 'P', 'o', 'i', 'n', 't'};
static const char FILE_POINT[] = "point", FILE_POINT_NEW[] = "point.new", FILE_DATA[] = "data.mdb";

/* ---- files ---- */

int side_sync_fd(const struct store_faults *f, int fd, bool data_only)
{
    if (f && f->sync)
        return f->sync(f->user, fd);
    return (data_only ? fdatasync(fd) : fsync(fd)) ? errno : 0;
}

void side_step(const struct store_faults *f, const char *name)
{
    if (f && f->step)
        f->step(f->user, name);
}

int side_error_of(int number)
{
    return number == ENOSPC || number == EDQUOT ? ERR_NOSPACE : ERR_IO;
}

int side_sync_dir(const struct store_faults *f, const char *dir, struct err_ctx *err)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 ? errno : side_sync_fd(f, fd, false);
    if (fd >= 0)
        close(fd);
    return rc ? err_set(err, side_error_of(rc), "sync of %s: %s", dir, strerror(rc)) : 0;
}

static int write_all(int fd, const void *data, size_t n, uint64_t offset)
{
    const char *p = data;
    while (n) {
        ssize_t done = pwrite(fd, p, n, offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done < 0 ? errno : EIO;
        p += done;
        n -= done;
        offset += done;
    }
    return 0;
}

int side_read_all(int fd, void *data, size_t n, uint64_t offset)
{
    char *p = data;
    while (n) {
        ssize_t done = pread(fd, p, n, offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done < 0 ? errno : EIO;
        p += done;
        n -= done;
        offset += done;
    }
    return 0;
}

/* Makes DIR/NAME with the bytes, synced; the directory is not. */
int side_write_file(const struct store_faults *f, const char *dir, const char *name, const struct buf *b,
                    struct err_ctx *err)
{
    char path[4096];
    store_path(path, dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int rc = fd < 0 ? errno : write_all(fd, b->data, b->n, 0);
    if (!rc)
        rc = side_sync_fd(f, fd, false);
    if (fd >= 0)
        close(fd);
    return rc ? err_set(err, side_error_of(rc), "%s: %s", path, strerror(rc)) : 0;
}

/* *OUT: is it there? A disk that does not answer is not an empty one. */
static int look_for(bool *out, const char *dir, const char *name, struct err_ctx *err)
{
    char path[4096];
    store_path(path, dir, name);
    *out = access(path, F_OK) == 0;
    return *out || errno == ENOENT ? 0 : err_set(err, side_error_of(errno), "%s: %s", path, strerror(errno));
}

/* A file that is not there is no error. */
int side_remove_file(const char *dir, const char *name, struct err_ctx *err)
{
    char path[4096];
    store_path(path, dir, name);
    if (unlink(path) && errno != ENOENT)
        return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    return 0;
}

/* ---- the side file ---- */

void side_fini(struct moment *m)
{
    buf_fini(&m->meta);
    buf_fini(&m->extra);
}

int side_write(const struct store_faults *f, const char *dir, const struct moment *m,
               const uint8_t id[STORE_ID_BYTES], struct err_ctx *err)
{
    struct buf b = {0};
    buf_add(&b, POINT_MAGIC, sizeof POINT_MAGIC);
    buf_add_u32(&b, POINT_VERSION);
    buf_add_u32(&b, m->page_bytes);
    buf_add(&b, id, STORE_ID_BYTES);
    buf_add_u64(&b, m->txn_id);
    buf_add_u64(&b, m->applied_index);
    buf_add_u64(&b, m->file_bytes);
    buf_add_u32(&b, m->extra.n);
    buf_add(&b, m->meta.data, m->meta.n);
    if (m->extra.n)
        buf_add(&b, m->extra.data, m->extra.n);
    buf_add_u32(&b, crc32c(0, b.data, b.n));
    int rc = side_write_file(f, dir, FILE_POINT_NEW, &b, err);
    buf_fini(&b);
    if (rc)
        return rc;
    side_step(f, "written");
    char from[4096], to[4096];
    store_path(from, dir, FILE_POINT_NEW);
    store_path(to, dir, FILE_POINT);
    if (rename(from, to))
        return err_set(err, ERR_IO, "rename to %s: %s", to, strerror(errno));
    return side_sync_dir(f, dir, err);
}

static int moment_decode(const struct buf *b, struct moment *m, uint8_t id[STORE_ID_BYTES])
{
    struct reader r;
    if (b->n < POINT_FIXED_BYTES + 4)
        return ERR_CORRUPT;
    reader_init(&r, b->data + b->n - 4, 4);
    if (read_u32(&r) != crc32c(0, b->data, b->n - 4))
        return ERR_CORRUPT;
    reader_init(&r, b->data, b->n - 4);
    if (memcmp(read_bytes(&r, sizeof POINT_MAGIC), POINT_MAGIC, sizeof POINT_MAGIC))
        return ERR_CORRUPT;
    if (read_u32(&r) != POINT_VERSION)
        return ERR_VERSION;
    m->page_bytes = read_u32(&r);
    memcpy(id, read_bytes(&r, STORE_ID_BYTES), STORE_ID_BYTES);
    m->txn_id = read_u64(&r);
    m->applied_index = read_u64(&r);
    m->file_bytes = read_u64(&r);
    size_t n_extra = read_u32(&r);
    if (m->page_bytes > PAGE_BYTES_MAX || reader_left(&r) != SIDE_META_PAGES * m->page_bytes + n_extra)
        return ERR_CORRUPT;
    buf_add(&m->meta, read_bytes(&r, SIDE_META_PAGES * m->page_bytes), SIDE_META_PAGES * m->page_bytes);
    if (n_extra)
        buf_add(&m->extra, read_bytes(&r, n_extra), n_extra);
    return 0;
}

static int moment_read(const char *dir, struct moment *m, uint8_t id[STORE_ID_BYTES], struct err_ctx *err)
{
    char path[4096];
    store_path(path, dir, FILE_POINT);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno == ENOENT ? ERR_NOTFOUND : ERR_IO, "%s: %s", path, strerror(errno));
    struct stat st;
    struct buf b = {0};
    int rc = fstat(fd, &st) ? errno : 0;
    size_t max = POINT_FIXED_BYTES + SIDE_META_PAGES * PAGE_BYTES_MAX + POINT_EXTRA_MAX + 4;
    if (!rc && (size_t)st.st_size <= max) {
        rc = side_read_all(fd, buf_reserve(&b, st.st_size), st.st_size, 0);
        b.n = rc ? 0 : st.st_size;
    }
    close(fd);
    if (rc)
        rc = err_set(err, ERR_IO, "%s: %s", path, strerror(rc));
    else if ((rc = moment_decode(&b, m, id)))
        err_set(err, rc, "%s is damaged or of another release", path);
    buf_fini(&b);
    return rc;
}

/* ---- before the environment is opened ---- */

/* Takes data.mdb back to the moment of the side file. After a clean stop the pages are equal already. */
static int write_back(const char *dir, const struct moment *m, bool is_clean, struct err_ctx *err)
{
    char path[4096];
    store_path(path, dir, FILE_DATA);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno == ENOENT ? ERR_CORRUPT : side_error_of(errno),
                       "%s: %s, although a durable point exists", path, strerror(errno));
    struct stat st;
    struct buf now = {0};
    int rc = fstat(fd, &st) ? errno : 0, code = 0;
    if (!rc && (uint64_t)st.st_size < m->file_bytes)
        code = err_set(err, ERR_CORRUPT, "%s is shorter than at its last durable point", path);
    if (!rc && !code) {
        rc = side_read_all(fd, buf_reserve(&now, m->meta.n), m->meta.n, 0);
        if (!rc && memcmp(now.data, m->meta.data, m->meta.n)) {
            if (is_clean)
                code = err_set(err, ERR_CORRUPT, "%s is not of the moment of its clean stop", path);
            else
                rc = write_all(fd, m->meta.data, m->meta.n, 0);
        }
    }
    if (rc)
        code = err_set(err, side_error_of(rc), "%s: %s", path, strerror(rc));
    buf_fini(&now);
    close(fd);
    return code;
}

/* A store whose making was interrupted before its first point holds nothing: it is made anew. */
static int prepare_new(const char *dir, const struct store_faults *f, struct err_ctx *err)
{
    static const char *const files[] = {"data.mdb", "lock.mdb", "point.new", "point", "clean"};
    int rc = side_write_file(f, dir, SIDE_FILE_MAKING, &(struct buf){0}, err);
    if (!rc)
        rc = side_sync_dir(f, dir, err);
    for (size_t i = 0; !rc && i < n_elements(files); i++)
        rc = side_remove_file(dir, files[i], err);
    return rc ? rc : side_sync_dir(f, dir, err);
}

int point_prepare(const char *dir, const struct store_faults *f, struct point_start *out, struct err_ctx *err)
{
    bool is_making, has_data, has_point, is_clean;
    int rc = look_for(&is_making, dir, SIDE_FILE_MAKING, err);
    if (rc || (rc = look_for(&has_data, dir, FILE_DATA, err)) ||
        (rc = look_for(&has_point, dir, FILE_POINT, err)) ||
        (rc = look_for(&is_clean, dir, SIDE_FILE_CLEAN, err)))
        return rc;
    if (is_making || (!has_data && !has_point)) {
        out->is_new = true;
        return prepare_new(dir, f, err);
    }
    struct moment m = {0};
    rc = moment_read(dir, &m, out->id, err);
    if (!rc)
        rc = write_back(dir, &m, is_clean, err);
    /* The mark goes before anything can change, and durably: it must not vouch for what comes now. */
    if (!rc && is_clean && !(rc = side_remove_file(dir, SIDE_FILE_CLEAN, err)))
        rc = side_sync_dir(f, dir, err);
    out->txn_id = m.txn_id;
    out->applied_index = m.applied_index;
    out->extra = m.extra;
    m.extra = (struct buf){0};
    side_fini(&m);
    return rc;
}

int point_write_fresh(const char *dir, const struct point_start *start, unsigned page_bytes,
                      struct err_ctx *err)
{
    char path[4096];
    store_path(path, dir, FILE_DATA);
    struct moment m = {
        .txn_id = start->txn_id, .applied_index = start->applied_index, .page_bytes = page_bytes};
    struct stat st;
    size_t n = SIDE_META_PAGES * page_bytes;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 || fstat(fd, &st) ? errno : side_read_all(fd, buf_reserve(&m.meta, n), n, 0);
    if (!rc)
        rc = side_sync_fd(NULL, fd, false);
    if (fd >= 0)
        close(fd);
    if (rc) {
        rc = err_set(err, side_error_of(rc), "%s: %s", path, strerror(rc));
    } else {
        m.meta.n = n;
        m.file_bytes = st.st_size;
        rc = side_write(NULL, dir, &m, start->id, err);
    }
    side_fini(&m);
    return rc;
}
