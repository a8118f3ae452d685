/* Online: one read transaction walks all replicated tables. It is as long as the local disk takes to write
 * the file, not as a front end takes to read it: LMDB cannot use freed pages again meanwhile. */
#include "base/clock.h"
#include "base/mem.h"
#include "base/release.h"
#include "node/backup/backup.h"
#include "node/backup/backup_key.h"
#include <string.h>

struct dump {
    const struct backup_dump *d;
    struct backup_writer *writer;
    struct store_txn *txn;
    struct arena arena;
    uint64_t n_rows;
};

static int dump_table(struct dump *x, enum table t, unsigned number, struct err_ctx *err)
{
    struct backup_progress *p = x->d->progress;
    struct store_iter i;
    int rc = 0;
    store_iter_init(&i, x->txn, t, NULL);
    while (!rc && store_iter_next(&i)) {
        rc = backup_write_row(x->writer, number, i.key, i.n_key, i.row, i.n_row, err);
        x->n_rows++;
        atomic_fetch_add_explicit(&p->rows, 1, memory_order_relaxed);
        if (atomic_load_explicit(&p->cancel, memory_order_relaxed))
            rc = err_set(err, ERR_CANCELED, "canceled");
    }
    store_iter_fini(&i);
    if (!rc && store_txn_error(x->txn))
        rc = err_set(err, store_txn_error(x->txn), "table %s cannot be read", table_name(t));
    return rc;
}

/* All replicated tables with the hashes that they have in this transaction. */
static void list_tables(struct dump *x, Imp__BackupHeader *h)
{
    h->tables = arena_alloc(&x->arena, N_TABLES * sizeof *h->tables);
    for (int t = 0; t < N_TABLES; t++) {
        if (table_scope(t) == SCOPE_LOCAL)
            continue;
        struct store_hash hash;
        Imp__BackupTable *b = arena_alloc(&x->arena, sizeof *b);
        imp__backup_table__init(b);
        b->name = (char *)table_name(t);
        store_table_hash(x->txn, t, &hash, &b->n_rows);
        b->hash_lo = hash.lo;
        b->hash_hi = hash.hi;
        h->tables[h->n_tables++] = b;
        atomic_fetch_add(&x->d->progress->rows_total, b->n_rows);
    }
}

static int write_header(struct dump *x, uint64_t *index, struct err_ctx *err)
{
    Imp__BackupHeader h = IMP__BACKUP_HEADER__INIT;
    Imp__BackupKeys keys;
    struct backup_key_buffers buffers;
    struct store_position position;
    struct key none;
    key_init(&none);
    const Imp__ClusterRow *cluster = store_find_row(x->txn, TABLE_CLUSTER, &none, &x->arena);
    if (!cluster)
        return err_set(err, ERR_UNAVAILABLE, "the store is empty: this node has not caught up yet");
    store_get_position(x->txn, &position, &x->arena);
    h.format = BACKUP_FORMAT;
    h.release = (char *)release_name();
    h.level = cluster->feature_level;
    h.cluster_id = cluster->cluster_id;
    h.domain = cluster->default_domain;
    h.node = (char *)x->d->node;
    h.index = *index = position.applied_index;
    h.term = position.applied_term;
    h.time_ms = clock_wall_ms();
    list_tables(x, &h);
    if (x->d->ring) {
        int rc = backup_wrap_keys(&keys, &buffers, x->d->ring, x->d->passphrase, x->d->n_passphrase,
                                  cluster->cluster_id.data, cluster->cluster_id.len, err);
        if (rc)
            return rc;
        h.keys = &keys;
    }
    return backup_write_header(x->writer, &h, err);
}

int backup_dump(struct backup_made *out, const struct backup_dump *d, struct err_ctx *err)
{
    struct dump x = {.d = d, .writer = backup_writer_new(d->fd)};
    struct store_reader *reader = store_reader_new(d->store);
    arena_init(&x.arena);
    x.txn = store_read_txn(reader);
    int rc = write_header(&x, &out->index, err);
    unsigned number = 0;
    for (int t = 0; !rc && t < N_TABLES; t++)
        if (table_scope(t) != SCOPE_LOCAL)
            rc = dump_table(&x, t, number++, err);
    store_reader_free(reader);
    if (!rc)
        rc = backup_write_end(x.writer, &out->n_bytes, err);
    out->n_rows = x.n_rows;
    backup_writer_free(x.writer);
    arena_fini(&x.arena);
    return rc;
}
