#include "base/mem.h"
#include "node/backup/backup_rows.h"
#include "replication/levels.h"
#include <string.h>

enum { ROWS_PER_COMMIT = 20000, BYTES_PER_COMMIT = 32 << 20 };

/* Tables of the file by their number in it; ERR_VERSION for one that this release does not know. */
static int map_tables(const Imp__BackupHeader *h, int tables[N_TABLES], struct err_ctx *err)
{
    struct err_ctx why = {0};
    if (level_refuse(h->level, &why))
        return err_set(err, ERR_VERSION,
                       "the backup is of release %.60s at feature level %u, and this release knows level %u: "
                       "restore it with "
                       "release %.60s or newer",
                       h->release, h->level, level_known(), h->release);
    if (h->n_tables > N_TABLES)
        return err_set(err, ERR_VERSION,
                       "the backup has %zu tables, this release knows %d: restore it with release %.60s",
                       h->n_tables, N_TABLES, h->release);
    for (size_t i = 0; i < h->n_tables; i++) {
        tables[i] = table_find(h->tables[i]->name);
        if (tables[i] < 0 || table_scope(tables[i]) == SCOPE_LOCAL)
            return err_set(err, ERR_VERSION,
                           "this release does not know the table %.60s: restore it with release %.60s",
                           h->tables[i]->name, h->release);
    }
    return 0;
}

static int compare(const Imp__BackupTable *t, const struct store_hash *hash, uint64_t n_rows,
                   struct err_ctx *err)
{
    if (t->n_rows == n_rows && t->hash_lo == hash->lo && t->hash_hi == hash->hi)
        return 0;
    return err_set(err, ERR_CORRUPT,
                   "the rows of table %s in the backup are not those that the node had (%llu of %llu)",
                   t->name, (unsigned long long)n_rows, (unsigned long long)t->n_rows);
}

int backup_verify(const char *path, struct err_ctx *err)
{
    struct backup_reader *r;
    struct backup_row row;
    struct store_hash hash[N_TABLES] = {{0}};
    uint64_t n_rows[N_TABLES] = {0};
    int tables[N_TABLES];
    int rc = backup_reader_open(&r, path, err);
    if (rc)
        return rc;
    const Imp__BackupHeader *h = backup_reader_header(r);
    rc = map_tables(h, tables, err);
    int more = 0;
    while (!rc && (more = backup_read_row(r, &row, err)) == 1) {
        store_hash_row(&hash[row.table], tables[row.table], row.key, row.n_key, row.row, row.n_row);
        n_rows[row.table]++;
    }
    rc = rc ? rc : more;
    for (size_t i = 0; !rc && i < h->n_tables; i++)
        rc = compare(h->tables[i], &hash[i], n_rows[i], err);
    backup_reader_close(r);
    return rc;
}

/* ---- into a store ---- */

struct restore {
    struct backup_rows rows;
    struct store *store;
    struct backup_reader *reader;
    int tables[N_TABLES];
    struct arena arena;
    uint64_t n_pending, n_bytes;
};

static int commit(struct restore *x, bool last, struct err_ctx *err)
{
    const struct backup_restore *r = x->rows.r;
    struct backup_restored *out = x->rows.out;
    if (last) {
        struct store_position p = {.applied_index = out->index,
                                   .applied_term = out->term,
                                   .conf_index = out->index,
                                   .conf = (void *)r->conf,
                                   .n_conf = r->n_conf};
        backup_add_rows(&x->rows);
        store_set_position(x->rows.txn, &p);
    }
    int rc = store_commit(x->rows.txn, err);
    x->rows.txn = last || rc ? NULL : store_begin(x->store);
    x->n_pending = x->n_bytes = 0;
    return rc;
}

static int restore_row(struct restore *x, const struct backup_row *row, struct err_ctx *err)
{
    enum table t = (enum table)x->tables[row->table];
    struct key key;
    int rc = 0;
    if (row->n_key > KEY_MAX)
        return err_set(err, ERR_CORRUPT, "a key of table %s is too long", table_name(t));
    key_init(&key);
    key_bytes(&key, row->key, row->n_key);
    switch (backup_policy(t)) {
    case BACKUP_KEEP:
        store_put(x->rows.txn, t, &key, row->row, row->n_row);
        x->rows.out->n_messages += t == TABLE_MESSAGE_INDEX;
        break;
    case BACKUP_CHANGE:
        rc = backup_change_row(&x->rows, t, &key, row, err);
        break;
    case BACKUP_DROP:
        break;
    default:
        return err_set(err, ERR_INTERNAL, "nobody has said what becomes of table %s", table_name(t));
    }
    arena_reset(&x->arena);
    x->rows.out->n_rows++;
    x->n_bytes += row->n_row;
    if (!rc && (++x->n_pending >= ROWS_PER_COMMIT || x->n_bytes >= BYTES_PER_COMMIT))
        rc = commit(x, false, err);
    return rc;
}

static int restore_rows(struct restore *x, struct err_ctx *err)
{
    struct backup_row row;
    int rc = 0, more = 0;
    x->rows.txn = store_begin(x->store);
    while (!rc && (more = backup_read_row(x->reader, &row, err)) == 1)
        rc = restore_row(x, &row, err);
    rc = rc ? rc : more;
    if (!rc)
        rc = commit(x, true, err);
    else if (x->rows.txn)
        store_abort(x->rows.txn);
    return rc;
}

int backup_restore(struct backup_restored *out, const struct backup_restore *r, struct err_ctx *err)
{
    memset(out, 0, sizeof *out);
    struct restore x = {.rows = {.r = r, .out = out}};
    int rc = backup_reader_open(&x.reader, r->path, err);
    if (rc)
        return rc;
    arena_init(&x.arena);
    x.rows.arena = &x.arena;
    const Imp__BackupHeader *h = backup_reader_header(x.reader);
    x.rows.index = out->index = h->index + 1; /* the restore itself */
    out->term = h->term + 1;
    rc = map_tables(h, x.tables, err);
    if (!rc)
        rc = store_open(&x.store, &(struct store_options){.dir = r->store_dir}, err);
    if (!rc) {
        rc = restore_rows(&x, err);
        int closed = rc ? (store_close_dirty(x.store), 0) : store_close_clean(x.store, err);
        rc = rc ? rc : closed;
    }
    if (!rc) {
        struct store_position p;
        rc = store_verify_copy(r->store_dir, &p, &x.arena, err);
    }
    backup_rows_fini(&x.rows);
    backup_reader_close(x.reader);
    arena_fini(&x.arena);
    return rc;
}
