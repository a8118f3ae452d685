#include "cluster/seal.h"
#include "base/clock.h"
#include "base/mem.h"
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>

enum { NONCE_BYTES = 12, TAG_BYTES = 16, VERSION = 1 };
static const char ring_file[] = "keys/cluster.keys";

void seal_ring_init_random(struct seal_ring *ring)
{
    memset(ring, 0, sizeof(*ring));
    ring->n = 1;
    random_bytes(ring->key[0], SEAL_KEY_BYTES);
}

void seal_ring_wipe(struct seal_ring *ring)
{
    mem_wipe(ring, sizeof(*ring));
}

int seal_ring_find(const struct seal_ring *ring, const uint8_t id[SEAL_KEY_ID_BYTES])
{
    for (unsigned i = 0; i < ring->n; i++) {
        uint8_t have[SEAL_KEY_ID_BYTES];
        seal_key_id(have, ring->key[i]);
        if (!memcmp(have, id, sizeof(have)))
            return (int)i;
    }
    return -1;
}

void seal_ring_add(struct seal_ring *ring, const uint8_t key[SEAL_KEY_BYTES])
{
    uint8_t id[SEAL_KEY_ID_BYTES];
    seal_key_id(id, key);
    if (seal_ring_find(ring, id) >= 0)
        return;
    if (ring->n < SEAL_MAX_KEYS)
        ring->n++;
    memcpy(ring->key[ring->n - 1], key, SEAL_KEY_BYTES);
}

bool seal_ring_prefer(struct seal_ring *ring, const uint8_t id[SEAL_KEY_ID_BYTES])
{
    uint8_t key[SEAL_KEY_BYTES];
    int at = seal_ring_find(ring, id);
    if (at <= 0)
        return false;
    memcpy(key, ring->key[at], sizeof(key));
    memmove(ring->key[1], ring->key[0], (size_t)at * SEAL_KEY_BYTES);
    memcpy(ring->key[0], key, sizeof(key));
    mem_wipe(key, sizeof(key));
    return true;
}

bool seal_ring_forget_others(struct seal_ring *ring)
{
    if (ring->n <= 1)
        return false;
    mem_wipe(ring->key[1], (ring->n - 1) * (size_t)SEAL_KEY_BYTES);
    ring->n = 1;
    return true;
}

/* The file is the keys, one after the other, 32 bytes each, and the SHA-256 of them: a node with a damaged
 * key would seal what nobody can open. */
int seal_ring_load(struct seal_ring *ring, const struct datadir *d, struct err_ctx *err)
{
    struct buf b = {0};
    uint8_t sum[EVP_MAX_MD_SIZE];
    int rc = datadir_read(d, ring_file, &b, (SEAL_MAX_KEYS + 1) * SEAL_KEY_BYTES, err);
    size_t n = b.n > SEAL_KEY_BYTES ? b.n - SEAL_KEY_BYTES : 0;
    if (!rc && (!n || n % SEAL_KEY_BYTES || EVP_Digest(b.data, n, sum, NULL, EVP_sha256(), NULL) != 1 ||
                CRYPTO_memcmp(sum, b.data + n, SEAL_KEY_BYTES)))
        rc = err_set(
            err, ERR_CORRUPT,
            "%s/%s is damaged; restore it from a backup of this file, or remove this node and join it anew",
            d->path, ring_file);
    if (!rc) {
        memset(ring, 0, sizeof(*ring));
        ring->n = (unsigned)(n / SEAL_KEY_BYTES);
        memcpy(ring->key, b.data, n);
    }
    seal_buf_fini(&b);
    return rc;
}

int seal_ring_store(const struct seal_ring *ring, const struct datadir *d, struct err_ctx *err)
{
    uint8_t file[(SEAL_MAX_KEYS + 1) * SEAL_KEY_BYTES];
    size_t n = ring->n * (size_t)SEAL_KEY_BYTES;
    memcpy(file, ring->key, n);
    int rc = EVP_Digest(ring->key, n, file + n, NULL, EVP_sha256(), NULL) == 1
                 ? datadir_write(d, ring_file, file, n + SEAL_KEY_BYTES, 0600, err)
                 : err_set(err, ERR_SYSTEM, "SHA-256 is not available");
    mem_wipe(file, sizeof(file));
    return rc;
}

void seal_key_id(uint8_t out[SEAL_KEY_ID_BYTES], const uint8_t key[SEAL_KEY_BYTES])
{
    static const char label[] = "imp cluster key id";
    uint8_t digest[EVP_MAX_MD_SIZE], text[sizeof(label) + SEAL_KEY_BYTES];
    memcpy(text, label, sizeof(label));
    memcpy(text + sizeof(label), key, SEAL_KEY_BYTES);
    if (EVP_Digest(text, sizeof(text), digest, NULL, EVP_sha256(), NULL) != 1)
        memset(digest, 0, sizeof(digest));
    memcpy(out, digest, SEAL_KEY_ID_BYTES);
    mem_wipe(text, sizeof(text));
}

