#include "base/clock.h"
#include "storage/store_internal.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

/* Address space, not memory or disk: the map is never resized while readers are there. */
static const uint64_t MAP_BYTES = 256ull << 30;
enum { MAX_READERS = 512 };

int store_mdb_error(int rc)
{
    switch (rc) {
    case 0:
        return 0;
    case MDB_NOTFOUND:
        return ERR_NOTFOUND;
    case MDB_MAP_FULL:
    case ENOSPC:
    case EDQUOT:
        return ERR_NOSPACE;
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
    case MDB_PANIC:
    /* What LMDB says when pages are not what they should be: a tree that goes round, a row that fits no page,
     * another kind of table. */
    case MDB_CURSOR_FULL:
    case MDB_PAGE_FULL:
    case MDB_INCOMPATIBLE:
    case MDB_BAD_TXN:
        return ERR_CORRUPT;
    case MDB_VERSION_MISMATCH:
        return ERR_VERSION;
    case MDB_BAD_VALSIZE:
        return ERR_INVALID;
    case MDB_READERS_FULL:
        return ERR_LIMIT;
    case ENOMEM:
        return ERR_NOMEM;
    case EACCES:
    case EPERM:
        return ERR_DENIED;
    default:
        return ERR_IO;
    }
}

void store_fatal(struct store *s, int code, const char *format, ...)
{
    if (atomic_exchange(&s->is_dead, true))
        return;
    char detail[384];
    va_list ap;
    va_start(ap, format);
    vsnprintf(detail, sizeof detail, format, ap);
    va_end(ap);
    if (s->on_fatal)
        s->on_fatal(s->fatal_user, code, detail);
    else
        log_fatal(s->log, "store %s: %s: %s", s->dir, err_text(code), detail);
}

void store_path(char out[4096], const char *dir, const char *name)
{
    snprintf(out, 4096, "%s/%s", dir, name);
}

int store_env_open(MDB_env **out, const char *dir, unsigned flags, uint64_t map_bytes, struct err_ctx *err)
{
    MDB_env *env;
    int rc = mdb_env_create(&env);
    if (rc)
        return err_set(err, store_mdb_error(rc), "%s: %s", dir, mdb_strerror(rc));
    if (!(rc = mdb_env_set_mapsize(env, map_bytes ? map_bytes : MAP_BYTES)) &&
        !(rc = mdb_env_set_maxdbs(env, N_TABLES)) && !(rc = mdb_env_set_maxreaders(env, MAX_READERS)))
        rc = mdb_env_open(env, dir, flags | MDB_NOTLS, 0600);
    if (rc) {
        mdb_env_close(env);
        return err_set(err, store_mdb_error(rc), "%s/data.mdb: %s", dir, mdb_strerror(rc));
    }
    *out = env;
    return 0;
}

int store_dbi_open(MDB_dbi dbi[N_TABLES], MDB_txn *txn, unsigned flags, struct err_ctx *err)
{
    for (int t = 0; t < N_TABLES; t++) {
        int rc = mdb_dbi_open(txn, table_name(t), flags, &dbi[t]);
        if (rc)
            return err_set(err, store_mdb_error(rc), "table %s: %s", table_name(t), mdb_strerror(rc));
    }
    return 0;
}

/* ---- META: schema and store id ---- */

static void meta_key(struct key *k, const char *name)
{
    key_init(k);
    key_str(k, name);
}

static int schema_check(struct store_txn *t, struct err_ctx *err)
{
    struct arena a;
    arena_init(&a);
    struct key k;
    meta_key(&k, "schema");
    const Imp__MetaRow *schema = store_find_row(t, TABLE_META, &k, &a);
    meta_key(&k, "id");
    const Imp__MetaRow *id = store_find_row(t, TABLE_META, &k, &a);
    int rc = t->error;
    if (rc)
        rc = err_set(err, rc, "the store cannot be read");
    else if (!schema || !id || id->data.len != STORE_ID_BYTES)
        rc = err_set(err, ERR_CORRUPT, "the store has no schema row");
    else if (schema->value != STORE_SCHEMA)
        rc = err_set(err, ERR_VERSION, "the store has schema %llu, this release reads %d",
                     (unsigned long long)schema->value, STORE_SCHEMA);
    else
        memcpy(t->store->id, id->data.data, STORE_ID_BYTES);
    arena_fini(&a);
    return rc;
}

static void schema_write(struct store_txn *t)
{
    struct key k;
    Imp__MetaRow m = IMP__META_ROW__INIT;
    m.value = STORE_SCHEMA;
    meta_key(&k, "schema");
    store_put_row(t, TABLE_META, &k, &m);
    m.value = 0;
    m.data.data = t->store->id;
    m.data.len = STORE_ID_BYTES;
    meta_key(&k, "id");
    store_put_row(t, TABLE_META, &k, &m);
}

/* Opens the tables, makes those that a newer release has added, and checks or writes schema and id. */
static int tables_open(struct store *s, bool is_new, struct err_ctx *err)
{
    struct store_txn *t = store_begin(s);
    int rc = t->error ? err_set(err, t->error, "the store cannot be written") : 0;
    if (!rc && !is_new) {
        int mrc = mdb_dbi_open(t->txn, table_name(TABLE_META), 0, &s->dbi[TABLE_META]);
        rc = mrc ? err_set(err, ERR_CORRUPT, "table meta: %s", mdb_strerror(mrc)) : schema_check(t, err);
    }
    if (!rc)
        rc = store_dbi_open(s->dbi, t->txn, MDB_CREATE, err);
    if (rc) {
        store_abort(t);
        return rc;
    }
    if (is_new)
        schema_write(t);
    return store_commit(t, err);
}

