/* Backups: the file holds the state at one index although the writer goes on; no byte of it can be changed
 * unseen; a restored store has what it must have and nothing of the old nodes. */
#include "base/mem.h"
#include "fsm_fixture.h"
#include "node/backup/backup.h"
#include "node/backup/backup_format.h"
#include "node/backup/backup_key.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static const char passphrase[] = "correct horse";

static struct seal_ring ring_of(uint8_t byte)
{
    struct seal_ring ring = {.n = 2};
    memset(ring.key, byte, sizeof ring.key);
    memset(ring.key[1], byte + 1, SEAL_KEY_BYTES);
    return ring;
}

static struct backup_made make(struct world *w, const char *path, const struct seal_ring *ring)
{
    struct backup_made made;
    struct backup_progress progress = {0};
    struct err_ctx err = {0};
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    if (backup_dump(&made,
                    &(struct backup_dump){.store = w->store,
                                          .fd = fd,
                                          .node = "n1",
                                          .ring = ring,
                                          .passphrase = passphrase,
                                          .n_passphrase = strlen(passphrase),
                                          .progress = &progress},
                    &err))
        fail_msg("%s", err.text);
    assert_int_equal(progress.rows, made.n_rows);
    assert_int_equal(progress.rows_total, made.n_rows);
    close(fd);
    return made;
}

static void store_text(struct world *w, uint64_t to, const void *text, size_t n)
{
    Imp__MessageStore b = IMP__MESSAGE_STORE__INIT;
    b.to_uid = to;
    b.from = b.to = (char *)"alice@example.com";
    b.stanza = BYTES(text, n);
    DONE(APPLY(w, MESSAGE_STORE, message_store, &b));
}

static void expect_damage(const char *path, const char *what, size_t at)
{
    struct err_ctx err = {0};
    int rc = backup_verify(path, &err);
    if (!rc || !*err.text)
        fail_msg("%s at %zu is not noticed", what, at);
}

static char *read_file(const char *path, size_t *n)
{
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    char *data = mem_alloc(*n);
    assert_int_equal(fread(data, 1, *n, f), *n);
    fclose(f);
    return data;
}

static void write_file(const char *path, const char *data, size_t n)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}

/* ---- damage ---- */

static void test_every_byte(void **state)
{
    struct world w;
    struct seal_ring ring = ring_of(1);
    struct err_ctx err = {0};
    world_open(&w);
    char *path = mem_printf("%s/b", w.dir), *bad = mem_printf("%s/bad", w.dir);
    for (int i = 0; i < 5; i++)
        world_add_user(&w, (char[]){'u', (char)('a' + i), 0});
    make(&w, path, &ring);
    assert_int_equal(backup_verify(path, &err), 0);
    size_t n;
    char *data = read_file(path, &n);
    for (size_t i = 0; i < n; i++) {
        data[i] ^= 1 << i % 8;
        write_file(bad, data, n);
        expect_damage(bad, "a changed bit", i);
        data[i] ^= 1 << i % 8;
    }
    for (size_t i = 0; i < n; i++) {
        write_file(bad, data, i);
        expect_damage(bad, "a cut", i);
    }
    data = mem_realloc(data, n + 1);
    data[n] = 0;
    write_file(bad, data, n + 1);
    expect_damage(bad, "a byte too many", n);
    mem_free(data);
    mem_free(path);
    mem_free(bad);
    world_close(&w);
}

/* A larger one: in every block the head, the checksum, the beginning, the middle and the end; blocks that
 * change places or are left out. */
