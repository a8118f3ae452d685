/* The store: one LMDB environment behind typed tables. lmdb.h is included only in storage/.
 *
 * One writer (the apply thread), any number of readers. Rows are protobuf messages of rows.proto; in the file
 * each row carries a CRC32C that is checked on every read. Replicated tables keep a content hash that is
 * updated by every put and delete, so the hash of a table at an index costs nothing to know. Transactions
 * have a sticky error: after the first failure everything is a no-op, and store_commit returns it.
 *
 * Durability: LMDB runs without syncs; durable points (design of the pinned reader and the side file) bound
 * what a power loss can take, and the Raft log replays the rest. */
#ifndef STORAGE_STORE_H
#define STORAGE_STORE_H

#include "base/arena.h"
#include "base/err.h"
#include "base/log.h"
#include "base/metrics.h"
#include "rows.pb-c.h"
#include <stdbool.h>
#include <stdint.h>

enum table {
#define X(id, name, scope, key, row) TABLE_##id,
#include "storage/tables.def"
#undef X
    N_TABLES
};
enum table_scope { SCOPE_LOCAL, SCOPE_CLUSTER, SCOPE_USER };
const char *table_name(enum table t);
enum table_scope table_scope(enum table t);
int table_find(const char *name); /* enum table, or ERR_NOTFOUND */
/* A key for a person, by the fields that tables.def names: "uid 17, contact bare JID a@example.com". */
void table_key_text(enum table t, const void *key, size_t n_key, char *out, size_t size);

/* ---- keys: order of bytes = order of values, field by field ---- */
enum { KEY_MAX = 511, KEY_STR_MAX = 400 /* bytes of a string that stays whole and can be decoded */ };
struct key {
    uint16_t n;
    uint8_t bytes[KEY_MAX];
};
void key_init(struct key *k);
void key_u32(struct key *k, uint32_t v);
void key_u64(struct key *k, uint64_t v);
void key_str(struct key *k,
             const char *s); /* escaped and terminated; a long string is cut and ends in its hash */
void key_str_prefix(struct key *k,
                    const char *s); /* not terminated: only as the last part of a prefix for iteration */
void key_bytes(struct key *k, const void *p, size_t n); /* last or fixed-length part */
/* Decoding, in the same order; failed is sticky in the reader. A cut string cannot be decoded: ERR in failed.
 */
struct key_reader {
    const uint8_t *p, *end;
    bool failed;
};
void key_read(struct key_reader *r, const void *p, size_t n);
uint32_t key_read_u32(struct key_reader *r);
uint64_t key_read_u64(struct key_reader *r);
const char *key_read_str(struct key_reader *r, struct arena *a);

/* ---- opening ---- */
struct store;
struct store_options {
    const char *dir; /* data.mdb and the side file live here; made if missing */
    struct log *log;
    struct metrics *metrics;
    uint64_t map_bytes; /* 0: 256 GiB of address space */
    /* Called on the thread that found it: a write or sync failed, or a row's checksum is wrong. The store is
     * not used afterwards. NULL: log_fatal. */
    void (*on_fatal)(void *user, int code, const char *detail);
    void *user;
    bool manual_points;                /* tests: durable points only by store_make_point */
    const struct store_faults *faults; /* tests: NULL in service; must outlive the store */
};
/* What a test can put between the store and its disk. */
struct store_faults {
    int (*sync)(void *user, int fd); /* instead of fdatasync and fsync: 0, or an errno; NULL: the real ones */
    /* A durable point goes through the steps "pinned", "synced", "written", "renamed", "released". */
    void (*step)(void *user, const char *step);
    void *user;
    bool no_pin; /* readers do not hold the pages of the last point: shows what the pin is for */
};
int store_open(struct store **out, const struct store_options *o, struct err_ctx *err);
/* A durable point and the clean mark, then close. */
int store_close_clean(struct store *s, struct err_ctx *err);
void store_close_dirty(struct store *s); /* as a crash would leave it; for tests */

/* State that the replication layer keeps with the data, in the same transaction (local META rows). */
struct store_position {
    uint64_t applied_index, applied_term;
    uint64_t conf_index; /* of the last applied configuration */
    void *conf;          /* encoded configuration; owned by who filled it (store_get_position: the arena) */
    uint32_t n_conf;
};

