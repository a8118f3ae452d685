/* Users: rows, indexes, and the commands on one user. */
#include "replication/fsm/fsm_internal.h"
#include <string.h>

enum { WORDS_MAX = 32, WORD_BYTES_MAX = 64 };

Imp__UserRow *fsm_find_user(struct fsm *f, uint64_t uid)
{
    struct key k = fsm_key_u64(uid);
    return uid ? store_find_row(f->txn, TABLE_USER, &k, f->arena) : NULL;
}

void fsm_put_user(struct fsm *f, const Imp__UserRow *user)
{
    struct key k = fsm_key_u64(user->uid);
    store_put_row(f->txn, TABLE_USER, &k, user);
}

int fsm_find_jid(struct fsm *f, const char *jid, Imp__UserRow **out)
{
    const char *at = strchr(jid, '@');
    *out = NULL;
    if (!at || at == jid || !at[1])
        return ERR_INVALID;
    uint32_t domain = fsm_find_domain(f, at + 1);
    if (!domain)
        return ERR_INVALID;
    struct key k = fsm_key_u32_str(domain, arena_strndup(f->arena, jid, at - jid));
    *out = fsm_find_user(f, fsm_find_id(f, TABLE_USER_BY_JID, &k));
    return *out ? 0 : ERR_NOTFOUND;
}

const char *fsm_user_jid(struct fsm *f, const Imp__UserRow *user)
{
    const char *domain = fsm_domain_name(f, user->domain);
    return arena_printf(f->arena, "%s@%s", user->localpart, domain ? domain : "");
}

static bool same_words(const Imp__UserRow *a, const Imp__UserRow *b)
{
    if (a->n_words != b->n_words)
        return false;
    for (size_t i = 0; i < a->n_words; i++) {
        if (strcmp(a->words[i], b->words[i]) != 0)
            return false;
    }
    return true;
}

static struct key word_key(const Imp__UserRow *user, const char *word)
{
    struct key k;
    key_init(&k);
    key_u32(&k, user->domain);
    key_str(&k, word);
    key_u64(&k, user->uid);
    return k;
}

void fsm_user_index_words(struct fsm *f, const Imp__UserRow *old, const Imp__UserRow *now)
{
    if (old && now && same_words(old, now))
        return;
    for (size_t i = 0; old && i < old->n_words; i++) {
        struct key k = word_key(old, old->words[i]);
        store_delete(f->txn, TABLE_USER_BY_WORD, &k);
    }
    for (size_t i = 0; now && i < now->n_words && i < WORDS_MAX; i++) {
        struct key k = word_key(now, now->words[i]);
        if (*now->words[i] && strlen(now->words[i]) <= WORD_BYTES_MAX)
            fsm_put_empty(f, TABLE_USER_BY_WORD, &k);
    }
}

void fsm_user_create(struct fsm *f, Imp__UserRow *user)
{
    user->uid = f->cluster->next_uid++;
    user->created_ms = f->now_ms;
    fsm_put_cluster(f);
    struct key jid = fsm_key_u32_str(user->domain, user->localpart);
    fsm_purge_finish(f, fsm_user_jid(f, user));
    store_delete(f->txn, TABLE_USER_GONE, &jid);
    fsm_put_id(f, TABLE_USER_BY_JID, &jid, user->uid);
    if (*user->uuid) {
        struct key uuid = fsm_key_str(user->uuid);
        fsm_put_id(f, TABLE_USER_BY_UUID, &uuid, user->uid);
    }
    fsm_user_index_words(f, NULL, user);
    fsm_choose_home(f, &user->home, &user->assigned_by);
    fsm_index_home(f, user, true);
    fsm_put_user(f, user);
}

/* The user is gone with this; what may be many rows goes step by step. */
void fsm_user_delete(struct fsm *f, const Imp__UserRow *user)
{
    static const enum table by_uid[] = {TABLE_USER, TABLE_CREDENTIAL, TABLE_VCARD, TABLE_ROSTER_META,
                                        TABLE_USER_STATE, TABLE_PEP_USER, TABLE_ARCHIVE_PREFS,
                                        TABLE_LAST_ACTIVITY};
    fsm_index_home(f, user, false);
    fsm_user_index_words(f, user, NULL);
    if (*user->uuid) {
        struct key uuid = fsm_key_str(user->uuid);
        store_delete(f->txn, TABLE_USER_BY_UUID, &uuid);
    }
    struct key jid = fsm_key_u32_str(user->domain, user->localpart), uid = fsm_key_u64(user->uid);
    store_delete(f->txn, TABLE_USER_BY_JID, &jid);
    for (size_t i = 0; i < n_elements(by_uid); i++)
        store_delete(f->txn, by_uid[i], &uid);
    fsm_forget_tokens(f, user->uid);
    fsm_delete_prefix(f, TABLE_PUSH, &uid); /* a few */
    fsm_delete_prefix(f, TABLE_SESSION, &uid);
    fsm_purge_add(f, user->uid, fsm_user_jid(f, user));
}

