/* Change of the cluster key and the CA, on every node: members fetch the new key from one another, the leader
 * takes the change from phase to phase (docs/adr/0008-key-rotation.md). All of its state is in the store and
 * in the ring on disk, so whoever leads goes on, after any crash. Control loop. */
#include "cluster/certs.h"
#include "node/enrol.h"
#include "node/node_impl.h"
#include <stdio.h>
#include <string.h>

enum {
    ASK_EVERY_MS = 500,
    ASK_TIMEOUT_MS = 2000,
    RETRY_MS = 500,
    BEGIN_MS = 60 * 1000,
    CA_EVERY_MS = 60 * 1000,
    RESEAL_ITEMS = 50,
    RESEAL_BYTES = 256 * 1024,
};

struct keys {
    bool asking, in_flight;
    uint64_t ask_ms, retry_ms, ca_ms;
    uint64_t drawn_ms; /* a key of ours that KeysBegin is about to name; 0: none */
    unsigned turn;     /* whom to ask next */
};

static Imp__KeysRow *read_row(struct node *n, struct arena *a)
{
    struct key k;
    key_init(&k);
    Imp__ClusterRow *row = store_find_row(control_read(n), TABLE_CLUSTER, &k, a);
    return row && row->keys && row->keys->key_id.len == SEAL_KEY_ID_BYTES ? row->keys : NULL;
}

static bool has_key(const struct node *n, const Imp__KeysRow *row)
{
    return seal_ring_find(&n->ring, row->key_id.data) >= 0;
}

bool keys_is_waiting(struct node *n)
{
    struct arena a;
    arena_init(&a);
    Imp__KeysRow *row = read_row(n, &a);
    bool waiting = row && !has_key(n, row);
    arena_fini(&a);
    return waiting;
}

/* The ring as it shall be is on disk before anything relies on it; if it cannot be written the old one stays.
 */
static int store_ring(struct node *n, const struct seal_ring *ring)
{
    struct err_ctx err = {0};
    int rc = seal_ring_store(ring, &n->dir, &err);
    if (rc) {
        log_error(n->log, "the cluster keys cannot be stored: %s", err.text);
        return rc;
    }
    n->ring = *ring;
    feature_new_key(n);
    return 0;
}

/* ---- members give the key to members ---- */

/* The link has proved who asks (identity_of_peer); who leaves gets nothing new. */
static void on_asked(void *user, struct link_request *request, uint32_t from, const uint8_t *data,
                     size_t n_bytes)
{
    struct node *n = user;
    const struct member *m = members_find(n->members, from);
    int at = n_bytes == SEAL_KEY_ID_BYTES ? seal_ring_find(&n->ring, data) : -1;
    bool allowed = m && !m->leaving && !m->lost;
    if (!allowed)
        log_warning(n->log, "node %u asked for a cluster key, but is no member that stays", from);
    if (!allowed || at < 0)
        link_answer(request, allowed ? ERR_NOTFOUND : ERR_DENIED, NULL, 0);
    else
        link_answer(request, 0, n->ring.key[at], SEAL_KEY_BYTES);
}

static void take_key(struct node *n, const uint8_t *key)
{
    struct seal_ring ring = n->ring;
    seal_ring_add(&ring, key);
    if (!store_ring(n, &ring)) {
        log_notice(n->log, "the new cluster key was received");
        control_touch(n, DIRTY_CA | DIRTY_CERTS | DIRTY_SETTINGS);
    }
    seal_ring_wipe(&ring);
}

static void on_told(void *user, int code, const uint8_t *data, size_t n_bytes)
{
    struct node *n = user;
    struct arena a;
    uint8_t id[SEAL_KEY_ID_BYTES];
    n->keys->asking = false;
    if (code || n_bytes != SEAL_KEY_BYTES || n->stopping)
        return;
    arena_init(&a);
    Imp__KeysRow *row = read_row(n, &a);
    seal_key_id(id, data);
    if (row && !memcmp(id, row->key_id.data, sizeof(id)))
        take_key(n, data);
    arena_fini(&a);
}

/* One member after the other. */
static void ask(struct node *n, const Imp__KeysRow *row, uint64_t now_ms)
{
    struct keys *k = n->keys;
    if (k->asking || now_ms < k->ask_ms)
        return;
    k->ask_ms = now_ms + ASK_EVERY_MS;
    for (unsigned i = 0; i < n->members->n; i++) {
        const struct member *m = &n->members->list[k->turn++ % n->members->n];
        if (m->id == n->id.node || !links_can_call(n->links, m->id))
            continue;
        k->asking = true;
        link_call(n->links, m->id, "cluster-key", row->key_id.data, row->key_id.len, ASK_TIMEOUT_MS, on_told,
                  n);
        return;
    }
}

