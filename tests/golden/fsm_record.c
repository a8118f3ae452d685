/* fsm_record DIR: adds to the recorded logs of DIR (fsm-1.log, fsm-2.log, ...) one more with every command
 * that they do not cover yet, and writes its hashes. What is there already is not touched: a release that has
 * shipped gave those hashes. fsm_record --all DIR: throws the recording away and makes a new one, as long as
 * nothing has shipped.
 *
 * The commands are made from the descriptions of their messages: each field is filled by its name and type
 * from small sets of values, and what executes and, mostly, is not refused is kept. So a new command needs
 * nothing here, unless it can only succeed with values that no set has: then its field names get a set in
 * fill_*. It fails when a command was never accepted. */
#include "base/mem.h"
#include "golden.h"
#include "replication/levels.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    N_NODES = 6,
    N_NAMES = 14,
    WANT_DONE = 16, /* of each command */
    WANT_REFUSED = 3,
    MAKERS = 4,
    TRIES = 8000, /* to make a command that is not refused */
    DEEPEST = 3,
};

struct recorder {
    struct golden g;
    struct arena a;
    uint64_t seed, time_ms, term, next_uid, epoch[N_NODES + 1], seq[N_NODES + 1], publisher_epoch;
    bool has_session[N_NODES + 1], is_up;
    uint32_t for_node;             /* what is made next is about this one; 0: any */
    uint32_t behind;               /* a member that does not know the level; 0: none */
    uint32_t member, taker;        /* one that may serve, one that takes users (fsm_assign.c); 0: none */
    uint32_t node;                 /* of the command being made */
    uint64_t session_uid, session; /* of a row that is there */
    uint32_t session_place;
    uint64_t archived_uid, archived; /* of a message in an archive */
    uint32_t archived_place;
    char archived_from[512];
    unsigned level, at_level; /* the cluster's shall be, and is */
    unsigned n_refused[GOLDEN_CASES], n_failed[GOLDEN_CASES];
    struct buf log;
    uint64_t pep_uid; /* of the command being made */
};

/* xorshift64*: the same everywhere and for ever. */
static uint64_t rnd(struct recorder *r, uint64_t n)
{
    r->seed ^= r->seed >> 12;
    r->seed ^= r->seed << 25;
    r->seed ^= r->seed >> 27;
    return (r->seed * 0x2545f4914f6cdd1dull >> 33) % n;
}

/* ---- values by field name ---- */