/* LMDB counts rows too: a table that got lost, or another in its place, shows at once. */
static int count_check(struct store *s, struct store_txn *t, enum table table, struct err_ctx *err)
{
    MDB_stat st;
    int rc = mdb_stat(t->txn, s->dbi[table], &st);
    if (rc)
        return err_set(err, store_mdb_error(rc), "table %s: %s", table_name(table), mdb_strerror(rc));
    if (st.ms_entries != s->sums[table].n_rows)
        return err_set(err, ERR_CORRUPT, "table %s has %zu rows instead of %llu", table_name(table),
                       st.ms_entries, (unsigned long long)s->sums[table].n_rows);
    return 0;
}

/* Sums and applied index as the last commit left them. */
static int state_load(struct store *s, struct err_ctx *err)
{
    struct store_reader *r = store_reader_new(s);
    struct store_txn *t = store_read_txn(r);
    int rc = 0;
    for (int i = 0; i < N_TABLES && !t->error && !rc; i++) {
        if (table_scope(i) == SCOPE_LOCAL)
            continue;
        store_table_hash(t, i, &s->sums[i].hash, &s->sums[i].n_rows);
        if (!t->error)
            rc = count_check(s, t, i, err);
    }
    if (!rc)
        atomic_store(&s->applied_index, store_reader_index(r));
    if (t->error)
        rc = err_set(err, t->error, "the store cannot be read");
    store_reader_free(r);
    return rc;
}

/* ---- open and close ---- */

static struct store *store_alloc(const struct store_options *o)
{
    struct store *s = mem_new(struct store);
    s->dir = mem_strdup(o->dir);
    s->log = o->log;
    s->metrics = o->metrics;
    s->on_fatal = o->on_fatal;
    s->fatal_user = o->user;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->scrub_lock, NULL);
    pthread_mutex_init(&s->scrub_turn, NULL);
    random_bytes(s->id, sizeof s->id);
    return s;
}

static void store_free(struct store *s)
{
    if (s->env)
        mdb_env_close(s->env);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->scrub_lock);
    pthread_mutex_destroy(&s->scrub_turn);
    buf_fini(&s->write_txn.scratch);
    buf_fini(&s->write_txn.old_scratch);
    mem_free(s->dir);
    mem_free(s);
}

/* LMDB would abort: its pages are not what it wrote. */
static void on_assert(MDB_env *env, const char *text)
{
    store_fatal(mdb_env_get_userctx(env), ERR_CORRUPT, "LMDB: %s", text);
}

static int store_open_env(struct store *s, const struct store_options *o, struct point_start *p,
                          struct err_ctx *err)
{
    int rc = store_env_open(&s->env, o->dir, MDB_NOSYNC | MDB_NORDAHEAD, o->map_bytes, err);
    if (rc)
        return rc;
    mdb_env_set_userctx(s->env, s);
    mdb_env_set_assert(s->env, on_assert);
    MDB_stat stat;
    mdb_env_stat(s->env, &stat);
    s->page_bytes = stat.ms_psize;
    point_init(s, o, p);
    if (!p->is_new && (rc = point_pin(s, p, err)))
        return rc;
    if ((rc = tables_open(s, p->is_new, err)) || (rc = state_load(s, err)))
        return rc;
    if (!p->is_new && memcmp(p->id, s->id, STORE_ID_BYTES))
        return err_set(err, ERR_CORRUPT, "data.mdb and point are of two different stores");
    return point_start(s, o, p, err);
}

int store_open(struct store **out, const struct store_options *o, struct err_ctx *err)
{
    struct point_start p = {0};
    if (mkdir(o->dir, 0700) && errno != EEXIST)
        return err_set(err, ERR_IO, "%s: %s", o->dir, strerror(errno));
    int rc = point_prepare(o->dir, o->faults, &p, err);
    if (rc)
        return err_prefix(err, rc, "store %s", o->dir);
    struct store *s = store_alloc(o);
    rc = store_open_env(s, o, &p, err);
    buf_fini(&p.extra);
    if (rc) {
        point_stop(s, false, NULL);
        store_free(s);
        return err_prefix(err, rc, "store %s", o->dir);
    }
    *out = s;
    return 0;
}

int store_close_clean(struct store *s, struct err_ctx *err)
{
    int rc = point_stop(s, true, err);
    store_free(s);
    return rc;
}

void store_close_dirty(struct store *s)
{
    point_stop(s, false, NULL);
    store_free(s);
}

/* ---- sizes ---- */

uint64_t store_size_bytes(struct store *s)
{
    struct store_reader *r = store_reader_new(s);
    struct store_txn *t = store_read_txn(r);
    uint64_t n_pages = 2;
    for (int i = 0; i < N_TABLES && !t->error; i++) {
        MDB_stat st;
        if (!mdb_stat(t->txn, s->dbi[i], &st))
            n_pages += st.ms_branch_pages + st.ms_leaf_pages + st.ms_overflow_pages;
    }
    store_reader_free(r);
    return n_pages * s->page_bytes;
}

uint64_t store_file_bytes(struct store *s)
{
    MDB_envinfo info;
    return mdb_env_info(s->env, &info) ? 0 : ((uint64_t)info.me_last_pgno + 1) * s->page_bytes;
}

uint64_t store_free_bytes(struct store *s)
{
    struct statvfs v;
    return statvfs(s->dir, &v) ? 0 : (uint64_t)v.f_bavail * v.f_frsize;
}