/* While KeysBegin may still be on its way the key that it names stays. */
static bool may_forget(struct node *n, const Imp__KeysRow *row, uint64_t now_ms)
{
    if (row->phase == IMP__KEYS_PHASE__KEYS_REISSUE)
        return true;
    return row->phase == IMP__KEYS_PHASE__KEYS_DONE &&
           (!n->keys->drawn_ms || now_ms > n->keys->drawn_ms + BEGIN_MS);
}

/* From RESEAL on everything is sealed with the new key; from REISSUE on nothing is left that the old ones
 * open. */
static void follow(struct node *n, const Imp__KeysRow *row, uint64_t now_ms)
{
    struct seal_ring ring = n->ring;
    bool changed =
        row->phase != IMP__KEYS_PHASE__KEYS_DISTRIBUTE && seal_ring_prefer(&ring, row->key_id.data);
    if (may_forget(n, row, now_ms))
        changed |= seal_ring_forget_others(&ring);
    if (changed && !store_ring(n, &ring))
        log_notice(n->log,
                   ring.n == 1 ? "the old cluster key was dropped" : "the new cluster key seals from now on");
    seal_ring_wipe(&ring);
}

/* ---- the leader's part ---- */

static void on_proposed(void *user, const struct proposal_result *result)
{
    struct node *n = user;
    n->keys->in_flight = false;
    if (result->code) {
        n->keys->retry_ms = clock_monotonic_ms() + RETRY_MS;
        log_info(n->log, "change of the keys: %s", *result->text ? result->text : err_text(result->code));
    }
}

static void propose(struct node *n, Imp__Command *command)
{
    n->keys->in_flight = !control_submit(n, command, on_proposed, n);
}

static void propose_step(struct node *n, const Imp__KeysRow *row, Imp__KeysPhase phase, uint32_t generation,
                         Imp__CaRow *ca)
{
    Imp__Command command = IMP__COMMAND__INIT;
    Imp__KeysStep step = IMP__KEYS_STEP__INIT;
    step.key_id = row->key_id;
    step.phase = phase;
    step.generation = generation;
    step.ca = ca;
    command.body_case = IMP__COMMAND__BODY_KEYS_STEP;
    command.keys_step = &step;
    propose(n, &command);
}

static bool is_connected(const struct node *n, uint32_t node)
{
    for (unsigned i = 0; i < n->status.n_peers; i++)
        if (n->status.peers[i].node == node)
            return n->status.peers[i].connected;
    return node == n->id.node;
}

/* Every member that answers, and a majority of all: a key that few have could be lost with them. */
static bool is_distributed(const struct node *n, const Imp__KeysRow *row)
{
    unsigned have = 0, all = 0;
    for (unsigned i = 0; i < n->members->n; i++) {
        const struct member *m = &n->members->list[i];
        bool has = m->has_key && !memcmp(m->key_id, row->key_id.data, sizeof(m->key_id));
        if (m->lost || m->leaving)
            continue;
        if (!has && is_connected(n, m->id))
            return false;
        all++;
        have += has;
    }
    return have > all / 2;
}

static uint32_t newest_ca(struct node *n)
{
    uint32_t newest = 0;
    struct key all;
    struct store_iter it;
    key_init(&all);
    store_iter_init(&it, control_read(n), TABLE_CA, &all);
    while (store_iter_next(&it)) {
        struct key_reader r;
        key_read(&r, it.key, it.n_key);
        newest = key_read_u32(&r);
    }
    store_iter_fini(&it);
    return newest;
}

static void begin_reseal(struct node *n, const Imp__KeysRow *row)
{
    struct seal_ring ring = n->ring;
    struct err_ctx err = {0};
    struct buf sealed = {0};
    char *key = NULL, *cert = NULL;
    uint32_t generation = newest_ca(n) + 1;
    seal_ring_prefer(&ring, row->key_id.data);
    int rc = identity_new_key(&key, &err);
    if (!rc)
        rc = identity_new_ca(&cert, key, n->id.cluster_id, generation, clock_wall_ms(), &err);
    if (!rc)
        rc = seal(&ring, "ca", key, strlen(key), &sealed, &err);
    if (rc) {
        log_error(n->log, "change of the keys: %s", err.text);
    } else {
        Imp__CaRow ca = IMP__CA_ROW__INIT;
        ca.cert_pem = cert;
        ca.sealed_key = (ProtobufCBinaryData){sealed.n, (uint8_t *)sealed.data};
        ca.active = true;
        log_notice(n->log,
                   "change of the keys: all members that answer have the new key; generation %u of the CA",
                   generation);
        propose_step(n, row, IMP__KEYS_PHASE__KEYS_RESEAL, generation, &ca);
    }
    identity_free_key(key);
    mem_free(cert);
    buf_fini(&sealed);
    seal_ring_wipe(&ring);
}