static void test_every_block(void **state)
{
    enum { BLOCKS_MAX = 64 };
    struct world w;
    size_t n, at[BLOCKS_MAX + 1] = {0}, n_blocks = 0;
    static uint8_t noise[300000];
    world_open(&w);
    uint64_t alice = world_add_user(&w, "alice");
    char *path = mem_printf("%s/b", w.dir), *bad = mem_printf("%s/bad", w.dir);
    for (int i = 0; i < 20; i++) {
        for (size_t k = 0; k < sizeof noise; k++)
            noise[k] = (uint8_t)(k * 2654435761u >> 7 ^ k >> 3 ^ (size_t)i * k);
        store_text(&w, alice, noise, sizeof noise);
    }
    make(&w, path, NULL);
    assert_int_equal(backup_verify(path, NULL), 0);
    char *data = read_file(path, &n), *copy = mem_alloc(n);
    struct reader r;
    reader_init(&r, data + BACKUP_MAGIC_BYTES, 4);
    for (size_t p = BACKUP_MAGIC_BYTES + 4 + read_u32(&r) + 4; p < n; n_blocks++) {
        assert_true(n_blocks < BLOCKS_MAX);
        at[n_blocks] = p;
        reader_init(&r, data + p + 8, 4);
        p += BACKUP_BLOCK_HEAD + read_u32(&r);
        at[n_blocks + 1] = p;
    }
    assert_int_equal(at[n_blocks], n);
    assert_true(n_blocks > 4);
    for (size_t b = 0; b < n_blocks; b++) {
        size_t len = at[b + 1] - at[b];
        const size_t places[] = {0, 4, 8, 12, 16, BACKUP_BLOCK_HEAD, len / 2, len - 1};
        for (size_t i = 0; i < n_elements(places); i++) {
            data[at[b] + places[i]] ^= 0x40;
            write_file(bad, data, n);
            expect_damage(bad, "a changed byte", at[b] + places[i]);
            data[at[b] + places[i]] ^= 0x40;
        }
        memcpy(copy, data, at[b]);
        memcpy(copy + at[b], data + at[b + 1], n - at[b + 1]);
        write_file(bad, copy, n - len);
        expect_damage(bad, "a missing block", at[b]);
    }
    size_t first = at[1] - at[0], second = at[2] - at[1];
    memcpy(copy, data, n);
    memcpy(copy + at[0], data + at[1], second);
    memcpy(copy + at[0] + second, data + at[0], first);
    write_file(bad, copy, n);
    expect_damage(bad, "two blocks in each other's place", at[0]);
    mem_free(data);
    mem_free(copy);
    mem_free(path);
    mem_free(bad);
    world_close(&w);
}

/* ---- refusals, each with its own words ---- */

static void expect_text(const char *path, int code, const char *part)
{
    struct err_ctx err = {0};
    assert_int_equal(backup_verify(path, &err), code);
    if (!strstr(err.text, part))
        fail_msg("'%s' does not say '%s'", err.text, part);
}

static void test_refusals(void **state)
{
    struct world w;
    struct backup_reader *r;
    struct seal_ring ring = ring_of(1), out;
    struct err_ctx err = {0};
    world_open(&w);
    char *path = mem_printf("%s/b", w.dir), *bad = mem_printf("%s/bad", w.dir);
    expect_text(path, ERR_NOTFOUND, "No such file");
    write_file(bad, "", 0);
    expect_text(bad, ERR_MALFORMED, "is empty");
    write_file(bad, "-----BEGIN CERTIFICATE-----", 27);
    expect_text(bad, ERR_MALFORMED, "no backup");
    make(&w, path, &ring);
    size_t n;
    char *data = read_file(path, &n);
    write_file(bad, data, n - 10);
    expect_text(bad, ERR_CORRUPT, "cut short");
    data[n / 2] ^= 1;
    write_file(bad, data, n);
    expect_text(bad, ERR_CORRUPT, "damaged");
    mem_free(data);

    assert_int_equal(backup_reader_open(&r, path, &err), 0);
    const Imp__BackupHeader *h = backup_reader_header(r);
    assert_string_equal(h->domain, "example.com");
    assert_int_equal(backup_unwrap_keys(&out, h->keys, "wrong horse", 11, h->cluster_id.data, 16, &err),
                     ERR_AUTH);
    assert_string_equal(err.text, "the passphrase is wrong");
    assert_int_equal(
        backup_unwrap_keys(&out, h->keys, passphrase, strlen(passphrase), "another cluster!", 16, &err),
        ERR_AUTH);
    assert_int_equal(
        backup_unwrap_keys(&out, h->keys, passphrase, strlen(passphrase), h->cluster_id.data, 16, &err), 0);
    assert_int_equal(out.n, ring.n);
    assert_memory_equal(out.key, ring.key, 2 * SEAL_KEY_BYTES);
    backup_reader_close(r);

    Imp__NodeRegister reg = IMP__NODE_REGISTER__INIT;
    Imp__FeatureLevel level = IMP__FEATURE_LEVEL__INIT;
    reg.node = 1;
    reg.nonce = BYTES("0123456789abcdef", 16);
    reg.level = level.level = 99;
    DONE(APPLY(&w, NODE_REGISTER, node_register, &reg));
    DONE(APPLY(&w, FEATURE_LEVEL, feature_level, &level));
    make(&w, path, NULL);
    expect_text(path, ERR_VERSION, "feature level 99");
    mem_free(path);
    mem_free(bad);
    world_close(&w);
}