static bool ends_in(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

static char *user_name(struct recorder *r)
{
    return arena_printf(&r->a, "u%u", (unsigned)rnd(r, N_NAMES));
}

static char *jid(struct recorder *r)
{
    return arena_printf(&r->a, "%s@%s", user_name(r), rnd(r, 6) ? "example.com" : "far.example");
}

static const char *setting(struct recorder *r, bool is_key)
{
    static const char *const settings[][2] = {
        {"assignment.mode", "none"},   {"assignment.mode", "balanced"}, {"assignment.mode", "active-standby"},
        {"limits.roster_items", "5"},  {"limits.roster_items", "2000"}, {"xmpp.offline_limit", "3"},
        {"xmpp.offline_limit", "100"}, {"node.n1.storage.scrub", "60"},
    };
    /* key and value are filled one after the other: the same pair */
    uint64_t pair = is_key ? rnd(r, n_elements(settings)) : r->term * 7 + r->time_ms / 1000;
    return settings[pair % n_elements(settings)][!is_key];
}

/* PEP: few users with few nodes and items, so that what is named is mostly there. */
static bool is_pep(const char *message)
{
    return !strncmp(message, "Imp__Pep", 8);
}

static char *fill_pep_string(struct recorder *r, const char *field)
{
    if (!strcmp(field, "node"))
        return arena_printf(&r->a, "node%u", (unsigned)rnd(r, 3));
    if (!strcmp(field, "id"))
        return arena_printf(&r->a, "item%u", (unsigned)rnd(r, 5));
    return ends_in(field, "jid") ? jid(r) : user_name(r);
}

static uint64_t fill_pep_number(struct recorder *r, const char *field)
{
    if (!strcmp(field, "uid")) {
        uint64_t back = 1 + rnd(r, 6);
        return r->pep_uid = back < r->next_uid ? r->next_uid - back : 1;
    }
    if (!strcmp(field, "actor"))
        return rnd(r, 5) || r->pep_uid < 2 ? r->pep_uid : r->pep_uid - 1;
    if (!strcmp(field, "fields"))
        return rnd(r, 6) ? 0 : 1;
    return rnd(r, 4);
}

static char *fill_string(struct recorder *r, const char *message, const char *field)
{
    static const char *const services[] = {"xmpp", "im", "sync", "https"};
    static const char *const alarms[] = {"DiskLow", "NodeDown", "TablesDiffer"};
    if (is_pep(message))
        return fill_pep_string(r, field);
    if (strstr(message, "Setting") && (!strcmp(field, "key") || !strcmp(field, "value")))
        return arena_strdup(&r->a, setting(r, !strcmp(field, "key")));
    if (strstr(message, "Alarm") && !strcmp(field, "name"))
        return arena_strdup(&r->a, rnd(r, 8) ? alarms[rnd(r, n_elements(alarms))] : "");
    if (strstr(message, "Node") && !strcmp(field, "name"))
        return arena_printf(&r->a, "n%u", 1 + (unsigned)rnd(r, N_NODES));
    if (!strcmp(field, "service"))
        return arena_strdup(&r->a, services[rnd(r, n_elements(services))]);
    if (!strcmp(field, "release"))
        return arena_strdup(&r->a, "1.0");
    if (ends_in(field, "address"))
        return arena_printf(&r->a, "10.0.0.%u", 1 + (unsigned)rnd(r, 9));
    if (!strcmp(field, "domain"))
        return r->g.index ? arena_strdup(&r->a, rnd(r, 3)   ? ""
                                                : rnd(r, 2) ? "example.com"
                                                            : user_name(r))
                          : arena_strdup(&r->a, "example.com");
    if (!strcmp(message, "Imp__ArchiveRetract") && r->archived && r->g.index % 4)
        return arena_strdup(&r->a, r->archived_from);
    if (!strcmp(field, "contact") || !strcmp(field, "from") || !strcmp(field, "to") || ends_in(field, "jid"))
        return jid(r);
    if (ends_in(field, "uuid") || ends_in(field, "uuids"))
        return arena_printf(&r->a, "uuid%u", (unsigned)rnd(r, 10));
    if (!strcmp(field, "origin"))
        return arena_printf(&r->a, "1.1.%u", (unsigned)rnd(r, 500));
    return user_name(r); /* localparts, words, names, texts */
}

/* Version, id of the key, nonce, the rest: two keys, so that some fit and some do not. */
static ProtobufCBinaryData fill_sealed(struct recorder *r, const char *field)
{
    bool is_id = !strcmp(field, "key_id");
    size_t n = is_id ? 8 : !strcmp(field, "old_head") ? 21 : 50;
    uint8_t *p = arena_zalloc(&r->a, n), id = rnd(r, 8) ? 'k' : 'o';
    memset(p, id, is_id ? n : 9);
    if (!is_id)
        p[0] = 1;
    return (ProtobufCBinaryData){n, p};
}

static ProtobufCBinaryData fill_bytes(struct recorder *r, const char *field)
{
    if (!strncmp(field, "sealed", 6) || !strcmp(field, "old_head") || !strcmp(field, "key_id"))
        return fill_sealed(r, field);
    size_t n = ends_in(field, "hash")                                    ? 32
               : !strcmp(field, "nonce") || !strcmp(field, "cluster_id") ? 16
                                                                         : 1 + rnd(r, 40);
    uint8_t *p = arena_zalloc(&r->a, n);
    p[0] = (uint8_t)rnd(r, !strcmp(field, "token_hash") || !strcmp(field, "hash") ? 8 : 200);
    for (size_t i = 1; n != 32 && n != 16 && i < n; i++)
        p[i] = (uint8_t)('a' + rnd(r, 26));
    return (ProtobufCBinaryData){n, p};
}

/* What names a resumable session: mostly one that there is. */
static bool fill_session(struct recorder *r, const char *message, const char *field, uint64_t *out)
{
    bool about = !strcmp(message, "Imp__SessionMarkItem") || !strcmp(message, "Imp__SessionRef") ||
                 !strcmp(message, "Imp__MessageStore");
    if (!about || !r->session || r->g.index % 4 == 0)
        return false;
    if (!strcmp(field, "session_place"))
        *out = r->session_place;
    else if (!strcmp(field, "session"))
        *out = r->session;
    else if (!strcmp(field, "uid") || !strcmp(field, "from_uid"))
        *out = r->session_uid;
    else
        return false;
    return true;
}

/* What names a message of an archive: mostly one that there is. */
static bool fill_archived(struct recorder *r, const char *message, const char *field, uint64_t *out)
{
    bool about = !strcmp(message, "Imp__ArchiveRetract") || !strcmp(message, "Imp__ArchiveTrimUser");
    if (!about || !r->archived || r->g.index % 4 == 0)
        return false;
    *out = !strcmp(field, "uid")     ? r->archived_uid
           : !strcmp(field, "index") ? r->archived
                                     : r->archived_place;
    return true;
}

static void look_for_archived(struct recorder *r, struct store_txn *t)
{
    struct store_iter i;
    unsigned nth = (unsigned)rnd(r, 8);
    r->archived = 0;
    store_iter_init(&i, t, TABLE_MESSAGE_INDEX, NULL);
    while (store_iter_next(&i)) {
        const Imp__MessageIndexRow *row = store_iter_row(&i, &r->a);
        struct key_reader k;
        struct key body;
        if (!row || !row->archived)
            continue;
        key_read(&k, i.key, i.n_key);
        r->archived_uid = key_read_u64(&k);
        r->archived = key_read_u64(&k);
        r->archived_place = key_read_u32(&k);
        key_init(&body);
        key_u64(&body, r->archived);
        key_u32(&body, r->archived_place);
        const Imp__MessageRow *m =
            row->message ? row->message : store_find_row(t, TABLE_MESSAGE, &body, &r->a);
        snprintf(r->archived_from, sizeof r->archived_from, "%s", m ? m->from : "");
        if (nth-- == 0)
            break;
    }
    store_iter_fini(&i);
}

static uint64_t fill_number(struct recorder *r, const char *message, const char *field)
{
    uint64_t of_session;
    if (fill_session(r, message, field, &of_session) || fill_archived(r, message, field, &of_session))
        return of_session;
    if (is_pep(message))
        return fill_pep_number(r, field);
    if (!strcmp(message, "Imp__NodeRow") && !strcmp(field, "id"))
        return 1;
    if (!strcmp(message, "Imp__NodeLeave"))
        return 2 + rnd(r, 60); /* the first ones are gone by then */
    if (!strcmp(field, "node") && r->for_node)
        return r->node = r->for_node;
    if (!strcmp(field, "node"))
        return r->node = rnd(r, 3) ? 1 + (uint32_t)rnd(r, N_NODES) : r->node;
    if (ends_in(field, "uid") || ends_in(field, "uids")) {
        uint64_t back = 1 + rnd(r, 60);
        return back < r->next_uid ? r->next_uid - back : 1;
    }
    if (!strcmp(field, "publisher_epoch") || !strcmp(message, "Imp__PublisherSet"))
        return rnd(r, 8) ? r->publisher_epoch : 1;
    if (ends_in(field, "epoch"))
        return rnd(r, 8) && r->node <= N_NODES ? r->epoch[r->node] : rnd(r, 4);
    if (!strcmp(field, "term"))
        return r->term - (rnd(r, 4) == 0);
    if (!strcmp(field, "expires_ms"))
        return r->time_ms + 1 + rnd(r, 20000);
    if (ends_in(field, "_ms"))
        return r->time_ms;
    if (ends_in(field, "port"))
        return 7800;
    if (!strcmp(field, "level"))
        return !strcmp(message, "Imp__FeatureLevel") ? r->level : level_known();
    if (!strcmp(field, "feature_level"))
        return LEVEL_FIRST;
    if (!strcmp(field, "run") || !strcmp(field, "severity"))
        return 1 + rnd(r, 2);
    if (!strcmp(message, "Imp__KeysStep") && !strcmp(field, "generation"))
        return 1000 + r->g.index;
    if (!strcmp(field, "index"))
        return r->g.index > 40 ? r->g.index - rnd(r, 40) : r->g.index;
    if (!strcmp(field, "place"))
        return rnd(r, 2);
    return rnd(r, 12);
}

/* ---- messages by their descriptions ---- */

static void *make_message(struct recorder *r, const ProtobufCMessageDescriptor *d, unsigned depth);

static size_t size_of(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_INT64:
        return 8;
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    default:
        return 4;
    }
}

