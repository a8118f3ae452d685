/* The data directory of a node: who may use it (lock), whose it is (identity file) and its small files.
 *
 *   DIR/identity          cluster id, node id, name, machine and inodes: a copy of the directory is refused
 *   DIR/impnode.yaml      the choices of init and join
 *   DIR/keys/             0700; cluster.keys, node.key
 *   DIR/node.pem, ca.pem   this node's certificate, the cluster's CA certificates
 *   DIR/log, store, snap  replication's and storage's
 *   DIR/peers             where the other members were last known to be
 *   DIR/worker.pid, admin.sock
 *
 * Blocking calls, one thread at a time. The lock is held until datadir_close or the end of the process. */
#ifndef CLUSTER_DATADIR_H
#define CLUSTER_DATADIR_H

#include "base/buf.h"
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

enum { DATADIR_PATH_MAX = 1024, NODE_NAME_MAX = 63 };

struct datadir {
    char path[DATADIR_PATH_MAX];
    int lock_fd; /* -1: closed */
};

/* Makes PATH (0700) if it is missing and takes the lock. ALLOWED: NULL-terminated names that may already be
 * inside; anything else (but the lock file) is ERR_EXISTS. */
int datadir_create(struct datadir *d, const char *path, const char *const *allowed, struct err_ctx *err);
/* Takes the lock of an existing directory; waits at most WAIT_MS for another process to let go of it.
 * ERR_NOTFOUND, ERR_DENIED (others may read it), ERR_CONFLICT (somebody else runs there). */
int datadir_open(struct datadir *d, const char *path, unsigned wait_ms, struct err_ctx *err);
void datadir_close(struct datadir *d);

/* NAME is relative to the directory. Reading is limited to MAX_BYTES; ERR_NOTFOUND when it is not there. */
int datadir_read(const struct datadir *d, const char *name, struct buf *out, size_t max_bytes,
                 struct err_ctx *err);
/* Whole or not at all, durable on return: temporary file, fsync, rename, fsync of the directory. */
int datadir_write(const struct datadir *d, const char *name, const void *data, size_t n_bytes, unsigned mode,
                  struct err_ctx *err);
bool datadir_has(const struct datadir *d, const char *name);
int datadir_remove(const struct datadir *d, const char *name);

/* Who lives here. */
struct datadir_identity {
    uint8_t cluster_id[16];
    uint32_t node;
    char name[NODE_NAME_MAX + 1];
};
/* Written last when a node is made: a directory with an identity is a complete one. */
int datadir_write_identity(const struct datadir *d, const struct datadir_identity *id, struct err_ctx *err);
/* ERR_NOTFOUND: no node was made here. ERR_CONFLICT: this is a copy, or restored; the text says what to do.
 */
int datadir_read_identity(const struct datadir *d, struct datadir_identity *id, struct err_ctx *err);
/* The same, without asking whether this is a copy: for impnode recover. */
int datadir_read_identity_of_copy(const struct datadir *d, struct datadir_identity *id, struct err_ctx *err);

void datadir_hex(char *out, const uint8_t *data, size_t n_bytes); /* 2 * n_bytes digits and a NUL */
int datadir_unhex(uint8_t *out, size_t n_bytes,
                  const char *hex); /* exactly 2 * n_bytes digits, or ERR_INVALID */
/* A node's name, as the state machine takes it: 1 to 63 of a-z A-Z 0-9 - _; here beginning with a letter or
 * digit. */
bool datadir_is_name(const char *name);

#endif
