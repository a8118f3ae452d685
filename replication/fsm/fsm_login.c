/* Tokens for fast log-ins (XEP-0484) and keys that clients add to their account (XEP-0480). */
#include "replication/fsm/fsm_internal.h"
#include <string.h>

enum {
    MAX_CLIENTS = 16, /* of one user; the one whose token expires first makes room */
    MAX_CLIENT_ID = 64,
    NONCE_BYTES = 16,
};

static struct key token_key(uint64_t uid, const ProtobufCBinaryData *client)
{
    struct key k = fsm_key_u64(uid);
    key_bytes(&k, client->data, client->len);
    return k;
}

static bool has_nonce(const Imp__FastToken *t, const ProtobufCBinaryData *nonce)
{
    return t && t->nonce.len == nonce->len && memcmp(t->nonce.data, nonce->data, nonce->len) == 0;
}

static uint64_t expiry_of(const Imp__FastTokenRow *row)
{
    uint64_t current = row->current ? row->current->expires_ms : 0;
    uint64_t next = row->next ? row->next->expires_ms : 0;
    return current > next ? current : next;
}

static void make_room(struct fsm *f, uint64_t uid)
{
    struct key prefix = fsm_key_u64(uid), first;
    uint64_t earliest = 0;
    unsigned n = 0;
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_FAST_TOKEN, &prefix);
    while (store_iter_next(&i)) {
        const Imp__FastTokenRow *row = store_iter_row(&i, f->arena);
        uint64_t at = row ? expiry_of(row) : 0;
        if (n++ > 0 && at >= earliest)
            continue;
        earliest = at;
        key_init(&first);
        key_bytes(&first, i.key, i.n_key);
    }
    store_iter_fini(&i);
    if (n >= MAX_CLIENTS)
        store_delete(f->txn, TABLE_FAST_TOKEN, &first);
}

/* §3.5: the token that was used is the client's only one but for a newer one; a number that was used before
 * is a repeat. False: refused. */
static bool use(struct fsm *f, Imp__FastTokenRow *row, const Imp__FastTokenUse *b)
{
    if (!row || (!has_nonce(row->next, &b->nonce) && !has_nonce(row->current, &b->nonce))) {
        fsm_refuse(f, ERR_NOTFOUND, "the token is no longer valid");
        return false;
    }
    if (has_nonce(row->next, &b->nonce)) {
        row->current = row->next;
        row->next = NULL;
    }
    if (b->count && b->count <= row->current->count) {
        fsm_refuse(f, ERR_CONFLICT, "the token's count was used before");
        return false;
    }
    if (b->count)
        row->current->count = b->count;
    return true;
}

static bool is_token(const Imp__FastToken *t)
{
    return t->nonce.len == NONCE_BYTES && fsm_is_text(t->mechanism, 1, 32);
}

void fsm_do_fast_token(struct fsm *f, const void *body)
{
    const Imp__FastTokenSet *b = body;
    if (!fsm_find_user(f, b->uid)) {
        fsm_refuse(f, ERR_NOTFOUND, "there is no such user");
        return;
    }
    if (!b->client.len || b->client.len > MAX_CLIENT_ID || (b->issue && !is_token(b->issue))) {
        fsm_refuse(f, ERR_INVALID, "the token is not valid");
        return;
    }
    struct key k = token_key(b->uid, &b->client);
    Imp__FastTokenRow *row = store_find_row(f->txn, TABLE_FAST_TOKEN, &k, f->arena),
                      none = IMP__FAST_TOKEN_ROW__INIT;
    bool is_new = !row;
    if (b->use && !use(f, row, b->use))
        return;
    if (!row)
        row = &none;
    if (b->use && b->use->invalidate) /* §3.6: the client logs out: nothing of it is left */
        row->current = row->next = NULL;
    if (b->issue)
        row->next = b->issue;
    if (is_new && b->issue)
        make_room(f, b->uid);
    if (row->current || row->next)
        store_put_row(f->txn, TABLE_FAST_TOKEN, &k, row);
    else if (!is_new)
        store_delete(f->txn, TABLE_FAST_TOKEN, &k);
}

void fsm_forget_tokens(struct fsm *f, uint64_t uid)
{
    struct key prefix = fsm_key_u64(uid);
    fsm_delete_prefix(f, TABLE_FAST_TOKEN, &prefix);
}

static bool is_stored(const Imp__ScramKeys *keys, const ProtobufCBinaryData *proof)
{
    return keys && keys->stored_key.len == proof->len &&
           memcmp(keys->stored_key.data, proof->data, proof->len) == 0;
}

void fsm_do_credential_add(struct fsm *f, const void *body)
{
    const Imp__CredentialAdd *b = body;
    struct key k = fsm_key_u64(b->uid);
    Imp__CredentialRow *row = store_find_row(f->txn, TABLE_CREDENTIAL, &k, f->arena);
    if (!row || !fsm_find_user(f, b->uid)) {
        fsm_refuse(f, ERR_NOTFOUND, "the user has no password here");
        return;
    }
    if (!fsm_is_credential(b->credential)) {
        fsm_refuse(f, ERR_INVALID, "the credential is not valid");
        return;
    }
    /* The new keys are of the password that the client logged in with: it must still be the one. */
    if (!is_stored(row->sha1, &b->proof) && !is_stored(row->sha256, &b->proof) &&
        !is_stored(row->sha512, &b->proof)) {
        fsm_refuse(f, ERR_CONFLICT, "the password was changed meanwhile");
        return;
    }
    if (!row->sha1)
        row->sha1 = b->credential->sha1;
    if (!row->sha256)
        row->sha256 = b->credential->sha256;
    if (!row->sha512)
        row->sha512 = b->credential->sha512;
    store_put_row(f->txn, TABLE_CREDENTIAL, &k, row);
}