/* ---- transactions ---- */
struct store_txn;
/* Apply thread only; one at a time; never fails here (sticky). */
struct store_txn *store_begin(struct store *s);
void store_set_position(struct store_txn *t, const struct store_position *p);
int store_commit(struct store_txn *t, struct err_ctx *err); /* frees t */
void store_abort(struct store_txn *t);
int store_txn_error(const struct store_txn *t);

/* A reader belongs to one thread. store_read_txn begins (or continues) its snapshot; store_reader_reset ends
 * it, so that the next call sees newer data. Reset before the thread sleeps and before acting on a newer log
 * index. */
struct store_reader;
struct store_reader *store_reader_new(struct store *s);
void store_reader_free(struct store_reader *r);
struct store_txn *store_read_txn(struct store_reader *r);
void store_reader_reset(struct store_reader *r);
uint64_t store_reader_index(struct store_reader *r); /* applied index of the snapshot it holds */

void store_get_position(struct store_txn *t, struct store_position *out, struct arena *a);

/* Who wants to know what a write transaction changes, in order (the change feed). old is never passed.
 * Nothing is told of local tables, nor of PROPOSER and CLOCK, which change with every command. */
typedef void store_observer_fn(void *user, enum table t, const struct key *k, bool deleted);
void store_set_observer(struct store_txn *t, store_observer_fn *fn, void *user);

/* Raw rows. The value is borrowed until the transaction writes again or ends. 0, ERR_NOTFOUND, or the sticky
 * error. */
int store_get(struct store_txn *t, enum table table, const struct key *k, const void **row, size_t *n);
/* A put of the row that is there already is no change: nothing is written and no observer hears of it. */
void store_put(struct store_txn *t, enum table table, const struct key *k, const void *row, size_t n);
bool store_delete(struct store_txn *t, enum table table, const struct key *k); /* was it there? */
bool store_has(struct store_txn *t, enum table table, const struct key *k);

/* Typed rows: the message is unpacked into the arena (never freed by itself). NULL when not there. The
 * descriptor is checked against the table. */
void *store_find_row(struct store_txn *t, enum table table, const struct key *k, struct arena *a);
void store_put_row(struct store_txn *t, enum table table, const struct key *k, const void *message);
void *store_unpack(enum table table, const void *row, size_t n, struct arena *a); /* NULL: not a message */
/* A protobuf allocator over an arena, for protobuf_c_message_unpack of anything. */
struct ProtobufCAllocator;
void arena_protobuf_allocator(struct arena *a, void *out_allocator /* ProtobufCAllocator */);

/* Iteration over keys that begin with PREFIX, ascending. Deleting or putting the current row is allowed in a
 * write transaction (the next step seeks). */
struct store_iter {
    struct store_txn *txn;
    enum table table;
    struct key prefix, at;
    bool started, descending, has_from, ended;
    uint64_t n_changes; /* of the transaction, when the cursor was placed */
    void *cursor;
    const void *key, *row; /* current, borrowed */
    size_t n_key, n_row;
};
void store_iter_init(struct store_iter *i, struct store_txn *t, enum table table, const struct key *prefix);
/* The next step gives the first key >= from; descending: the last key <= from. */
void store_iter_seek(struct store_iter *i, const struct key *from);
void store_iter_descending(
    struct store_iter *i);                  /* from the end of the prefix downwards; before the first step */
bool store_iter_next(struct store_iter *i); /* false at the end or on error; then the cursor is released */
void *store_iter_row(struct store_iter *i, struct arena *a); /* the current row unpacked */
void store_iter_fini(
    struct store_iter *i); /* only when left early, before the transaction ends; idempotent */

/* ---- hashes ---- */
struct store_hash {
    uint64_t lo, hi;
};
void store_table_hash(struct store_txn *t, enum table table, struct store_hash *out, uint64_t *n_rows);
/* Adds one row to the hash of a table that is not (yet) in a store. */
void store_hash_row(struct store_hash *sum, enum table table, const void *key, size_t n_key, const void *row, size_t n);
void store_state_hash(struct store_txn *t, struct store_hash *out); /* over all replicated tables */
/* Walks all rows of a table in read transactions of at most 20 ms: recomputes the hash and checks checksums.
 * ERR_CORRUPT with detail when rows do not give the stored hash at the same index, or a checksum is wrong.
 * Any thread. */
