/* Copies of the store: a store of its own, with an id of its own, that store_open accepts. */
#include "base/clock.h"
#include "storage/store_internal.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
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

/* A page behind the end of the file would be a fault of the whole process, not an error. */
static int check_whole(MDB_env *env, const char *dir, unsigned page_bytes, struct err_ctx *err)
{
    MDB_envinfo info;
    struct stat file;
    char path[4096];
    store_path(path, dir, "data.mdb");
    if (mdb_env_info(env, &info) || stat(path, &file))
        return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    uint64_t n_bytes = ((uint64_t)info.me_last_pgno + 1) * page_bytes;
    return (uint64_t)file.st_size >= n_bytes ? 0 : err_set(err, ERR_CORRUPT, "%s is cut off", path);
}

static int finish_copy(const char *dir, uint64_t *applied, struct err_ctx *err)
{
    struct point_start p = {0};
    MDB_env *env;
    MDB_stat st;
    int rc = store_env_open(&env, dir, 0, 0, err);
    if (rc)
        return rc;
    mdb_env_stat(env, &st);
    rc = check_whole(env, dir, st.ms_psize, err);
    if (!rc)
        rc = brand(env, &p, err);
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

/* ---- the pages ---- */

/* What the system could give to a file's pages without taking memory from anybody; 0: unknown. */
static uint64_t available_bytes(void)
{
    unsigned long long kib = 0;
    char line[128];
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof line, f) && sscanf(line, "MemAvailable: %llu", &kib) != 1)
        ;
    if (f)
        fclose(f);
    return kib << 10;
}

/* The copy walks the trees, page after page in no order of the file, and the map is read without reading
 * ahead: on a cold file every page is a wait for the disk. Where memory allows, the file is read in order
 * beside it. */
/* What a copy does in bulk must not take the processor from those who serve: on threads of low priority. */
enum { BULK_NICE = 5 };

