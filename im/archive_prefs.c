/* Who wants what in the archive: the preferences of users as they were last needed, one small table per
 * shard. Who has none costs nothing but a look into it. */
#include "im/archive.h"
#include "im/im_impl.h"
#include "im/jid_rows.h"
#include "im/payload.h"
#include "replication/levels.h"
#include "replication/settings.h"
#include <string.h>

enum { SLOTS = 1024 };

struct prefs {
    uint64_t uid; /* 0: the slot is free */
    bool has_row;
    Imp__ArchivePrefsRow *row; /* in ARENA */
    struct arena arena;
};

struct archive_cache {
    bool has_mode;
    Imp__ArchiveMode mode; /* of those who have not said */
    struct archive_retractions *retractions;
    struct prefs slots[SLOTS];
};

static void drop(struct prefs *p)
{
    if (p->has_row)
        arena_fini(&p->arena);
    p->uid = 0;
    p->has_row = false;
    p->row = NULL;
}

void archive_shard_init(struct shard *s)
{
    s->archive = mem_new(struct archive_cache);
    s->archive->retractions = archive_retractions_new();
}

void archive_forget(struct shard *s)
{
    s->archive->has_mode = false;
    for (size_t i = 0; i < SLOTS; i++)
        drop(&s->archive->slots[i]);
}

void archive_shard_fini(struct shard *s)
{
    if (!s->archive)
        return;
    archive_forget(s);
    archive_retractions_free(s->archive->retractions);
    mem_free(s->archive);
    s->archive = NULL;
}

struct archive_retractions *archive_retractions(struct shard *s)
{
    return s->archive->retractions;
}

void archive_on_feed(struct shard *s, const struct feed_event *event)
{
    struct key_reader k;
    key_read(&k, event->key.bytes, event->key.n);
    uint64_t uid = key_read_u64(&k);
    struct prefs *p = &s->archive->slots[uid % SLOTS];
    if (!k.failed && p->uid == uid)
        drop(p);
}

Imp__ArchiveMode archive_mode(struct shard *s)
{
    struct archive_cache *c = s->archive;
    if (c->has_mode)
        return c->mode;
    struct arena a;
    arena_init(&a);
    const char *mode = setting_string(shard_txn(s), NULL, SETTING_ARCHIVE_DEFAULT, &a);
    if (s->settings.level < LEVEL_3 || strcmp(mode, "never") == 0)
        c->mode = IMP__ARCHIVE_MODE__ARCHIVE_NEVER;
    else
        c->mode = strcmp(mode, "roster") == 0 ? IMP__ARCHIVE_MODE__ARCHIVE_ROSTER
                                              : IMP__ARCHIVE_MODE__ARCHIVE_ALWAYS;
    arena_fini(&a);
    c->has_mode = true;
    return c->mode;
}

Imp__ArchivePrefsRow *archive_prefs(struct shard *s, uint64_t uid, struct arena *a)
{
    struct key k;
    key_init(&k);
    key_u64(&k, uid);
    return store_find_row(shard_txn(s), TABLE_ARCHIVE_PREFS, &k, a);
}

static const Imp__ArchivePrefsRow *find(struct shard *s, uint64_t uid)
{
    struct prefs *p = &s->archive->slots[uid % SLOTS];
    if (p->uid == uid)
        return p->row;
    drop(p);
    arena_init(&p->arena);
    p->uid = uid;
    p->row = archive_prefs(s, uid, &p->arena);
    p->has_row = p->row != NULL;
    if (!p->has_row)
        arena_fini(&p->arena);
    return p->row;
}

/* XEP-0441 §3: an entry with a resource is compared with the whole address. */
static bool has_jid(char *const *jids, size_t n, const char *peer)
{
    for (size_t i = 0; i < n; i++)
        if (*jid_resource(jids[i]) ? strcmp(jids[i], peer) == 0 : jid_same_bare(jids[i], peer))
            return true;
    return false;
}

static bool is_contact(struct shard *s, uint64_t uid, const char *peer)
{
    struct arena a;
    arena_init(&a);
    const Imp__RosterRow *row = jid_row_bare(s, TABLE_ROSTER, uid, peer, &a);
    bool is = row && row->in_roster && !row->removed;
    arena_fini(&a);
    return is;
}

bool archive_is_on(struct shard *s, uint64_t uid, const char *peer)
{
    if (s->settings.level < LEVEL_3)
        return false;
    Imp__ArchiveMode mode = IMP__ARCHIVE_MODE__ARCHIVE_UNSET;
    const Imp__ArchivePrefsRow *row = find(s, uid);
    if (row) {
        /* Who is on both lists wants it secret. */
        if (has_jid(row->never, row->n_never, peer))
            return false;
        if (has_jid(row->always, row->n_always, peer))
            return true;
        mode = row->mode;
    }
    if (mode == IMP__ARCHIVE_MODE__ARCHIVE_UNSET)
        mode = archive_mode(s);
    return mode == IMP__ARCHIVE_MODE__ARCHIVE_ALWAYS ||
           (mode == IMP__ARCHIVE_MODE__ARCHIVE_ROSTER && is_contact(s, uid, peer));
}

static unsigned class_of(const struct envelope *e)
{
    return e->kind == STANZA_MESSAGE ? archive_class(e->type, payload_worth(e)) : 0;
}

bool archive_is_worth_storing(const struct envelope *e)
{
    return class_of(e) & CLASS_OFFLINE;
}

/* Who keeps it is known without a look at the message, and mostly the same for all. */
unsigned archive_wants(struct shard *s, const struct envelope *e)
{
    bool from = e->from_uid && archive_is_on(s, e->from_uid, e->to),
         to = e->to_uid && archive_is_on(s, e->to_uid, e->from);
    if (!from && !to)
        return 0;
    unsigned class = class_of(e);
    if (!(class & CLASS_ARCHIVE))
        return 0;
    return (from ? ARCHIVE_FROM : 0) | (to ? ARCHIVE_TO : 0) | (class & CLASS_RETRACT ? ARCHIVE_RETRACTS : 0);
}
