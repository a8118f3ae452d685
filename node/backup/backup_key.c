#include "node/backup/backup_key.h"
#include "base/clock.h"
#include "base/mem.h"
#include <openssl/evp.h>
#include <string.h>

enum {
    SCRYPT_N = 1 << 16,
    SCRYPT_R = 8,
    SCRYPT_P = 1,
    SCRYPT_N_MAX = 1 << 20,
    KEY_BYTES = 32,
    TAG_BYTES = 16
};
static const uint64_t memory_max = 2048ull << 20;

static int derive(uint8_t key[KEY_BYTES], const Imp__BackupKeys *k, const void *passphrase, size_t n_bytes,
                  struct err_ctx *err)
{
    if (EVP_PBE_scrypt(passphrase, n_bytes, k->salt.data, k->salt.len, k->n, k->r, k->p, memory_max, key,
                       KEY_BYTES) == 1)
        return 0;
    return err_set(err, ERR_NOMEM, "scrypt failed: it needs %llu MiB of memory",
                   (unsigned long long)(128ull * k->n * k->r >> 20));
}

int backup_wrap_keys(Imp__BackupKeys *keys, struct backup_key_buffers *buffers, const struct seal_ring *ring,
                     const void *passphrase, size_t n_bytes, const void *context, size_t n_context,
                     struct err_ctx *err)
{
    uint8_t key[KEY_BYTES];
    size_t n = ring->n * (size_t)SEAL_KEY_BYTES;
    if (n_bytes < BACKUP_PASSPHRASE_MIN || n_bytes > BACKUP_PASSPHRASE_MAX)
        return err_set(err, ERR_INVALID, "a passphrase has %d to %d characters", BACKUP_PASSPHRASE_MIN,
                       BACKUP_PASSPHRASE_MAX);
    imp__backup_keys__init(keys);
    random_bytes(buffers->salt, sizeof buffers->salt);
    random_bytes(buffers->nonce, sizeof buffers->nonce);
    keys->n = SCRYPT_N;
    keys->r = SCRYPT_R;
    keys->p = SCRYPT_P;
    keys->salt = (ProtobufCBinaryData){sizeof buffers->salt, buffers->salt};
    keys->nonce = (ProtobufCBinaryData){sizeof buffers->nonce, buffers->nonce};
    keys->sealed = (ProtobufCBinaryData){n + TAG_BYTES, buffers->sealed};
    int rc = derive(key, keys, passphrase, n_bytes, err), done = 0, rest = 0;
    if (rc)
        return rc;
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    int ok = c && EVP_EncryptInit_ex(c, EVP_aes_256_gcm(), NULL, key, buffers->nonce) == 1 &&
             EVP_EncryptUpdate(c, NULL, &done, context, (int)n_context) == 1 &&
             EVP_EncryptUpdate(c, buffers->sealed, &done, ring->key[0], (int)n) == 1 &&
             EVP_EncryptFinal_ex(c, buffers->sealed + done, &rest) == 1 &&
             EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, TAG_BYTES, buffers->sealed + n) == 1;
    EVP_CIPHER_CTX_free(c);
    mem_wipe(key, sizeof key);
    return ok ? 0 : err_set(err, ERR_INTERNAL, "wrapping the cluster key failed");
}

static bool is_plausible(const Imp__BackupKeys *k)
{
    size_t n = k->sealed.len < TAG_BYTES ? 0 : k->sealed.len - TAG_BYTES;
    return k->salt.len == BACKUP_SALT && k->nonce.len == BACKUP_NONCE && n && n % SEAL_KEY_BYTES == 0 &&
           n <= SEAL_MAX_KEYS * SEAL_KEY_BYTES && k->n && k->n <= SCRYPT_N_MAX && k->r && k->r <= 16 &&
           k->p && k->p <= 16;
}

int backup_unwrap_keys(struct seal_ring *ring, const Imp__BackupKeys *keys, const void *passphrase,
                       size_t n_bytes, const void *context, size_t n_context, struct err_ctx *err)
{
    uint8_t key[KEY_BYTES], tag[TAG_BYTES], plain[SEAL_MAX_KEYS * SEAL_KEY_BYTES];
    if (!is_plausible(keys))
        return err_set(err, ERR_CORRUPT, "the wrapped cluster key is not valid");
    size_t n = keys->sealed.len - TAG_BYTES;
    int rc = derive(key, keys, passphrase, n_bytes, err), done = 0, rest = 0;
    if (rc)
        return rc;
    memcpy(tag, keys->sealed.data + n, TAG_BYTES);
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    int ok = c && EVP_DecryptInit_ex(c, EVP_aes_256_gcm(), NULL, key, keys->nonce.data) == 1 &&
             EVP_DecryptUpdate(c, NULL, &done, context, (int)n_context) == 1 &&
             EVP_DecryptUpdate(c, plain, &done, keys->sealed.data, (int)n) == 1 &&
             EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_SET_TAG, TAG_BYTES, tag) == 1 &&
             EVP_DecryptFinal_ex(c, plain + done, &rest) == 1;
    EVP_CIPHER_CTX_free(c);
    mem_wipe(key, sizeof key);
    if (ok) {
        memset(ring, 0, sizeof *ring);
        ring->n = (unsigned)(n / SEAL_KEY_BYTES);
        memcpy(ring->key, plain, n);
    }
    mem_wipe(plain, sizeof plain);
    return ok ? 0 : err_set(err, ERR_AUTH, "the passphrase is wrong");
}