/* ---- one index, while the writer goes on ---- */

enum { N_COMMANDS_RUN = 3000 };
struct run {
    struct world w;
    struct store_hash hash[N_COMMANDS_RUN + 100]; /* by index */
    atomic_uint at;
};

static void *write_on(void *user)
{
    struct run *run = user;
    char name[24];
    for (int i = 0; i < N_COMMANDS_RUN; i++) {
        snprintf(name, sizeof name, "user%d", i);
        uint64_t uid = world_add_user(&run->w, name);
        if (i % 3 == 0) {
            Imp__UserRemove rm = IMP__USER_REMOVE__INIT;
            rm.uid = uid;
            DONE(APPLY(&run->w, USER_REMOVE, user_remove, &rm));
        }
        if (run->w.index >= n_elements(run->hash) - 2)
            break;
        run->hash[run->w.index] = world_hash(&run->w);
        atomic_store(&run->at, (unsigned)run->w.index);
    }
    atomic_store(&run->at, UINT_MAX);
    return NULL;
}

static void test_one_index(void **state)
{
    static struct run run;
    pthread_t thread;
    struct err_ctx err = {0};
    unsigned n_made = 0, n_checked = 0;
    world_open(&run.w);
    char *path = mem_printf("%s/b", run.w.dir), *dir = mem_printf("%s/copy", run.w.dir);
    struct store *copy;
    assert_int_equal(pthread_create(&thread, NULL, write_on, &run), 0);
    for (; atomic_load(&run.at) != UINT_MAX && n_made < 6; n_made++) {
        struct backup_made made = make(&run.w, path, NULL);
        if (backup_verify(path, &err))
            fail_msg("%s", err.text);
        while (atomic_load(&run.at) < made.index + 1)
            usleep(100);
        if (!run.hash[made.index].lo)
            continue; /* between a user's coming and going */
        /* The rows make the very state that the store had at that index. */
        struct backup_reader *r;
        struct backup_row row;
        assert_int_equal(backup_reader_open(&r, path, &err), 0);
        assert_int_equal(store_open(&copy, &(struct store_options){.dir = dir}, &err), 0);
        struct store_txn *t = store_begin(copy);
        while (backup_read_row(r, &row, &err) == 1) {
            struct key k;
            key_init(&k);
            key_bytes(&k, row.key, row.n_key);
            store_put(t, (enum table)table_find(backup_reader_header(r)->tables[row.table]->name), &k,
                      row.row, row.n_row);
        }
        struct store_hash hash;
        store_state_hash(t, &hash);
        assert_memory_equal(&hash, &run.hash[made.index], sizeof hash);
        store_abort(t);
        store_close_dirty(copy);
        backup_reader_close(r);
        test_dir_remove(strdup(dir));
        n_checked++;
    }
    pthread_join(thread, NULL);
    assert_true(n_checked > 0);
    mem_free(path);
    mem_free(dir);
    world_close(&run.w);
}

/* ---- restoring ---- */

static uint64_t rows_of(struct store_txn *t, enum table table)
{
    struct store_hash hash;
    uint64_t n;
    store_table_hash(t, table, &hash, &n);
    return n;
}

static void put_secret(struct world *w, const struct seal_ring *ring, const char *key, const char *purpose)
{
    struct buf sealed = {0};
    struct err_ctx err = {0};
    assert_int_equal(seal(ring, purpose, "secret", 6, &sealed, &err), 0);
    Imp__SettingChange c = IMP__SETTING_CHANGE__INIT, *list[] = {&c};
    Imp__SettingsApply b = IMP__SETTINGS_APPLY__INIT;
    c.key = (char *)key;
    c.sealed = BYTES(sealed.data, sealed.n);
    b.n_changes = 1;
    b.changes = list;
    DONE(APPLY(w, SETTINGS_APPLY, settings_apply, &b));
    buf_fini(&sealed);
}