int store_scrub_table(struct store *s, enum table table, struct err_ctx *err);

/* ---- views: a moment that is kept for a while, to compare its rows with other nodes' ---- */
struct store_view;
struct store_view *store_view_new(struct store *s); /* as it is now; any thread */
struct store_view *store_view_ref(struct store_view *v);
void store_view_unref(struct store_view *v); /* may be NULL */
/* Ends a walk under way; those to come answer ERR_CLOSED. Before the store is closed. */
void store_view_close(struct store_view *v);
struct store_span { /* keys from (inclusive) to (exclusive); empty: from the first, to the last */
    struct key from, to;
};
struct store_range {
    struct store_hash hash;
    uint64_t n_rows;
};
/* They read all rows of the span, which takes its time. Any thread. */
/* OUT[i], n + 1 of them: the rows before bounds[i] and not before bounds[i - 1]. Bounds ascend, within the
 * span. */
int store_view_ranges(struct store_view *v, enum table table, const struct store_span *span,
                      const struct key *bounds, unsigned n, struct store_range *out);
/* At most MAX bounds that cut the span into parts of about as many rows; none when it has few. */
int store_view_split(struct store_view *v, enum table table, const struct store_span *span,
                     struct key *bounds, unsigned max, unsigned *n);
typedef bool store_view_row_fn(void *user, const void *key, size_t n_key, const struct store_hash *hash);
int store_view_rows(struct store_view *v, enum table table, const struct store_span *span,
                    store_view_row_fn *fn, void *user); /* until fn says false */

/* ---- durable points, copy, install ---- */
uint64_t store_durable_index(struct store *s); /* applied index of the last durable point; any thread */
/* Make one now and wait; not on the apply thread. Otherwise points are made by the store's own thread: every
 * 2 s while something changed, or after 64 MiB dirtied. on_point (any thread) tells each new durable index.
 */
int store_make_point(struct store *s, struct err_ctx *err);
void store_on_point(struct store *s, void (*on_point)(void *user, uint64_t applied_index), void *user);
/* A blob that is kept with the next durable points (Raft: snapshot index, term, configuration). It is durable
 * when a store_make_point that began later returns, and lost before; the last durable one is there again
 * after any crash. At most POINT_EXTRA_MAX bytes, copied; any thread. */
enum { POINT_EXTRA_MAX = 64 * 1024 };
void store_set_point_extra(struct store *s, const void *data, size_t n);
/* The blob last set, or found at open; *data is copied into the arena. */
void store_get_point_extra(struct store *s, const void **data, size_t *n, struct arena *a);
/* Writes the pages of one moment to PATH, an empty file that is there: from its start to its end, so that
 * what is there can be read while the rest is written. Not synced. It becomes a store of its own by
 * store_adopt_copy. Blocks as long as that takes, and holds a read transaction meanwhile. Any thread. */
int store_copy_pages(struct store *s, const char *path, struct err_ctx *err);
/* DIR holds data.mdb with such pages: gives it an id and its first durable point; synced. store_open accepts
 * DIR. */
int store_adopt_copy(const char *dir, struct err_ctx *err);
/* Both: a consistent copy into DIR (a new directory that store_open accepts), synced; *applied: its applied
 * index. Any thread. */
int store_copy(struct store *s, const char *dir, uint64_t *applied, struct err_ctx *err);
uint64_t store_size_bytes(struct store *s); /* pages in use */
uint64_t store_file_bytes(struct store *s); /* with free ones: grows while old snapshots are read, never shrinks */
uint64_t store_free_bytes(struct store *s); /* of the file system */
/* Opens DIR read-only, recomputes every replicated table's hash and checks it against the stored one; on a
 * few threads. */
int store_verify_copy(const char *dir, struct store_position *out, struct arena *a, struct err_ctx *err);

#endif
