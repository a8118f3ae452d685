/* A finished install: the marker {applied index Y, its term, configuration} says that DIR/install.tmp is
 * complete, verified and durable. The next start swaps the directories and resets the log to Y, before
 * anything is opened. Every step can be repeated; a crash before the marker leaves the old state. */
#include "replication/install.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/htab.h"
#include "base/mem.h"
#include "replication/copy_files.h"
#include "replication/damage.h"
#include "replication/replica.h"
#include "replication/rlog.h"
#include "replication/vote.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char MAGIC[8] = "impinst1";
enum { MARKER_MAX = 64 << 10 };

static int write_file(const char *path, const struct buf *b, struct err_ctx *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    int code = write(fd, b->data, b->n) == (ssize_t)b->n && fsync(fd) == 0 ? 0 : ERR_IO;
    if (code != 0)
        err_set(err, code, "%s: %s", path, strerror(errno));
    close(fd);
    return code;
}

int install_write_marker(const char *dir, const struct store_position *position, struct err_ctx *err)
{
    struct buf b = {0};
    char *marker = mem_printf("%s/" INSTALL_MARKER, dir), *temporary = mem_printf("%s.new", marker);
    buf_add(&b, MAGIC, sizeof(MAGIC));
    buf_add_u64(&b, position->applied_index);
    buf_add_u64(&b, position->applied_term);
    buf_add_u64(&b, position->conf_index);
    buf_add_u32(&b, position->n_conf);
    buf_add(&b, position->conf, position->n_conf);
    buf_add_u32(&b, crc32c(0, b.data, b.n));
    int code = write_file(temporary, &b, err);
    if (code == 0 && (rename(temporary, marker) != 0 || copy_sync_path(dir) != 0))
        code = err_set(err, ERR_IO, "%s: %s", marker, strerror(errno));
    buf_fini(&b);
    mem_free(marker);
    mem_free(temporary);
    return code;
}

/* ERR_NOTFOUND: there is none. */
static int read_marker(const char *path, uint64_t *index, uint64_t *term, struct err_ctx *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? ERR_NOTFOUND : err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    uint8_t *bytes = mem_alloc(MARKER_MAX);
    ssize_t n = read(fd, bytes, MARKER_MAX);
    if (n < 0) {
        int code = err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
        close(fd);
        mem_free(bytes);
        return code;
    }
    close(fd);
    struct reader r, end;
    reader_init(&r, bytes, (size_t)n);
    const void *magic = read_bytes(&r, sizeof(MAGIC));
    *index = read_u64(&r);
    *term = read_u64(&r);
    bool ok = !r.failed && memcmp(magic, MAGIC, sizeof(MAGIC)) == 0;
    if (ok) {
        reader_init(&end, bytes + n - 4, 4);
        ok = read_u32(&end) == crc32c(0, bytes, (size_t)n - 4);
    }
    mem_free(bytes);
    return ok ? 0
              : err_set(err, ERR_CORRUPT, "%s is damaged: remove the node's data directory and join it anew",
                        path);
}

/* The store of before makes way, in an order that can be repeated from any point. */
static int swap_dirs(const char *dir, struct err_ctx *err)
{
    char *fresh = mem_printf("%s/" INSTALL_DIR, dir), *store = mem_printf("%s/store", dir);
    char *old = mem_printf("%s/store.old", dir);
    int code = 0, has_fresh = copy_exists(fresh), has_store = copy_exists(store);
    if (has_fresh < 0 || has_store < 0) {
        code = err_set(err, ERR_IO, "%s: %s", dir, strerror(errno));
    } else if (has_fresh) {
        if (has_store) {
            code = copy_remove_dir(old);
            if (code == 0 && rename(store, old) != 0)
                code = ERR_IO;
        }
        if (code == 0 && rename(fresh, store) != 0)
            code = ERR_IO;
        if (code == 0)
            code = copy_sync_path(dir);
        if (code != 0)
            err_set(err, code, "%s: cannot swap in the new copy: %s", dir, strerror(errno));
    } else if (!has_store) {
        code = err_set(err, ERR_CORRUPT,
                       "%s: neither the store nor its new copy is there: join the node anew", dir);
    }
    mem_free(fresh);
    mem_free(store);
    mem_free(old);
    return code;
}

static void on_fatal(void *user, int code, const char *text)
{
    err_set(user, code, "%s", text);
}

static void on_done(void *user)
{
}

int install_open_log(struct rlog **log, struct disk **disk, const char *dir, struct err_ctx *fatal,
                     struct err_ctx *err)
{
    char *log_dir = mem_printf("%s/log", dir);
    int code = disk_open_directory(disk, log_dir, err);
    mem_free(log_dir);
    if (code != 0)
        return code;
    struct rlog_config config = {
        .disk = *disk, .salt = random_u64(), .on_done = on_done, .on_fatal = on_fatal, .user = fatal};
    if ((code = rlog_open(log, &config, err)) != 0)
        disk_close_directory(*disk);
    return code;
}

static int reset_log(const char *dir, uint64_t index, uint64_t term, struct err_ctx *err)
{
    struct disk *disk = NULL;
    struct rlog *l = NULL;
    struct vote vote = {0};
    struct err_ctx fatal = {0};
    int code = install_open_log(&l, &disk, dir, &fatal, err);
    if (code != 0)
        return code;
    if ((code = vote_open(&vote, disk, err)) == 0) {
        /* A log that goes on from the copy stays: what is behind Y may have been acknowledged by us. */
        bool goes_on = rlog_first(l) <= index + 1 && rlog_last(l) >= index &&
                       (rlog_first(l) == index + 1 || rlog_term(l, index) == term);
        if (!goes_on) {
            rlog_reset(l, index);
            while (rlog_write_begin(l))
                rlog_write_finish(l);
            rlog_poll(l);
        }
        if (fatal.code != 0)
            code = err_set(err, fatal.code, "%s", fatal.text);
        else if (vote.term < term)
            code =
                vote_save(&vote, term, 0); /* the copy may come from a later term than the request for it */
    }
    rlog_close(l);
    vote_close(&vote);
    disk_close_directory(disk);
    return code;
}

int replica_finish_install(const char *dir, struct log *log, struct err_ctx *err)
{
    uint64_t index = 0, term = 0;
    char *marker = mem_printf("%s/" INSTALL_MARKER, dir), *old = mem_printf("%s/store.old", dir);
    char *partial = mem_printf("%s/" INSTALL_DIR, dir);
    int code = read_marker(marker, &index, &term, err);
    if (code == ERR_NOTFOUND) {
        copy_remove_dir(partial); /* of an install that did not finish */
        copy_remove_dir(old);
        code = 0;
        goto out;
    }
    if (code != 0 || (code = swap_dirs(dir, err)) != 0 || (code = reset_log(dir, index, term, err)) != 0)
        goto out;
    if (damage_mended(dir) != 0 || unlink(marker) != 0 || copy_sync_path(dir) != 0) {
        code = err_set(err, ERR_IO, "%s: %s", marker, strerror(errno));
        goto out;
    }
    copy_remove_dir(old);
    log_notice(log, "continuing with the copy of the store at %llu", (unsigned long long)index);
out:
    mem_free(marker);
    mem_free(old);
    mem_free(partial);
    return code;
}