/* A cluster of two nodes with users, messages, settings, an alarm, a token, a sync. */
static void fill(struct world *w, const struct seal_ring *ring)
{
    uint32_t n2 = world_join(w, "n2", false);
    world_up(w, 1);
    world_up(w, n2);
    uint64_t alice = world_add_user(w, "alice");
    world_add_user(w, "bob");
    DONE(world_sync_user(w, "0aa0b4b2-0000-0000-0000-000000000001", "carol", 1));
    Imp__SyncState sync = IMP__SYNC_STATE__INIT;
    Imp__SyncPosition position = IMP__SYNC_POSITION__INIT;
    position.queue_id = (char *)"q";
    sync.publisher_epoch = world_cluster(w)->publisher_epoch;
    sync.run = 1;
    sync.completed = sync.ok = true;
    sync.position = &position;
    sync.result = (char *)"good";
    DONE(APPLY(w, SYNC_STATE, sync_state, &sync));
    Imp__UserAssign assign = IMP__USER_ASSIGN__INIT;
    assign.n_uids = 1;
    assign.uids = &alice;
    assign.node = n2;
    DONE(APPLY(w, USER_ASSIGN, user_assign, &assign));
    Imp__MessageStore m = IMP__MESSAGE_STORE__INIT;
    m.to_uid = alice;
    m.from = m.to = (char *)"alice@example.com";
    m.stanza = BYTES("<body/>", 7);
    m.origin = (char *)"1.1.1.1";
    DONE(APPLY(w, MESSAGE_STORE, message_store, &m));
    Imp__AlarmRaise alarm = IMP__ALARM_RAISE__INIT;
    alarm.name = (char *)"NodeDown";
    alarm.node = n2;
    alarm.severity = 1;
    DONE(APPLY(w, ALARM_RAISE, alarm_raise, &alarm));
    world_set(w, "xmpp.offline_limit", "77");
    world_set(w, "node.n2.xmpp.offline_limit", "5");
    put_secret(w, ring, "axl.password", "setting:axl.password");
}

static void *row_of(struct store_txn *t, enum table table, const struct key *k, struct arena *a)
{
    void *row = store_find_row(t, table, k, a);
    assert_non_null(row);
    return row;
}

static const struct key none;

static void check_restored(struct store_txn *t, struct arena *a, uint64_t index)
{
    struct store_position p;
    store_get_position(t, &p, a);
    assert_int_equal(p.applied_index, index);
    const Imp__ClusterRow *cluster = row_of(t, TABLE_CLUSTER, &none, a);
    assert_memory_equal(cluster->cluster_id.data, "new cluster's id", 16);
    assert_int_equal(cluster->publisher, 1);
    assert_int_equal(cluster->next_node, 2);
    assert_int_equal(rows_of(t, TABLE_NODE), 1);
    assert_int_equal(rows_of(t, TABLE_NODE_BY_NAME), 1);
    static const enum table empty[] = {TABLE_NODE_TOMBSTONE, TABLE_TOKEN,          TABLE_PROPOSER,
                                       TABLE_ALARM,          TABLE_ALARM_OPEN,     TABLE_SERVICE,
                                       TABLE_MESSAGE_ORIGIN, TABLE_MESSAGE_REPEAT, TABLE_MESSAGE_ORIGIN_AGE,
                                       TABLE_HOME_PINNED};
    for (size_t i = 0; i < n_elements(empty); i++)
        if (rows_of(t, empty[i]))
            fail_msg("table %s still has rows of the old cluster", table_name(empty[i]));
    assert_int_equal(rows_of(t, TABLE_USER), 3);
    assert_int_equal(rows_of(t, TABLE_USER_BY_HOME), 3);
    assert_int_equal(rows_of(t, TABLE_USER_BY_JID), 3);
    assert_int_equal(rows_of(t, TABLE_HOME_COUNT), 1);
    assert_int_equal(rows_of(t, TABLE_MESSAGE) + rows_of(t, TABLE_MESSAGE_INDEX), 2);
    const Imp__SyncRow *sync = row_of(t, TABLE_SYNC, &none, a);
    assert_string_equal(sync->queue_id, "");
    assert_false(sync->first_done);
    assert_int_equal(sync->run, 1);
    struct key k;
    key_init(&k);
    key_u64(&k, index);
    key_u32(&k, 0);
    const Imp__AuditRow *audit = row_of(t, TABLE_AUDIT, &k, a);
    assert_non_null(strstr(audit->command, "impnode restore"));
    key_init(&k);
    key_str(&k, "xmpp.offline_limit");
    const Imp__SettingRow *setting = row_of(t, TABLE_SETTING, &k, a);
    assert_string_equal(setting->value, "77");
    key_init(&k);
    key_str(&k, "node.n2.xmpp.offline_limit");
    assert_false(store_has(t, TABLE_SETTING, &k));
}