static void fill_one(struct recorder *r, const ProtobufCMessageDescriptor *d,
                     const ProtobufCFieldDescriptor *f, void *at, unsigned depth)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_INT64:
        *(uint64_t *)at = fill_number(r, d->c_name, f->name);
        break;
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_INT32:
        *(uint32_t *)at = (uint32_t)fill_number(r, d->c_name, f->name);
        break;
    case PROTOBUF_C_TYPE_BOOL:
        *(protobuf_c_boolean *)at =
            strcmp(f->name, "witness") ? rnd(r, 3) == 0 : r->g.index && rnd(r, 8) == 0;
        break;
    case PROTOBUF_C_TYPE_ENUM: {
        const ProtobufCEnumDescriptor *e = f->descriptor;
        *(int *)at = e->values[rnd(r, e->n_values)].value;
        break;
    }
    case PROTOBUF_C_TYPE_STRING:
        *(char **)at = fill_string(r, d->c_name, f->name);
        break;
    case PROTOBUF_C_TYPE_BYTES:
        *(ProtobufCBinaryData *)at = fill_bytes(r, f->name);
        break;
    case PROTOBUF_C_TYPE_MESSAGE:
        *(void **)at = make_message(r, f->descriptor, depth + 1);
        break;
    default:
        fprintf(stderr, "fsm_record: %s.%s has a type that commands do not use so far\n", d->name, f->name);
        exit(1);
    }
}