static int start_bulk(pthread_t *thread, void *(*fn)(void *), void *arg)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(thread, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

static void be_nice(void)
{
    id_t thread = (id_t)gettid(); /* the calling thread alone */
    (void)setpriority(PRIO_PROCESS, thread, getpriority(PRIO_PROCESS, thread) + BULK_NICE);
}

struct warmer {
    pthread_t thread;
    bool has_thread;
    atomic_bool stop;
    int fd;
    off_t n_bytes;
};

static void *warm(void *arg)
{
    enum { STEP = 1 << 20 };
    struct warmer *w = arg;
    be_nice();
    char *scratch = mem_try_alloc(STEP);
    for (off_t at = 0; scratch && at < w->n_bytes && !atomic_load(&w->stop); at += STEP)
        if (pread(w->fd, scratch, STEP, at) <= 0)
            break;
    mem_free(scratch);
    return NULL;
}

static void warmer_start(struct warmer *w, const char *dir, uint64_t available)
{
    char path[4096];
    struct stat st;
    store_path(path, dir, "data.mdb");
    w->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (w->fd < 0 || fstat(w->fd, &st) || (uint64_t)st.st_size > available / 2)
        return;
    w->n_bytes = st.st_size;
    w->has_thread = !start_bulk(&w->thread, warm, w);
}

static void warmer_stop(struct warmer *w)
{
    atomic_store(&w->stop, true);
    if (w->has_thread)
        pthread_join(w->thread, NULL);
    if (w->fd >= 0)
        close(w->fd);
}

struct page_copy {
    MDB_env *env;
    int fd, rc;
};

/* LMDB starts a thread of its own for the writing, which inherits the priority. */
static void *copy_pages(void *arg)
{
    struct page_copy *c = arg;
    be_nice();
    /* Compacted: leaves the free pages out. Written from the start to the end, nothing twice. */
    c->rc = mdb_env_copyfd2(c->env, c->fd, MDB_CP_COMPACT);
    return NULL;
}

int store_copy_pages(struct store *s, const char *path, struct err_ctx *err)
{
    uint64_t available = available_bytes();
    struct warmer w = {.fd = -1};
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    /* A copy that memory cannot hold easily goes past it, where the file system can do that. */
    if (store_size_bytes(s) > available / 4)
        (void)!fcntl(fd, F_SETFL, O_DIRECT);
    warmer_start(&w, s->dir, available);
    struct page_copy c = {.env = s->env, .fd = fd};
    pthread_t thread;
    int rc = start_bulk(&thread, copy_pages, &c);
    if (!rc) {
        pthread_join(thread, NULL);
        rc = c.rc;
    }
    warmer_stop(&w);
    if (close(fd) && !rc)
        rc = errno;
    if (!rc)
        return 0;
    /* LMDB answers a short write, as a full disk gives, with EIO. */
    int code = store_mdb_error(rc);
    if (code == ERR_IO && store_free_bytes(s) < 1 << 20)
        code = ERR_NOSPACE;
    return err_set(err, code, "copy to %s: %s", path,
                   code == ERR_NOSPACE ? err_text(code) : mdb_strerror(rc));
}

int store_adopt_copy(const char *dir, struct err_ctx *err)
{
    int rc = finish_copy(dir, NULL, err);
    return rc ? err_prefix(err, rc, "copy in %s", dir) : 0;
}

int store_copy(struct store *s, const char *dir, uint64_t *applied, struct err_ctx *err)
{
    char path[4096];
    if (mkdir(dir, 0700) && errno != EEXIST)
        return err_set(err, ERR_IO, "%s: %s", dir, strerror(errno));
    store_path(path, dir, "data.mdb");
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    close(fd);
    int rc = store_copy_pages(s, path, err);
    if (rc)
        return rc;
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

/* Tables are shared out among a few threads, the largest first comes with luck: what a copy must wait for. */
enum { VERIFY_THREADS_MAX = 4 };

struct verify {
    MDB_env *env;
    _Atomic int next_table;
    atomic_bool failed;
};
struct verifier {
    struct verify *v;
    pthread_t thread;
    int code;
    struct err_ctx err;
};

static int verify_with(struct verifier *x, MDB_txn *txn)
{
    MDB_dbi meta;
    int rc = mdb_dbi_open(txn, table_name(TABLE_META), 0, &meta);
    if (rc)
        return err_set(&x->err, ERR_CORRUPT, "table meta: %s", mdb_strerror(rc));
    for (int t;
         !rc && !atomic_load(&x->v->failed) && (t = atomic_fetch_add(&x->v->next_table, 1)) < N_TABLES;)
        rc = verify_table(txn, meta, t, &x->err);
    return rc;
}

static void *verifier_run(void *arg)
{
    struct verifier *x = arg;
    MDB_txn *txn;
    int rc = mdb_txn_begin(x->v->env, NULL, MDB_RDONLY, &txn);
    if (rc) {
        x->code = err_set(&x->err, store_mdb_error(rc), "%s", mdb_strerror(rc));
    } else {
        x->code = verify_with(x, txn);
        mdb_txn_abort(txn);
    }
    if (x->code)
        atomic_store(&x->v->failed, true);
    return NULL;
}

static int verify_tables(MDB_env *env, struct err_ctx *err)
{
    struct verify v = {.env = env};
    struct verifier all[VERIFY_THREADS_MAX] = {0};
    long n_cores = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned n = n_cores < 1 ? 1 : n_cores > VERIFY_THREADS_MAX ? VERIFY_THREADS_MAX : (unsigned)n_cores, i;
    for (i = 0; i < n; i++)
        all[i].v = &v;
    for (i = 1; i < n && !start_bulk(&all[i].thread, verifier_run, &all[i]); i++)
        ;
    verifier_run(&all[0]);
    while (i > 1)
        pthread_join(all[--i].thread, NULL);
    for (i = 0; i < n; i++)
        if (all[i].code)
            return err_set(err, all[i].code, "%s", all[i].err.text);
    return 0;
}

/* Handles of named tables are the environment's, and opened one transaction at a time: before the threads
 * begin. */
static int open_tables(MDB_env *env, struct store_position *out, struct arena *a, struct err_ctx *err)
{
    MDB_txn *txn;
    MDB_dbi dbi, meta = 0;
    int rc = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn);
    if (rc)
        return err_set(err, store_mdb_error(rc), "%s", mdb_strerror(rc));
    for (int t = 0; t < N_TABLES; t++) {
        rc = mdb_dbi_open(txn, table_name(t), 0, &dbi);
        if (rc && rc != MDB_NOTFOUND)
            break;
        if (t == TABLE_META)
            meta = dbi;
    }
    int code = rc && rc != MDB_NOTFOUND ? err_set(err, store_mdb_error(rc), "tables: %s", mdb_strerror(rc))
               : !meta                  ? err_set(err, ERR_CORRUPT, "there is no table meta")
                                        : read_position(txn, meta, out, a, err);
    if (code)
        mdb_txn_abort(txn);
    else
        mdb_txn_commit(txn); /* keeps the handles */
    return code;
}

int store_verify_copy(const char *dir, struct store_position *out, struct arena *a, struct err_ctx *err)
{
    MDB_env *env;
    int rc = store_env_open(&env, dir, MDB_RDONLY | MDB_NOLOCK, 0, err);
    if (rc)
        return rc;
    if (!(rc = open_tables(env, out, a, err)))
        rc = verify_tables(env, err);
    mdb_env_close(env);
    return rc ? err_prefix(err, rc, "copy in %s", dir) : 0;
}
