/* Accounts in the store, and checks of passwords that take a while. */
#include "im/credential_row.h"
#include "protocols/xmpp/c2s_edge_impl.h"

#include <stdio.h>
#include <string.h>

enum { MAX_CHECKS = 512 }; /* at once, on this node: attackers must not fill the thread pool's queue */

static bool read_credential(struct edge_shard *es, uint64_t uid, struct credential *out, struct arena *a)
{
    struct key k;
    key_init(&k);
    key_u64(&k, uid);
    Imp__CredentialRow *row = store_find_row(shard_txn(es->shard), TABLE_CREDENTIAL, &k, a);
    return row && credential_row_read(out, row);
}

void edge_find_user(struct edge_shard *es, const char *localpart, const char *domain, struct edge_user *out)
{
    char jid[JID_MAX + 1];
    struct arena a;
    arena_init(&a);
    memset(out, 0, sizeof(*out));
    snprintf(jid, sizeof(jid), "%s@%s", localpart, domain);
    uint64_t uid;
    Imp__UserRow *row = NULL;
    if (shard_find_uid(es->shard, jid, &uid) == 0)
        row = shard_user_row(es->shard, uid, &a);
    if (row) {
        out->uid = uid;
        out->locked = row->locked;
        out->home = shard_home_of(es->shard, uid);
        snprintf(out->userid, sizeof(out->userid), "%s", row->userid);
        if (read_credential(es, uid, &out->credential, &a))
            out->account = ACCOUNT_LOCAL;
        else if (row->source == IMP__USER_SOURCE__SOURCE_AXL && edge_settings(es)->ask_backend)
            out->account = ACCOUNT_BACKEND;
    }
    arena_fini(&a);
}

bool edge_has_local_passwords(struct edge_shard *es)
{
    struct key all;
    struct store_iter i;
    key_init(&all);
    store_iter_init(&i, shard_txn(es->shard), TABLE_CREDENTIAL, &all);
    bool any = store_iter_next(&i);
    store_iter_fini(&i);
    return any;
}

/* One check; outlives its connection, which it knows by id. */
struct check {
    struct work work;
    struct edge_shard *es;
    uint64_t conn;
    struct deferred at_once; /* instead of the work, where the answer is known */
    uint64_t uid;            /* 0: no local account */
    uint8_t mac[C2S_KNOWN_MAC];
    struct credential credential;
    enum sasl_check result;
    size_t n_password;
    char password[1024];
};

static void finish(struct check *k)
{
    struct edge_conn *c = edge_conn_find(k->es, k->conn);
    enum sasl_check result = k->result;
    atomic_fetch_sub(&k->es->edge->n_checks, 1);
    mem_wipe(k, sizeof(*k));
    mem_free(k);
    if (c)
        edge_password_checked(c, result);
}

static void derive(struct work *w)
{
    struct check *k = container_of(w, struct check, work);
    bool ok = credential_check(k->uid ? &k->credential : NULL, k->password, k->n_password);
    k->result = ok ? SASL_CHECK_OK : SASL_CHECK_WRONG;
}

static void derived(struct work *w)
{
    struct check *k = container_of(w, struct check, work);
    if (k->result == SASL_CHECK_OK)
        c2s_known_add(k->es->edge->known, k->uid, k->mac);
    finish(k);
}

static void on_known(struct deferred *d)
{
    finish(container_of(d, struct check, at_once));
}

static void check_local(struct check *k, const struct edge_user *u, const char *password)
{
    struct loop *loop = k->es->shard->loop;
    size_t n = strlen(password);
    if (u->account == ACCOUNT_LOCAL) {
        c2s_known_mac(k->es->edge->known, u->uid, &u->credential, password, n, k->mac);
        if (c2s_known_has(k->es->edge->known, u->uid, k->mac)) {
            k->result = SASL_CHECK_OK;
            k->at_once = (struct deferred){.fn = on_known};
            list_init(&k->at_once.link);
            loop_defer(loop, &k->at_once);
            return;
        }
        k->uid = u->uid;
    }
    /* Unknown users take the same way, so that it takes the same time. */
    k->credential = u->credential;
    k->n_password = n;
    snprintf(k->password, sizeof(k->password), "%s", password);
    k->work = (struct work){.work = derive, .done = derived};
    loop_run_work(loop, &k->work);
}

static void on_backend(void *user, enum sasl_check result)
{
    struct check *k = user;
    k->result = result;
    finish(k);
}

bool edge_check_password(struct edge_conn *c, const char *localpart, const char *password)
{
    struct c2s_edge *e = c->es->edge;
    if (atomic_fetch_add(&e->n_checks, 1) >= MAX_CHECKS) {
        atomic_fetch_sub(&e->n_checks, 1);
        return false;
    }
    struct edge_user u;
    edge_find_user(c->es, localpart, c->domain, &u);
    struct check *k = mem_new(struct check);
    k->es = c->es;
    k->conn = c->id;
    if (u.account == ACCOUNT_BACKEND && e->options.check_password) {
        const struct c2s_password p = {.uid = u.uid,
                                       .userid = u.userid,
                                       .localpart = localpart,
                                       .domain = c->domain,
                                       .password = password};
        e->options.check_password(e->options.user, &p, c->es->shard->loop, on_backend, k);
    } else {
        check_local(k, &u, password);
    }
    credential_wipe(&u.credential);
    return true;
}