static void restore_once(struct world *w, const char *path, const struct seal_ring *old, bool keys)
{
    struct seal_ring fresh = ring_of(50);
    struct backup_restored out;
    struct err_ctx err = {0};
    Imp__NodeRow node = IMP__NODE_ROW__INIT;
    Imp__CaRow ca = IMP__CA_ROW__INIT;
    node.id = 1;
    node.name = (char *)"r1";
    node.address = (char *)"10.0.0.9";
    ca.cert_pem = (char *)"NEW";
    char *dir = mem_printf("%s/restored%d", w->dir, keys);
    struct backup_restore r = {.path = path,
                               .store_dir = dir,
                               .old_ring = keys ? old : NULL,
                               .ring = &fresh,
                               .cluster_id = (const uint8_t *)"new cluster's id",
                               .node = &node,
                               .ca = &ca,
                               .now_ms = 5,
                               .conf = "conf",
                               .n_conf = 4};
    if (backup_restore(&out, &r, &err))
        fail_msg("%s", err.text);
    assert_int_equal(out.n_users, 3);
    assert_int_equal(out.index, w->index + 1);
    assert_int_equal(out.n_secrets, keys);
    if (keys)
        assert_int_equal(out.lost_secrets.n, 0);
    else
        assert_string_equal(out.lost_secrets.data, "axl.password");
    struct store *s;
    struct arena a;
    arena_init(&a);
    assert_int_equal(store_open(&s, &(struct store_options){.dir = dir}, &err), 0);
    struct store_reader *reader = store_reader_new(s);
    struct store_txn *t = store_read_txn(reader);
    check_restored(t, &a, out.index);
    struct key k;
    key_init(&k);
    key_str(&k, "axl.password");
    const Imp__SettingRow *secret = store_find_row(t, TABLE_SETTING, &k, &a);
    if (keys) {
        struct buf plain = {0};
        assert_non_null(secret);
        assert_int_equal(
            seal_open(old, "setting:axl.password", secret->sealed.data, secret->sealed.len, &plain, &err),
            ERR_NOTFOUND);
        assert_int_equal(
            seal_open(&fresh, "setting:axl.password", secret->sealed.data, secret->sealed.len, &plain, &err),
            0);
        assert_memory_equal(plain.data, "secret", 6);
        seal_buf_fini(&plain);
    } else {
        assert_null(secret);
    }
    store_reader_free(reader);
    store_close_dirty(s);
    arena_fini(&a);
    buf_fini(&out.lost_secrets);
    mem_free(dir);
}

static void test_restore(void **state)
{
    struct world w;
    struct seal_ring ring = ring_of(1);
    world_open(&w);
    char *path = mem_printf("%s/b", w.dir);
    fill(&w, &ring);
    make(&w, path, &ring);
    restore_once(&w, path, &ring, true);
    restore_once(&w, path, &ring, false);
    mem_free(path);
    world_close(&w);
}

/* Whoever adds a table says here what a restore does with it. */
static void test_every_table_has_a_policy(void **state)
{
    for (int t = 0; t < N_TABLES; t++) {
        enum backup_policy p = backup_policy(t);
        if (p == BACKUP_UNDECIDED || (p == BACKUP_LOCAL) != (table_scope(t) == SCOPE_LOCAL))
            fail_msg("node/backup/backup_rows.c does not say what a restore does with table %s",
                     table_name(t));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_byte), cmocka_unit_test(test_every_block),
        cmocka_unit_test(test_refusals),   cmocka_unit_test(test_one_index),
        cmocka_unit_test(test_restore),    cmocka_unit_test(test_every_table_has_a_policy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