struct batch {
    Imp__ResealItem items[RESEAL_ITEMS], *list[RESEAL_ITEMS];
    unsigned n;
    size_t n_bytes;
    struct arena a;
};

static bool is_sealed_with(const ProtobufCBinaryData *sealed, const Imp__KeysRow *row)
{
    return sealed->len < SEAL_HEAD_BYTES || !memcmp(sealed->data + 1, row->key_id.data, SEAL_KEY_ID_BYTES);
}

static ProtobufCBinaryData copy_bytes(struct batch *b, const void *data, size_t n_bytes)
{
    return (ProtobufCBinaryData){n_bytes, arena_memdup(&b->a, data, n_bytes)};
}

static void add_item(struct node *n, struct batch *b, bool cert, const char *name, const char *purpose,
                     const ProtobufCBinaryData *sealed)
{
    struct err_ctx err = {0};
    struct buf out = {0};
    if (seal_again(&n->ring, &n->ring, purpose, sealed->data, sealed->len, &out, &err)) {
        log_error(n->log, "change of the keys: %s: %s", purpose, err.text);
    } else {
        Imp__ResealItem *item = &b->items[b->n];
        imp__reseal_item__init(item);
        item->cert = cert;
        item->name = arena_strdup(&b->a, name);
        item->old_head = copy_bytes(b, sealed->data, SEAL_HEAD_BYTES);
        item->sealed = copy_bytes(b, out.data, out.n);
        b->list[b->n++] = item;
        b->n_bytes += out.n;
    }
    buf_fini(&out);
}

static void collect(struct node *n, struct batch *b, enum table table, const Imp__KeysRow *row)
{
    struct key all;
    struct store_iter it;
    key_init(&all);
    store_iter_init(&it, control_read(n), table, &all);
    while (b->n < RESEAL_ITEMS && b->n_bytes < RESEAL_BYTES && store_iter_next(&it)) {
        struct key_reader r;
        char purpose[400];
        key_read(&r, it.key, it.n_key);
        const char *name = key_read_str(&r, &b->a);
        const void *x = store_iter_row(&it, &b->a);
        bool cert = table == TABLE_CERT;
        if (r.failed || !x)
            continue;
        const ProtobufCBinaryData *sealed =
            cert ? &((const Imp__CertRow *)x)->sealed_key : &((const Imp__SettingRow *)x)->sealed;
        if (is_sealed_with(sealed, row))
            continue;
        int id = cert ? 0 : setting_find(name, NULL);
        if (cert)
            certs_purpose(purpose, name);
        else
            snprintf(purpose, sizeof(purpose), "setting:%s", id < 0 ? name : setting_defs[id].key);
        add_item(n, b, cert, name, purpose, sealed);
    }
    store_iter_fini(&it);
}

static void reseal(struct node *n, const Imp__KeysRow *row)
{
    struct batch *b = mem_new(struct batch);
    arena_init(&b->a);
    collect(n, b, TABLE_SETTING, row);
    collect(n, b, TABLE_CERT, row);
    if (b->n) {
        Imp__Command command = IMP__COMMAND__INIT;
        Imp__Reseal body = IMP__RESEAL__INIT;
        body.n_items = b->n;
        body.items = b->list;
        command.body_case = IMP__COMMAND__BODY_RESEAL;
        command.reseal = &body;
        propose(n, &command);
    } else {
        log_notice(n->log, "change of the keys: all secrets are sealed with the new key");
        propose_step(n, row, IMP__KEYS_PHASE__KEYS_REISSUE, 0, NULL);
    }
    arena_fini(&b->a);
    mem_free(b);
}

static bool is_reissued(struct node *n, const Imp__KeysRow *row)
{
    char domain[256];
    for (unsigned i = 0; i < n->members->n; i++) {
        const struct member *m = &n->members->list[i];
        if (!m->lost && (m->ca_generation != n->ca_generation || !m->has_key ||
                         memcmp(m->key_id, row->key_id.data, sizeof(m->key_id)) != 0))
            return false;
    }
    return !certs_needs_signing(domain, control_read(n), clock_wall_ms());
}