static void *make_message(struct recorder *r, const ProtobufCMessageDescriptor *d, unsigned depth)
{
    char *m = arena_zalloc(&r->a, d->sizeof_message);
    protobuf_c_message_init(d, m);
    for (unsigned i = 0; i < d->n_fields && depth <= DEEPEST; i++) {
        const ProtobufCFieldDescriptor *f = &d->fields[i];
        if (f->label == PROTOBUF_C_LABEL_REPEATED) {
            size_t n = 1 + rnd(r, 3), size = size_of(f->type);
            char *list = arena_zalloc(&r->a, n * size);
            for (size_t k = 0; k < n; k++)
                fill_one(r, d, f, list + k * size, depth);
            *(size_t *)(m + f->quantifier_offset) = n;
            *(char **)(m + f->offset) = list;
        } else if (f->type != PROTOBUF_C_TYPE_MESSAGE || rnd(r, 4)) {
            fill_one(r, d, f, m + f->offset, depth);
        }
    }
    return m;
}

struct command_info {
    const char *name;
    unsigned body;
    bool in_session;
    unsigned level;
};
enum { NEEDS_SESSION_IN = 1, NEEDS_SESSION_OUT = 0 };
static const struct command_info commands[] = {
#define X(case_, member, session) {#member, IMP__COMMAND__BODY_##case_, NEEDS_SESSION_##session, LEVEL_FIRST},
#define X_AT(level, case_, member, session)                                                                  \
    {#member, IMP__COMMAND__BODY_##case_, NEEDS_SESSION_##session, level},
#include "replication/fsm/commands.def"
#undef X
};

/* ---- what must fit within one command ---- */

/* Few keys, so that a proof is often the one that is stored. */
static ProtobufCBinaryData make_key(struct recorder *r, size_t n_bytes)
{
    uint8_t *p = arena_alloc(&r->a, n_bytes);
    memset(p, 'a' + (int)rnd(r, 2), n_bytes);
    return (ProtobufCBinaryData){n_bytes, p};
}

static void fit_credential(struct recorder *r, Imp__CredentialRow *c)
{
    Imp__ScramKeys *keys[] = {c->sha1, c->sha256, c->sha512};
    static const size_t bytes[] = {20, 32, 64};
    for (size_t i = 0; i < n_elements(keys); i++)
        if (keys[i]) {
            keys[i]->stored_key = make_key(r, bytes[i]);
            keys[i]->server_key = make_key(r, bytes[i]);
        }
}

static void fit(struct recorder *r, Imp__Command *c)
{
    Imp__CredentialRow *credential = NULL;
    if (c->body_case == IMP__COMMAND__BODY_USER_ADD)
        credential = c->user_add->credential;
    else if (c->body_case == IMP__COMMAND__BODY_USER_PASSWORD)
        credential = c->user_password->credential;
    else if (c->body_case == IMP__COMMAND__BODY_CREDENTIAL_ADD)
        credential = c->credential_add->credential;
    if (credential)
        fit_credential(r, credential);
    if (c->body_case == IMP__COMMAND__BODY_CREDENTIAL_ADD)
        c->credential_add->proof = make_key(r, rnd(r, 2) ? 20 : 32);
    if (c->body_case == IMP__COMMAND__BODY_BLOCK_SET) { /* one of the three */
        uint64_t which = rnd(r, 5);
        c->block_set->unblock_all = which == 0;
        if (which != 1)
            c->block_set->n_unblock_jid = 0;
        if (which < 2)
            c->block_set->n_block_jid = 0;
    }
}

static void fit_node(struct recorder *r, Imp__Command *c)
{
    if (c->body_case == IMP__COMMAND__BODY_PUBLISHER_SET && r->member && rnd(r, 2))
        c->publisher_set->node = r->member;
    if (c->body_case == IMP__COMMAND__BODY_NODE_DRAIN && r->for_node)
        c->node_drain->drained = false; /* ensure_taker */
}

static Imp__Proposal *make_proposal(struct recorder *r, const struct command_info *info)
{
    Imp__Proposal *p = arena_alloc(&r->a, sizeof(*p));
    Imp__Command *c = arena_alloc(&r->a, sizeof(*c));
    const ProtobufCFieldDescriptor *f =
        protobuf_c_message_descriptor_get_field(&imp__command__descriptor, info->body);
    imp__proposal__init(p);
    imp__command__init(c);
    p->command = c;
    c->time_ms = r->time_ms - (rnd(r, 10) ? 0 : 500); /* clocks of several nodes */
    if (info->in_session) {
        p->node = 1 + (uint32_t)rnd(r, N_NODES);
        if (!r->has_session[p->node] || r->for_node || rnd(r, 2))
            p->node = 1;
        p->epoch = r->epoch[p->node];
        p->seq = r->seq[p->node] + (rnd(r, 30) == 0);
    }
    r->node = p->node ? p->node : 1 + (uint32_t)rnd(r, N_NODES);
    c->body_case = info->body;
    *(void **)((char *)c + f->offset) = make_message(r, f->descriptor, 0);
    fit(r, c);
    fit_node(r, c);
    if (info->in_session && rnd(r, 4) == 0) {
        c->audited = arena_alloc(&r->a, sizeof(*c->audited));
        imp__audited__init(c->audited);
        c->audited->who = (char *)"root";
        c->audited->command = user_name(r);
    }
    return p;
}

/* ---- keeping what is about something ---- */

static void look_for_session(struct recorder *r, struct store_txn *t)
{
    struct store_iter i;
    uint64_t nth = r->g.index % 5;
    r->session = 0;
    store_iter_init(&i, t, TABLE_SESSION, NULL);
    while (store_iter_next(&i)) {
        struct key_reader k;
        key_read(&k, i.key, i.n_key);
        r->session_uid = key_read_u64(&k);
        r->session = key_read_u64(&k);
        r->session_place = key_read_u32(&k);
        if (nth-- == 0)
            break;
    }
    store_iter_fini(&i);
}

static void look_for_nodes(struct recorder *r, struct store_txn *t, struct arena *a)
{
    struct store_iter i;
    r->behind = r->member = r->taker = 0;
    store_iter_init(&i, t, TABLE_NODE, NULL);
    while (store_iter_next(&i)) {
        const Imp__NodeRow *row = store_iter_row(&i, a);
        if (!row)
            break;
        if (!r->behind && row->level < r->level)
            r->behind = row->id;
        if (row->state != IMP__NODE_STATE__NODE_MEMBER || row->witness || row->leaving || row->lost)
            continue;
        if (!r->member || r->g.index % 3 == 0) /* not always the same */
            r->member = row->id;
        if (!row->drained && (!r->taker || r->g.index % 3 == 0))
            r->taker = row->id;
    }
    store_iter_fini(&i);
}

/* Epochs and sequences as the store has them, so that most proposals execute. */
static void look(struct recorder *r)
{
    struct store_reader *reader = store_reader_new(r->g.store);
    struct store_txn *t = store_read_txn(reader);
    struct arena a;
    struct key k;
    arena_init(&a);
    key_init(&k);
    const Imp__ClusterRow *cluster = store_find_row(t, TABLE_CLUSTER, &k, &a);
    r->at_level = cluster ? cluster->feature_level : 0;
    r->next_uid = cluster ? cluster->next_uid : 1;
    r->publisher_epoch = cluster ? cluster->publisher_epoch : 1;
    for (uint32_t id = 1; id <= N_NODES; id++) {
        key_init(&k);
        key_u32(&k, id);
        const Imp__NodeRow *n = store_find_row(t, TABLE_NODE, &k, &a);
        const Imp__ProposerRow *p = store_find_row(t, TABLE_PROPOSER, &k, &a);
        r->epoch[id] = n ? n->epoch : 0;
        r->seq[id] = p ? p->next_seq : 0;
        r->has_session[id] = n && p && n->epoch == p->epoch;
        if (id == 1)
            r->is_up = n && n->up;
    }
    look_for_nodes(r, t, &a);
    look_for_session(r, t);
    look_for_archived(r, t);
    arena_fini(&a);
    store_reader_free(reader);
}

/* In a transaction that is thrown away: would it execute, and how? */
static bool is_worth(struct recorder *r, const Imp__Proposal *p, bool want_refusal)
{
    const Imp__Command *c = p->command;
    if ((c->body_case == IMP__COMMAND__BODY_NODE_REMOVE && c->node_remove->node == 1) ||
        (c->body_case == IMP__COMMAND__BODY_NODE_LEAVE && c->node_leave->node == 1) ||
        (c->body_case == IMP__COMMAND__BODY_RECOVER && c->recover->node != 1 && !want_refusal))
        return false; /* the session that carries most of the rest */
    struct store_txn *t = store_begin(r->g.store);
    struct fsm_input in = {.index = r->g.index + 1, .term = r->term};
    struct fsm_result result = {0};
    bool executed = fsm_execute(t, p, &in, &r->a, &result);
    store_abort(t);
    return executed && want_refusal == (result.code != 0);
}

static void keep(struct recorder *r, Imp__Proposal *p)
{
    Imp__Entry e = IMP__ENTRY__INIT;
    e.proposals = &p;
    e.n_proposals = 1;
    size_t n = imp__entry__get_packed_size(&e);
    uint8_t *bytes = arena_alloc(&r->a, n);
    imp__entry__pack(&e, bytes);
    buf_add_u32(&r->log, (uint32_t)n);
    buf_add_u64(&r->log, r->term);
    buf_add(&r->log, bytes, n);
    if (golden_apply(&r->g, r->term, bytes, n)) {
        fprintf(stderr, "fsm_record: an entry made here cannot be applied\n");
        exit(1);
    }
}

static bool record_one(struct recorder *r, const struct command_info *info, bool want_refusal)
{
    /* what did not succeed before hardly will */
    int tries = r->n_failed[info->body] ? TRIES / 8 : TRIES;
    for (int i = 0; i < tries; i++) {
        arena_reset(&r->a);
        if (i % 16 == 0)
            r->time_ms += rnd(r, 2000);
        Imp__Proposal *p = make_proposal(r, info);
        if (!is_worth(r, p, want_refusal))
            continue;
        keep(r, p);
        look(r);
        r->term += rnd(r, 50) == 0;
        r->n_refused[info->body] += want_refusal;
        return true;
    }
    r->n_failed[info->body]++;
    return false;
}

/* Most commands go through node 1's session, which node_down ends, and touch users who have their home there.
 */
static void ensure_session(struct recorder *r)
{
    const struct command_info enter = {"node_register", IMP__COMMAND__BODY_NODE_REGISTER, false, LEVEL_FIRST};
    const struct command_info up = {"node_up", IMP__COMMAND__BODY_NODE_UP, true, LEVEL_FIRST};
    r->for_node = 1;
    if (!r->has_session[1])
        record_one(r, &enter, false);
    if (r->has_session[1] && !r->is_up)
        record_one(r, &up, false);
    r->for_node = 0;
}

/* Whoever is to get users needs a node that takes them. */
static void ensure_taker(struct recorder *r)
{
    const struct command_info undrain = {"node_drain", IMP__COMMAND__BODY_NODE_DRAIN, true, LEVEL_FIRST};
    if (r->taker || !r->member)
        return;
    r->for_node = r->member;
    record_one(r, &undrain, false);
    r->for_node = 0;
}

/* What others need: more of these. */
static bool is_maker(const char *name)
{
    return ends_in(name, "_add") || ends_in(name, "_join") || ends_in(name, "_users") ||
           !strcmp(name, "message_store");
}

/* Members that have not registered since they know the level, lost ones too, hold it: they register or go. */
static void raise_level(struct recorder *r)
{
    const struct command_info raise = {"feature_level", IMP__COMMAND__BODY_FEATURE_LEVEL, true, LEVEL_FIRST},
                              enter = {"node_register", IMP__COMMAND__BODY_NODE_REGISTER, false, LEVEL_FIRST},
                              remove = {"node_remove", IMP__COMMAND__BODY_NODE_REMOVE, true, LEVEL_FIRST};
    if (!r->at_level || r->at_level >= r->level)
        return;
    for (uint32_t before = 0; r->behind && r->behind != before;) {
        before = r->behind;
        ensure_session(r);
        r->for_node = r->behind;
        if (r->behind > N_NODES || !record_one(r, &enter, false))
            record_one(r, &remove, false);
        r->for_node = 0;
    }
    ensure_session(r);
    record_one(r, &raise, false);
}

/* In rounds, so that commands meet the rows of all others. */
static void record(struct recorder *r, const bool wanted[GOLDEN_CASES])
{
    raise_level(r);
    for (int round = 0; round < WANT_DONE; round++) {
        for (size_t i = 0; i < n_elements(commands); i++) {
            const struct command_info *c = &commands[i];
            /* after it there are few nodes left */
            bool early = c->body == IMP__COMMAND__BODY_RECOVER && round < WANT_DONE - 1;
            if (!wanted[c->body] || c->level > r->level || early)
                continue;
            if (c->in_session) {
                ensure_session(r);
                ensure_taker(r);
            }
            bool over =
                (c->body == IMP__COMMAND__BODY_BOOTSTRAP && round > 0) ||
                (c->body == IMP__COMMAND__BODY_RECOVER && round < WANT_DONE - 1); /* it ends the others */
            for (int k = 0; !over && k < (is_maker(c->name) ? MAKERS : 1); k++)
                record_one(r, c, false);
            if (r->n_refused[c->body] < WANT_REFUSED && round % 4 == 3)
                record_one(r, c, true);
        }
    }
}

/* ---- files ---- */

static int write_file(const char *path, const struct buf *b)
{
    FILE *f = fopen(path, "wb");
    bool ok = f && fwrite(b->data, 1, b->n, f) == b->n;
    if (f && fclose(f))
        ok = false;
    if (!ok)
        fprintf(stderr, "fsm_record: %s cannot be written\n", path);
    return ok ? 0 : 1;
}

static char *path_of(const char *dir, unsigned n, const char *suffix)
{
    return mem_printf("%s/fsm-%u.%s", dir, n, suffix);
}

static int replay_recorded(struct recorder *r, const char *dir, unsigned *n, struct err_ctx *err)
{
    for (*n = 1;; ++*n) {
        char *path = path_of(dir, *n, "log");
        int rc = access(path, F_OK) ? ERR_NOTFOUND : golden_play(&r->g, path, NULL, err);
        mem_free(path);
        if (rc)
            return rc == ERR_NOTFOUND ? 0 : rc;
    }
}

/* The hashes as the player gives them: everything once more, from nothing. */
static int write_hashes(const char *dir, unsigned last, struct err_ctx *err)
{
    struct golden g;
    struct buf out = {0};
    int rc = golden_open(&g, err);
    for (unsigned n = 1; !rc && n <= last; n++) {
        char *path = path_of(dir, n, "log");
        buf_reset(&out);
        rc = golden_play(&g, path, &out, err);
        mem_free(path);
    }
    char *path = path_of(dir, last, "hashes");
    if (!rc)
        rc = write_file(path, &out);
    mem_free(path);
    buf_fini(&out);
    golden_close(&g);
    return rc;
}

/* False: one was never accepted. */
static bool say_covered(const struct recorder *r)
{
    bool all = true;
    for (size_t i = 0; i < n_elements(commands); i++) {
        unsigned done = r->g.n_done[commands[i].body], executed = r->g.n_executed[commands[i].body];
        printf("%-20s %3u executed, %3u not refused%s\n", commands[i].name, executed, done,
               done ? "" : ": give its fields values in fill_*");
        all &= done > 0;
    }
    return all;
}

/* One segment: DIR/fsm-N.log and its hashes. */
static int record_segment(struct recorder *r, const char *dir, unsigned n, const bool wanted[GOLDEN_CASES],
                          struct err_ctx *err)
{
    r->seed = 0x9e3779b97f4a7c15ull * n;
    r->time_ms = 1700000000000ull + n * 1000000000ull;
    r->term = r->g.term + 1;
    memset(r->n_refused, 0, sizeof(r->n_refused));
    look(r);
    buf_reset(&r->log);
    buf_adds(&r->log, GOLDEN_MAGIC);
    record(r, wanted);
    char *path = path_of(dir, n, "log");
    int rc = write_file(path, &r->log);
    mem_free(path);
    return rc ? rc : write_hashes(dir, n, err);
}

/* All anew: a segment for each feature level, so that every level's commands are applied at theirs and above.
 */
static int record_all(struct recorder *r, const char *dir, struct err_ctx *err)
{
    bool wanted[GOLDEN_CASES];
    int rc = 0;
    memset(wanted, 1, sizeof(wanted));
    for (r->level = LEVEL_FIRST; !rc && r->level <= level_known(); r->level++)
        rc = record_segment(r, dir, r->level, wanted, err);
    return rc;
}

static int record_missing(struct recorder *r, const char *dir, struct err_ctx *err)
{
    bool wanted[GOLDEN_CASES] = {0}, any = false;
    unsigned n;
    int rc = replay_recorded(r, dir, &n, err);
    if (rc)
        return rc;
    look(r);
    for (size_t i = 0; i < n_elements(commands); i++)
        any |= wanted[commands[i].body] = !r->g.n_done[commands[i].body];
    if (!any && r->at_level == level_known()) {
        printf("every command is covered; nothing to record\n");
        return 0;
    }
    if (r->at_level < level_known())
        memset(wanted, 1, sizeof(wanted));
    r->level = level_known();
    return record_segment(r, dir, n, wanted, err);
}

static void remove_recorded(const char *dir)
{
    for (unsigned i = 1;; i++) {
        char *log = path_of(dir, i, "log"), *hashes = path_of(dir, i, "hashes");
        bool gone = unlink(log) != 0;
        unlink(hashes);
        mem_free(log);
        mem_free(hashes);
        if (gone)
            return;
    }
}

int main(int argc, char **argv)
{
    bool all = argc == 3 && !strcmp(argv[1], "--all");
    const char *dir = argv[argc - 1];
    struct err_ctx err = {0};
    if ((argc != 2 && !all) || dir[0] == '-') {
        fprintf(stderr, "usage: fsm_record [--all] DIR\n");
        return 2;
    }
    struct recorder *r = mem_new(struct recorder);
    arena_init(&r->a);
    int rc = golden_open(&r->g, &err);
    if (!rc && all)
        remove_recorded(dir);
    if (!rc)
        rc = all ? record_all(r, dir, &err) : record_missing(r, dir, &err);
    if (!rc && !say_covered(r)) {
        fprintf(stderr, "fsm_record: what is said to be not refused 0 times is not covered\n");
        rc = 1;
    }
    if (err.text[0])
        fprintf(stderr, "fsm_record: %s\n", err.text);
    golden_close(&r->g);
    arena_fini(&r->a);
    buf_fini(&r->log);
    mem_free(r);
    return rc ? 1 : 0;
}
