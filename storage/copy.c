/* Copies of the store: a store of its own, with an id of its own, that store_open accepts. */
#include "base/clock.h"
#include "storage/store_internal.h"
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void meta_key(MDB_val *out, struct key *k, const char *name)
{
    key_init(k);
    key_str(k, name);
    *out = (MDB_val){k->n, k->bytes};
}

static int put_id(MDB_txn *txn, MDB_dbi meta, uint8_t id[STORE_ID_BYTES])
{
    random_bytes(id, STORE_ID_BYTES);
    Imp__MetaRow m = IMP__META_ROW__INIT;
    m.data.data = id;
    m.data.len = STORE_ID_BYTES;
    uint8_t packed[64];
    size_t n = imp__meta_row__pack(&m, packed);
    struct key k;
    MDB_val key, value;
    struct buf layout = {0};
    meta_key(&key, &k, "id");
    row_layout(&layout, &key, packed, n, &value);
    int rc = mdb_put(txn, meta, &key, &value, 0);
    buf_fini(&layout);
    return rc;
}

static int read_position(MDB_txn *txn, MDB_dbi meta, struct store_position *out, struct arena *a,
                         struct err_ctx *err)
{
    struct key k;
    position_key(&k);
    MDB_val key = {k.n, k.bytes}, value;
    const void *row;
    size_t n;
    memset(out, 0, sizeof *out);
    int rc = mdb_get(txn, meta, &key, &value);
    if (rc == MDB_NOTFOUND)
        return 0; /* nothing was applied yet */
    if (rc)
        return err_set(err, store_mdb_error(rc), "position: %s", mdb_strerror(rc));
    if (row_check(&key, &value, &row, &n) || position_decode(row, n, out, a))
        return err_set(err, ERR_CORRUPT, "the position row is damaged");
    return 0;
}

/* Gives the copy its own id, durably: two stores that share one could have their files mixed up unseen. */
static int brand(MDB_env *env, struct point_start *p, struct err_ctx *err)
{
    MDB_txn *txn;
    MDB_dbi meta;
    struct store_position position;
    int rc = mdb_txn_begin(env, NULL, 0, &txn);
    if (rc)
        return err_set(err, store_mdb_error(rc), "the copy: %s", mdb_strerror(rc));
    if ((rc = mdb_dbi_open(txn, table_name(TABLE_META), 0, &meta)) || (rc = put_id(txn, meta, p->id))) {
        mdb_txn_abort(txn);
        return err_set(err, store_mdb_error(rc), "the copy: %s", mdb_strerror(rc));
    }
    int code = read_position(txn, meta, &position, NULL, err);
    p->applied_index = position.applied_index;
    p->txn_id = mdb_txn_id(txn);
    rc = mdb_txn_commit(txn);
    return code ? code : rc ? err_set(err, store_mdb_error(rc), "the copy: %s", mdb_strerror(rc)) : 0;
}

static int finish_copy(const char *dir, uint64_t *applied, struct err_ctx *err)
{
    struct point_start p = {0};
    MDB_env *env;
    MDB_stat st;
    int rc = store_env_open(&env, dir, 0, 0, err);
    if (rc)
        return rc;
    rc = brand(env, &p, err);
    mdb_env_stat(env, &st);
    mdb_env_close(env);
    char lock[4096];
    store_path(lock, dir, "lock.mdb");
    unlink(lock);
    if (!rc)
        rc = point_write_fresh(dir, &p, st.ms_psize, err);
    if (!rc && applied)
        *applied = p.applied_index;
    return rc;
}

int store_copy(struct store *s, const char *dir, uint64_t *applied, struct err_ctx *err)
{
    if (mkdir(dir, 0700) && errno != EEXIST)
        return err_set(err, ERR_IO, "%s: %s", dir, strerror(errno));
    /* Compacted: leaves the free pages out. LMDB refuses an existing file and opens the new one with
     * O_DIRECT. */
    int rc = mdb_env_copy2(s->env, dir, MDB_CP_COMPACT);
    if (rc)
        return err_set(err, store_mdb_error(rc), "copy to %s: %s", dir, mdb_strerror(rc));
    rc = finish_copy(dir, applied, err);
    return rc ? err_prefix(err, rc, "copy to %s", dir) : 0;
}

/* ---- verify ---- */

/* A table that the copy's release did not know is not there, and empty. */
static int verify_table(MDB_txn *txn, MDB_dbi meta, enum table table, struct err_ctx *err)
{
    struct walk w;
    MDB_dbi dbi;
    int mrc = mdb_dbi_open(txn, table_name(table), 0, &dbi);
    if (mrc && mrc != MDB_NOTFOUND)
        return err_set(err, store_mdb_error(mrc), "table %s: %s", table_name(table), mdb_strerror(mrc));
    walk_start(&w, txn, dbi, table);
    int rc = mrc ? 0 : walk_slice(&w, 0, err);
    if (!rc && table_scope(table) != SCOPE_LOCAL)
        rc = walk_compare(&w, meta, err);
    walk_fini(&w);
    return rc;
}

static int verify_tables(MDB_txn *txn, struct store_position *out, struct arena *a, struct err_ctx *err)
{
    MDB_dbi meta;
    int rc = mdb_dbi_open(txn, table_name(TABLE_META), 0, &meta);
    if (rc)
        return err_set(err, ERR_CORRUPT, "table meta: %s", mdb_strerror(rc));
    for (int t = 0; t < N_TABLES; t++) {
        if ((rc = verify_table(txn, meta, t, err)))
            return rc;
    }
    return read_position(txn, meta, out, a, err);
}

int store_verify_copy(const char *dir, struct store_position *out, struct arena *a, struct err_ctx *err)
{
    MDB_env *env;
    MDB_txn *txn;
    int rc = store_env_open(&env, dir, MDB_RDONLY | MDB_NOLOCK, 0, err);
    if (rc)
        return rc;
    if ((rc = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn))) {
        mdb_env_close(env);
        return err_set(err, store_mdb_error(rc), "%s: %s", dir, mdb_strerror(rc));
    }
    rc = verify_tables(txn, out, a, err);
    mdb_txn_abort(txn);
    mdb_env_close(env);
    return rc ? err_prefix(err, rc, "copy in %s", dir) : 0;
}
