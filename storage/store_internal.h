/* What the files of storage/ share. Included in this folder only. */
#ifndef STORAGE_STORE_INTERNAL_H
#define STORAGE_STORE_INTERNAL_H

#include "base/buf.h"
#include "base/mem.h"
#include "storage/store.h"
#include <lmdb.h>
#include <protobuf-c/protobuf-c.h>
#include <pthread.h>
#include <stdatomic.h>

enum { STORE_SCHEMA = 1, STORE_ID_BYTES = 16, ROW_CRC_BYTES = 4 };

struct table_info {
    const char *name;
    const char *key; /* its fields, as tables.def has them */
    enum table_scope scope;
    const ProtobufCMessageDescriptor *row;
    bool is_single; /* one row with an empty key; LMDB knows no empty keys, so it lies under "\0" */
    bool is_quiet;  /* not observed: changes with every command */
};
extern const struct table_info store_tables[N_TABLES];

/* The content hash of a table as it is kept while transactions change it. */
struct table_sum {
    struct store_hash hash;
    uint64_t n_rows;
};

struct store_txn {
    struct store *store;
    MDB_txn *txn; /* NULL after a failure to begin */
    bool is_write;
    int error;
    uint64_t n_changes; /* iterators that see it move seek again */

    /* Write transaction only. */
    MDB_cursor *cursors[N_TABLES]; /* freed by LMDB when the transaction ends */
    struct table_sum sums[N_TABLES];
    bool sum_changed[N_TABLES];
    store_observer_fn *observer;
    void *observer_user;
    struct buf scratch, old_scratch; /* key length + key + row + CRC, as hashed and stored */
    uint64_t n_bytes;                /* of rows put */
    bool has_index;
    uint64_t index; /* applied index set by this transaction */
};

struct store_reader {
    struct store_txn txn;
    bool has_snapshot, has_index;
    uint64_t index;
};

struct store_point; /* in point.c */
struct store_scrub; /* in scrub.c */

struct store {
    char *dir;
    struct log *log;
    struct metrics *metrics;
    void (*on_fatal)(void *user, int code, const char *detail);
    void *fatal_user;
    atomic_bool is_dead;

    MDB_env *env;
    MDB_dbi dbi[N_TABLES];
    unsigned page_bytes;
    uint8_t id[STORE_ID_BYTES];

    struct store_txn write_txn;
    struct table_sum sums[N_TABLES]; /* as committed; writer's thread */
    _Atomic uint64_t applied_index;  /* as committed */

    /* Between write transactions: the pin of a point and the start of a scrub need a moment without one. */
    pthread_mutex_t lock;
    pthread_cond_t
        changed; /* a pin is done, a point is due, is_writing became false and somebody waits for it */
    bool is_writing;
    unsigned n_waiting; /* for the end of a write transaction */
    uint64_t n_ended;
    struct store_point *point;

    pthread_mutex_t scrub_turn; /* one scrub at a time */
    pthread_mutex_t scrub_lock;
    atomic_bool scrub_on, scrub_cancel;
    struct store_scrub *scrub; /* the one that runs; under scrub_lock */
};

/* table.c */
const struct table_info *table_info(enum table t);

/* store.c: maps a library code, and ends the life of the store (once; on_fatal or log_fatal). */
int store_mdb_error(int rc);
void store_fatal(struct store *s, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
void store_path(char out[4096], const char *dir, const char *name);
/* Opens the environment and the tables as they are in DIR; used for the store itself and for copies. */
int store_env_open(MDB_env **out, const char *dir, unsigned flags, uint64_t map_bytes, struct err_ctx *err);
int store_dbi_open(MDB_dbi dbi[N_TABLES], MDB_txn *txn, unsigned flags, struct err_ctx *err);

/* row.c: a stored value is row + CRC32C of key and row. The key is as LMDB has it. */
int row_check(const MDB_val *key, const MDB_val *value, const void **row, size_t *n);
/* Lays out key length, key, row and CRC in OUT; *value points at row and CRC. */
void row_layout(struct buf *out, const MDB_val *key, const void *row, size_t n, MDB_val *value);
void row_hash(const struct buf *layout, struct store_hash *out);
void hash_add(struct store_hash *h, const struct store_hash *d);
void hash_sub(struct store_hash *h, const struct store_hash *d);
/* META rows "hash.NAME"; sums_flush writes those that a write transaction changed. */
void sums_flush(struct store_txn *t);
void hash_row_key(struct key *k, enum table t);
int hash_row_decode(const void *row, size_t n, struct table_sum *out);

/* txn.c */
MDB_val txn_key(enum table table, const struct key *k);
void txn_fail(struct store_txn *t, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The row META "position"; A NULL leaves the configuration out. */
void position_key(struct key *k);
int position_decode(const void *row, size_t n, struct store_position *out, struct arena *a);

/* point.c: the order at open is prepare (before the environment), init, pin (an existing
 * store only: before the first write transaction), start. Stop makes the last point and
 * the clean mark when CLEAN. */
struct point_start {
    bool is_new; /* nothing was there: the first point ends the making */
    uint64_t txn_id, applied_index;
    uint8_t id[STORE_ID_BYTES];
    struct buf extra; /* goes over to the store in point_init */
};
int point_prepare(const char *dir, const struct store_faults *f, struct point_start *out,
                  struct err_ctx *err);
void point_init(struct store *s, const struct store_options *o, struct point_start *p);
int point_pin(struct store *s, const struct point_start *p, struct err_ctx *err);
int point_start(struct store *s, const struct store_options *o, const struct point_start *p,
                struct err_ctx *err);
int point_stop(struct store *s, bool clean, struct err_ctx *err);
bool point_after_commit(struct store *s,
                        uint64_t n_bytes); /* under lock, on the writer's thread; wake somebody? */
int point_write_fresh(const char *dir, const struct point_start *p, unsigned page_bytes, struct err_ctx *err);

/* scrub.c: reads all rows of a table, checks their checksums, that they are in order and can be found, and
 * adds up their hashes. A slice ends at the end of the table or at UNTIL_US (0: no limit) and goes on after
 * the last key, also in another transaction.
 */
struct walk {
    MDB_txn *txn;
    MDB_dbi dbi;
    enum table table;
    struct table_sum sum;
    struct key at;
    bool started, at_end;
    uintptr_t page;  /* of the map, that the last row was on */
    size_t page_txn; /* in the snapshot of that transaction */
    struct buf scratch;
};
int walk_start(struct walk *w, MDB_txn *txn, MDB_dbi dbi, enum table table);
int walk_slice(struct walk *w, uint64_t until_us, struct err_ctx *err);
int walk_compare(const struct walk *w, MDB_dbi meta,
                 struct err_ctx *err); /* with the stored hash; same snapshot */
void walk_fini(struct walk *w);
/* The writer tells of every change, and of an abort, while scrub_on. */
void scrub_note(struct store *s, uint64_t txn_id, enum table table, const MDB_val *key,
                const struct store_hash *old, const struct store_hash *now);
void scrub_forget(struct store *s, uint64_t txn_id);

#endif