int seal(const struct seal_ring *ring, const char *purpose, const void *plain, size_t n_bytes,
         struct buf *out, struct err_ctx *err)
{
    if (!ring->n || n_bytes > SEAL_MAX_BYTES)
        return err_set(err, ERR_INVALID, "cannot seal %zu bytes", n_bytes);
    uint8_t id[SEAL_KEY_ID_BYTES], nonce[NONCE_BYTES];
    seal_key_id(id, ring->key[0]);
    random_bytes(nonce, sizeof(nonce));
    uint8_t *text = mem_alloc(n_bytes + TAG_BYTES);
    int n = 0, rest = 0;
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    int ok = c && EVP_EncryptInit_ex(c, EVP_aes_256_gcm(), NULL, ring->key[0], nonce) == 1 &&
             EVP_EncryptUpdate(c, NULL, &n, (const uint8_t *)purpose, (int)strlen(purpose)) == 1 &&
             EVP_EncryptUpdate(c, text, &n, plain, (int)n_bytes) == 1 &&
             EVP_EncryptFinal_ex(c, text + n, &rest) == 1 &&
             EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, TAG_BYTES, text + n_bytes) == 1;
    EVP_CIPHER_CTX_free(c);
    if (ok) {
        buf_add_u8(out, VERSION);
        buf_add(out, id, sizeof(id));
        buf_add(out, nonce, sizeof(nonce));
        buf_add(out, text, n_bytes + TAG_BYTES);
    }
    mem_free(text);
    return ok ? 0 : err_set(err, ERR_INTERNAL, "sealing failed");
}

int seal_open(const struct seal_ring *ring, const char *purpose, const void *blob, size_t n_bytes,
              struct buf *out, struct err_ctx *err)
{
    const uint8_t *p = blob;
    if (n_bytes < SEAL_OVERHEAD || n_bytes > SEAL_MAX_BYTES + SEAL_OVERHEAD || p[0] != VERSION)
        return err_set(err, ERR_MALFORMED, "not a sealed secret");
    int at = seal_ring_find(ring, p + 1);
    const uint8_t *key = at < 0 ? NULL : ring->key[at];
    if (!key)
        return err_set(err, ERR_NOTFOUND,
                       "the secret is sealed with a cluster key that this node does not have");
    const uint8_t *nonce = p + 1 + SEAL_KEY_ID_BYTES, *text = nonce + NONCE_BYTES;
    size_t n_text = n_bytes - SEAL_OVERHEAD;
    uint8_t *plain = mem_alloc(n_text + 1);
    uint8_t tag[TAG_BYTES];
    memcpy(tag, text + n_text, TAG_BYTES);
    int n = 0, rest = 0;
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    int ok = c && EVP_DecryptInit_ex(c, EVP_aes_256_gcm(), NULL, key, nonce) == 1 &&
             EVP_DecryptUpdate(c, NULL, &n, (const uint8_t *)purpose, (int)strlen(purpose)) == 1 &&
             EVP_DecryptUpdate(c, plain, &n, text, (int)n_text) == 1 &&
             EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_SET_TAG, TAG_BYTES, tag) == 1 &&
             EVP_DecryptFinal_ex(c, plain + n, &rest) == 1;
    EVP_CIPHER_CTX_free(c);
    if (ok)
        buf_add(out, plain, n_text);
    mem_wipe(plain, n_text);
    mem_free(plain);
    return ok ? 0 : err_set(err, ERR_AUTH, "the sealed secret is damaged or belongs to something else");
}

int seal_again(const struct seal_ring *old, const struct seal_ring *to, const char *purpose, const void *blob,
               size_t n_bytes, struct buf *out, struct err_ctx *err)
{
    struct buf plain = {0};
    int rc = seal_open(old, purpose, blob, n_bytes, &plain, err);
    if (!rc)
        rc = seal(to, purpose, plain.data, plain.n, out, err);
    seal_buf_fini(&plain);
    return rc;
}

void seal_buf_fini(struct buf *b)
{
    if (b->data)
        mem_wipe(b->data, b->cap);
    buf_fini(b);
}

void seal_derive(uint8_t out[32], const struct seal_ring *ring, const char *label)
{
    unsigned n = 32;
    if (!HMAC(EVP_sha256(), ring->key[0], SEAL_KEY_BYTES, (const uint8_t *)label, strlen(label), out, &n))
        random_bytes(out, 32);
}
