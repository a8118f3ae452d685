/* The disk's side of an install: writes the ranges as they come, starts their way to the disk at once so that
 * the sync at the end is short, verifies the whole, and makes it durable with the marker. */
#include "base/htab.h"
#include "replication/install.h"
#include "replication/install_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FLUSH_BYTES = 8 << 20 };

static void free_pieces(struct piece *p)
{
    for (struct piece *next; p; p = next) {
        next = p->next;
        mem_free(p);
    }
}

void install_drop_pieces(struct install *x)
{
    free_pieces(x->pieces);
    x->pieces = x->last_piece = NULL;
}

void install_free(struct install *x)
{
    install_drop_pieces(x);
    free_pieces(x->writing);
    if (x->fd >= 0)
        close(x->fd);
    mem_free(x->root);
    mem_free(x->dir);
    mem_free(x);
}

uint64_t install_next_offset(const struct install *x)
{
    const struct piece *last = x->last_piece;
    for (const struct piece *p = last ? NULL : x->writing; p; p = p->next)
        last = p;
    return last ? last->offset + last->n : x->write_offset;
}

/* ---- writing ---- */

static int open_file(struct install *x)
{
    if (x->fd >= 0 && !x->must_reset)
        return 0;
    if (x->fd >= 0)
        close(x->fd);
    x->fd = -1;
    x->flushed = 0;
    x->must_reset = false;
    char *path = mem_printf("%s/data.mdb", x->dir);
    copy_remove_dir(x->dir);
    if (mkdir(x->dir, 0700) == 0)
        x->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int code = x->fd < 0
                   ? err_set(&x->err, errno == ENOSPC ? ERR_NOSPACE : ERR_IO, "%s: %s", path, strerror(errno))
                   : 0;
    mem_free(path);
    return code;
}

static int write_all(int fd, const uint8_t *p, size_t n, uint64_t at)
{
    while (n) {
        ssize_t k = pwrite(fd, p, n, (off_t)at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return k < 0 ? errno : EIO;
        p += k;
        n -= (size_t)k;
        at += (uint64_t)k;
    }
    return 0;
}

static int write_piece(struct install *x, const struct piece *p)
{
    if (crc32c(0, p->bytes, p->n) != p->crc)
        return err_set(&x->err, ERR_CORRUPT, "a range came with a wrong checksum");
    int error = write_all(x->fd, p->bytes, p->n, p->offset);
    if (error)
        return err_set(&x->err, error == ENOSPC || error == EDQUOT ? ERR_NOSPACE : ERR_IO, "%s: %s", x->dir,
                       strerror(error));
    if (p->offset + p->n >= x->flushed + FLUSH_BYTES) {
        /* Begins to write them out and does not wait; an error comes back from the sync. */
        sync_file_range(x->fd, (off_t)x->flushed, (off_t)(p->offset + p->n - x->flushed),
                        SYNC_FILE_RANGE_WRITE);
        x->flushed = p->offset + p->n;
    }
    return 0;
}

static void write_work(struct work *w)
{
    struct install *x = container_of(w, struct install, work);
    x->code = open_file(x);
    for (const struct piece *p = x->writing; p && x->code == 0; p = p->next)
        x->code = write_piece(x, p);
}

/* False: X has ended meanwhile, and is gone now. */
static bool end_work(struct install *x)
{
    x->is_working = false;
    if (x->r)
        return true;
    if (!x->conn) /* else its end frees it */
        install_free(x);
    return false;
}

static void write_done(struct work *w)
{
    struct install *x = container_of(w, struct install, work);
    if (!end_work(x))
        return;
    uint64_t n = 0;
    bool is_last = false;
    for (const struct piece *p = x->writing; p; p = p->next) {
        n += p->n;
        is_last |= p->is_last;
    }
    free_pieces(x->writing);
    x->writing = NULL;
    if (x->code == ERR_CORRUPT) {
        install_on_bad_range(x);
    } else if (x->code != 0) {
        x->state = INSTALL_DONE;
        replica_fatal(x->r, true, "installing a copy of the store: %s", x->err.text);
    } else {
        install_on_written(x, n, is_last);
    }
}

void install_write_next(struct install *x)
{
    if (x->is_working || !x->pieces)
        return;
    x->is_working = true;
    x->writing = x->pieces;
    x->pieces = x->last_piece = NULL;
    x->work = (struct work){write_work, write_done, NULL};
    loop_run_work(x->r->loop, &x->work);
}

/* ---- the end: sync, verify, marker ---- */

static void verify_work(struct work *w)
{
    struct install *x = container_of(w, struct install, work);
    struct arena arena;
    arena_init(&arena);
    x->code =
        x->fd >= 0 && fsync(x->fd) == 0 ? 0 : err_set(&x->err, ERR_IO, "%s: %s", x->dir, strerror(errno));
    if (x->fd >= 0)
        close(x->fd);
    x->fd = -1;
    if (x->code == 0)
        x->code = store_adopt_copy(x->dir, &x->err);
    if (x->code == 0 && copy_sync_path(x->dir) != 0)
        x->code = err_set(&x->err, ERR_IO, "%s: %s", x->dir, strerror(errno));
    if (x->code == 0)
        x->code = store_verify_copy(x->dir, &x->position, &arena, &x->err);
    if (x->code == 0 && x->position.applied_index < x->wanted)
        x->code = err_set(&x->err, ERR_CORRUPT, "the copy is older than it was said to be");
    if (x->code == 0)
        x->code = install_write_marker(x->root, &x->position, &x->err);
    x->position.conf = NULL; /* the arena's */
    arena_fini(&arena);
}

static void verify_done(struct work *w)
{
    struct install *x = container_of(w, struct install, work);
    if (end_work(x))
        install_on_verified(x);
}

void install_verify(struct install *x)
{
    x->is_working = true;
    x->work = (struct work){verify_work, verify_done, NULL};
    loop_run_work(x->r->loop, &x->work);
}