/* ---- commands ---- */

static Imp__UserRow *get_user(struct fsm *f, uint64_t uid)
{
    Imp__UserRow *user = fsm_find_user(f, uid);
    if (!user)
        fsm_refuse(f, ERR_NOTFOUND, "there is no such user");
    return user;
}

bool fsm_is_credential(const Imp__CredentialRow *c)
{
    static const size_t bytes[] = {20, 32, 64};
    const Imp__ScramKeys *keys[] = {c ? c->sha1 : NULL, c ? c->sha256 : NULL, c ? c->sha512 : NULL};
    if (!keys[0] && !keys[1] && !keys[2])
        return false;
    for (size_t i = 0; i < n_elements(keys); i++) {
        size_t n = bytes[i];
        if (keys[i] && (!keys[i]->iterations || !keys[i]->salt.len || keys[i]->salt.len > 64 ||
                        keys[i]->stored_key.len != n || keys[i]->server_key.len != n))
            return false;
    }
    return true;
}

static void put_credential(struct fsm *f, uint64_t uid, const Imp__CredentialRow *credential)
{
    struct key k = fsm_key_u64(uid);
    store_put_row(f->txn, TABLE_CREDENTIAL, &k, credential);
}

static bool refuse_user(struct fsm *f, const Imp__UserAdd *b, uint32_t domain)
{
    if (!fsm_is_text(b->localpart, 1, FSM_LOCALPART_MAX) || strpbrk(b->localpart, "@/") ||
        !fsm_is_text(b->userid, 0, FSM_TEXT_MAX) || !fsm_is_text(b->display_name, 0, FSM_TEXT_MAX) ||
        (b->credential && !fsm_is_credential(b->credential))) {
        fsm_refuse(f, ERR_INVALID, "the user's name or credential is not valid");
        return true;
    }
    if (!domain) {
        fsm_refuse(f, ERR_NOTFOUND, "%.200s is not a domain of this cluster", b->domain);
        return true;
    }
    struct key k = fsm_key_u32_str(domain, b->localpart);
    const Imp__UserGoneRow *gone = store_find_row(f->txn, TABLE_USER_GONE, &k, f->arena);
    if (fsm_find_id(f, TABLE_USER_BY_JID, &k))
        fsm_refuse(f, ERR_EXISTS, "the user %.200s exists", b->localpart);
    else if (gone && gone->until_ms > f->now_ms)
        fsm_refuse(f, ERR_EXISTS, "%.200s is the former address of a renamed user and not free yet",
                   b->localpart);
    return f->out->code != 0;
}

void fsm_do_user_add(struct fsm *f, const void *body)
{
    const Imp__UserAdd *b = body;
    uint32_t domain = strlen(b->domain) <= FSM_DOMAIN_MAX ? fsm_find_domain(f, b->domain) : 0;
    if (refuse_user(f, b, domain))
        return;
    Imp__UserRow user = IMP__USER_ROW__INIT;
    user.domain = domain;
    user.localpart = b->localpart;
    user.userid = *b->userid ? b->userid : b->localpart;
    user.display_name = b->display_name;
    user.source = IMP__USER_SOURCE__SOURCE_LOCAL;
    user.n_words = b->n_words < WORDS_MAX ? b->n_words : WORDS_MAX;
    user.words = b->words;
    fsm_user_create(f, &user);
    if (b->credential)
        put_credential(f, user.uid, b->credential);
    f->out->value = user.uid;
    f->out->value2 = user.home;
}

void fsm_do_user_remove(struct fsm *f, const void *body)
{
    const Imp__UserRemove *b = body;
    const Imp__UserRow *user = get_user(f, b->uid);
    if (user)
        fsm_user_delete(f, user);
}

void fsm_do_user_password(struct fsm *f, const void *body)
{
    const Imp__UserPassword *b = body;
    if (!get_user(f, b->uid))
        return;
    if (!fsm_is_credential(b->credential)) {
        fsm_refuse(f, ERR_INVALID, "the credential is not valid");
        return;
    }
    put_credential(f, b->uid, b->credential);
    fsm_forget_tokens(f, b->uid);
}

void fsm_do_user_lock(struct fsm *f, const void *body)
{
    const Imp__UserLock *b = body;
    Imp__UserRow *user = get_user(f, b->uid);
    if (user && user->locked != !!b->locked) {
        user->locked = b->locked;
        fsm_put_user(f, user);
    }
}
