/* Sealing with the cluster key: what is secret but replicated (the CA's key, passwords in settings, keys of
 * client-facing certificates) lies in the store as a sealed blob only.
 *
 *   blob = version u8 (1) | key id 8 | nonce 12 | AES-256-GCM ciphertext | tag 16
 *
 * The purpose ("ca", "setting:axl.password") is authenticated: a blob put into another row does not open. The
 * nonce is random, drawn by whoever proposes, and travels in the command. Keys come as a ring: the first
 * seals, all open, so that the key can be changed (node/keys.c); in a running node it belongs to the control loop. */
#ifndef CLUSTER_SEAL_H
#define CLUSTER_SEAL_H

#include "base/buf.h"
#include "base/err.h"
#include "cluster/datadir.h"
#include <stdbool.h>

enum {
    SEAL_KEY_BYTES = 32,
    SEAL_KEY_ID_BYTES = 8,
    SEAL_MAX_KEYS = 8,
    SEAL_HEAD_BYTES = 21, /* up to the nonce: no two blobs have the same */
    SEAL_OVERHEAD = 37,
    SEAL_MAX_BYTES = 1 << 20
};

struct seal_ring {
    unsigned n;
    uint8_t key[SEAL_MAX_KEYS][SEAL_KEY_BYTES]; /* the first is the current one */
};

void seal_ring_init_random(struct seal_ring *ring);
void seal_ring_wipe(struct seal_ring *ring);
/* Index of the key, or -1. */
int seal_ring_find(const struct seal_ring *ring, const uint8_t id[SEAL_KEY_ID_BYTES]);
/* One more key that opens; it does not seal. In a full ring it takes the place of the last. */
void seal_ring_add(struct seal_ring *ring, const uint8_t key[SEAL_KEY_BYTES]);
/* The key seals from now on. False: it does already, or it is not there. */
bool seal_ring_prefer(struct seal_ring *ring, const uint8_t id[SEAL_KEY_ID_BYTES]);
/* All but the first go. False: there were none. */
bool seal_ring_forget_others(struct seal_ring *ring);
int seal_ring_load(struct seal_ring *ring, const struct datadir *d, struct err_ctx *err);
int seal_ring_store(const struct seal_ring *ring, const struct datadir *d, struct err_ctx *err);
/* Public name of a key. */
void seal_key_id(uint8_t out[SEAL_KEY_ID_BYTES], const uint8_t key[SEAL_KEY_BYTES]);

int seal(const struct seal_ring *ring, const char *purpose, const void *plain, size_t n_bytes,
         struct buf *out, struct err_ctx *err);
/* OUT gets the secret: wipe it after use (seal_buf_fini). ERR_NOTFOUND: sealed with a key that is not in the
 * ring; ERR_AUTH: damaged, or another purpose. */
int seal_open(const struct seal_ring *ring, const char *purpose, const void *blob, size_t n_bytes,
              struct buf *out, struct err_ctx *err);
/* OUT gets the same secret as BLOB, which OLD opens, sealed with TO's current key. Errors as seal_open. */
int seal_again(const struct seal_ring *old, const struct seal_ring *to, const char *purpose, const void *blob,
               size_t n_bytes, struct buf *out, struct err_ctx *err);
void seal_buf_fini(struct buf *b); /* wipes, then frees */
/* 32 bytes that every member derives alike from the current key; another LABEL, other bytes. */
void seal_derive(uint8_t out[32], const struct seal_ring *ring, const char *label);

#endif
