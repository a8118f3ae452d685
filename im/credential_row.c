#include "im/credential_row.h"
#include "replication/levels.h"
#include <string.h>

static void fill_keys(Imp__ScramKeys *out, const struct scram_keys *k, enum credential_hash hash)
{
    size_t n = credential_key_bytes(hash);
    imp__scram_keys__init(out);
    out->iterations = k->iterations;
    out->salt = (ProtobufCBinaryData){k->n_salt, (uint8_t *)k->salt};
    out->stored_key = (ProtobufCBinaryData){n, (uint8_t *)k->stored_key};
    out->server_key = (ProtobufCBinaryData){n, (uint8_t *)k->server_key};
}

void credential_row_fill(struct credential_row *out, const struct credential *c, unsigned level)
{
    imp__credential_row__init(&out->row);
    for (int i = 0; i < N_CREDENTIAL_HASHES; i++)
        fill_keys(&out->keys[i], &c->keys[i], (enum credential_hash)i);
    if (credential_has(c, CREDENTIAL_SHA1))
        out->row.sha1 = &out->keys[CREDENTIAL_SHA1];
    if (credential_has(c, CREDENTIAL_SHA256))
        out->row.sha256 = &out->keys[CREDENTIAL_SHA256];
    if (credential_has(c, CREDENTIAL_SHA512) && level >= LEVEL_3)
        out->row.sha512 = &out->keys[CREDENTIAL_SHA512];
}

static void read_keys(struct scram_keys *out, const Imp__ScramKeys *in, enum credential_hash hash)
{
    size_t n = credential_key_bytes(hash);
    *out = (struct scram_keys){0};
    if (!in || in->salt.len == 0 || in->salt.len > CREDENTIAL_MAX_SALT || in->stored_key.len != n ||
        in->server_key.len != n || in->iterations == 0 || in->iterations > CREDENTIAL_MAX_ITERATIONS)
        return;
    out->iterations = in->iterations;
    out->n_salt = (uint8_t)in->salt.len;
    memcpy(out->salt, in->salt.data, in->salt.len);
    memcpy(out->stored_key, in->stored_key.data, n);
    memcpy(out->server_key, in->server_key.data, n);
}

bool credential_row_read(struct credential *out, const Imp__CredentialRow *row)
{
    read_keys(&out->keys[CREDENTIAL_SHA1], row->sha1, CREDENTIAL_SHA1);
    read_keys(&out->keys[CREDENTIAL_SHA256], row->sha256, CREDENTIAL_SHA256);
    read_keys(&out->keys[CREDENTIAL_SHA512], row->sha512, CREDENTIAL_SHA512);
    for (int i = 0; i < N_CREDENTIAL_HASHES; i++)
        if (credential_has(out, (enum credential_hash)i))
            return true;
    return false;
}
