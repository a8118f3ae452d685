/* The cluster keys in a backup: wrapped with a passphrase. Slow on purpose (scrypt, 64 MiB): not on a loop.
 */
#ifndef NODE_BACKUP_KEY_H
#define NODE_BACKUP_KEY_H

#include "backup.pb-c.h"
#include "cluster/seal.h"

enum { BACKUP_PASSPHRASE_MIN = 8, BACKUP_PASSPHRASE_MAX = 1024, BACKUP_SALT = 16, BACKUP_NONCE = 12 };

/* BUFFERS holds what KEYS points at; it lives as long. CONTEXT is authenticated: the keys open with that file
 * only. */
struct backup_key_buffers {
    uint8_t salt[BACKUP_SALT], nonce[BACKUP_NONCE], sealed[SEAL_MAX_KEYS * SEAL_KEY_BYTES + 16];
};
int backup_wrap_keys(Imp__BackupKeys *keys, struct backup_key_buffers *buffers, const struct seal_ring *ring,
                     const void *passphrase, size_t n_bytes, const void *context, size_t n_context,
                     struct err_ctx *err);
/* ERR_AUTH: the passphrase is wrong. */
int backup_unwrap_keys(struct seal_ring *ring, const Imp__BackupKeys *keys, const void *passphrase,
                       size_t n_bytes, const void *context, size_t n_context, struct err_ctx *err);

#endif