static void lead(struct node *n, const Imp__KeysRow *row)
{
    if (row->phase == IMP__KEYS_PHASE__KEYS_DISTRIBUTE && is_distributed(n, row)) {
        begin_reseal(n, row);
    } else if (row->phase == IMP__KEYS_PHASE__KEYS_RESEAL) {
        reseal(n, row);
    } else if (row->phase == IMP__KEYS_PHASE__KEYS_REISSUE && is_reissued(n, row)) {
        log_notice(n->log,
                   "change of the keys: every member has the new key and a certificate of the new CA");
        propose_step(n, row, IMP__KEYS_PHASE__KEYS_DONE, 0, NULL);
    }
}

/* ---- begin ---- */

int keys_begin(void *user, uint8_t key_id[SEAL_KEY_ID_BYTES], struct err_ctx *err)
{
    struct node *n = user;
    struct arena a;
    arena_init(&a);
    const Imp__KeysRow *row = read_row(n, &a);
    bool is_idle = !row || row->phase == IMP__KEYS_PHASE__KEYS_DONE;
    /* Nothing is sealed with it yet: a key that was lost with the leader that drew it is given up. */
    bool is_lost = row && row->phase == IMP__KEYS_PHASE__KEYS_DISTRIBUTE && !has_key(n, row);
    arena_fini(&a);
    if (!is_idle && !is_lost)
        return err_set(err, ERR_CONFLICT, "the keys are being changed already");
    struct seal_ring ring = n->ring;
    uint8_t key[SEAL_KEY_BYTES];
    random_bytes(key, sizeof(key));
    seal_key_id(key_id, key);
    seal_ring_add(&ring, key);
    int rc = store_ring(n, &ring);
    n->keys->drawn_ms = clock_monotonic_ms();
    mem_wipe(key, sizeof(key));
    seal_ring_wipe(&ring);
    return rc ? err_set(err, rc, "the new key cannot be stored") : 0;
}

/* Where two thirds of the CA's own life are over the change begins by itself. */
static void begin_when_due(struct node *n, uint64_t now_ms)
{
    struct identity_cert ca;
    uint8_t key_id[SEAL_KEY_ID_BYTES];
    struct err_ctx err = {0};
    if (now_ms < n->keys->ca_ms)
        return;
    n->keys->ca_ms = now_ms + CA_EVERY_MS;
    if (identity_read_cert(&ca, n->ca_pem, NULL) || !identity_needs_renewal(&ca, clock_wall_ms()) ||
        keys_begin(n, key_id, &err))
        return;
    log_notice(n->log, "the cluster's CA is due: the keys are changed");
    Imp__Command command = IMP__COMMAND__INIT;
    Imp__KeysBegin begin = IMP__KEYS_BEGIN__INIT;
    begin.key_id = (ProtobufCBinaryData){sizeof(key_id), key_id};
    command.body_case = IMP__COMMAND__BODY_KEYS_BEGIN;
    command.keys_begin = &begin;
    propose(n, &command);
}

void keys_step(struct node *n, uint64_t now_ms)
{
    struct arena a;
    arena_init(&a);
    const Imp__KeysRow *row = read_row(n, &a);
    bool leads =
        n->status.role == REPLICA_LEADER && n->status.applied_term == n->status.term && !n->keys->in_flight;
    if (row && !has_key(n, row))
        ask(n, row, now_ms);
    else if (row)
        follow(n, row, now_ms);
    if (leads && row && row->phase != IMP__KEYS_PHASE__KEYS_DONE && has_key(n, row) &&
        now_ms >= n->keys->retry_ms)
        lead(n, row);
    else if (leads && (!row || row->phase == IMP__KEYS_PHASE__KEYS_DONE))
        begin_when_due(n, now_ms);
    arena_fini(&a);
}

void keys_current(const struct node *n, uint8_t id[SEAL_KEY_ID_BYTES])
{
    struct arena a;
    arena_init(&a);
    const Imp__KeysRow *row = read_row((struct node *)n, &a);
    if (row && has_key(n, row))
        memcpy(id, row->key_id.data, SEAL_KEY_ID_BYTES);
    else
        seal_key_id(id, n->ring.key[0]);
    arena_fini(&a);
}

void keys_start(struct node *n)
{
    n->keys = mem_new(struct keys);
    links_handle_call(n->links, "cluster-key", on_asked, n);
}
