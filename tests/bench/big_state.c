/* big_state DIR [--users N] [--contacts N] [--messages N] [--message-bytes N] [--log-entries N]
 *
 * Fills the data directory of a node that has run once, alone, and is stopped: users, rosters and stored
 * messages through the state machine straight into the store, a few thousand commands a transaction; then the
 * log begins behind it, as after an install. With --log-entries so many entries of one message each follow in
 * the log, and the store is left as a crash would leave it, so that the next start has to apply them all. */
#include "base/clock.h"
#include "replication/fsm.h"
#include "replication/install.h"
#include "replication/replica.h"
#include "replication/rlog.h"
#include "replication/vote.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ENTRY_COMMANDS = 64, TXN_COMMANDS = 4096, BLOCK_USERS = 1000, ENTRIES_AT_ONCE = 512 };

struct options {
    const char *dir;
    uint64_t users, contacts, messages, message_bytes, log_entries;
};

struct fill {
    struct options o;
    char store_dir[4096];
    struct store *store;
    struct store_txn *txn;
    struct store_position position;
    struct arena arena, conf_arena;
    char *domain;
    uint64_t first_uid, next_user; /* the first of ours; number of the first new one */
    unsigned place, n_in_txn;
    char *stanza;
    /* what goes to the log instead of the store */
    uint64_t epoch, next_seq;
    uint32_t node;
};

static void die(const char *what, const struct err_ctx *err)
{
    fprintf(stderr, "big_state: %s%s%s\n", what, err ? ": " : "", err ? err->text : "");
    exit(1);
}

/* ---- the store ---- */

static void end_txn(struct fill *f)
{
    struct err_ctx err = {0};
    if (!f->txn)
        return;
    store_set_position(f->txn, &f->position);
    if (store_commit(f->txn, &err))
        die("commit", &err);
    f->txn = NULL;
    f->n_in_txn = 0;
}

static uint64_t apply(struct fill *f, Imp__Command *command)
{
    struct fsm_result result = {0};
    if (!f->txn)
        f->txn = store_begin(f->store);
    if (f->place == 0)
        f->position.applied_index++;
    struct fsm_input in = {
        .index = f->position.applied_index, .term = f->position.applied_term, .place = f->place};
    command->time_ms = clock_wall_ms();
    fsm_apply(f->txn, command, &in, &f->arena, &result);
    arena_reset(&f->arena);
    if (result.code)
        die(result.text, NULL);
    f->place = (f->place + 1) % ENTRY_COMMANDS;
    if (++f->n_in_txn == TXN_COMMANDS)
        end_txn(f);
    return result.value;
}

static void local_name(char out[32], uint64_t user)
{
    snprintf(out, 32, "big%06llu", (unsigned long long)user);
}

static void add_users(struct fill *f)
{
    for (uint64_t i = 0; i < f->o.users; i++) {
        char name[32], display[64], word[32];
        local_name(name, f->next_user + i);
        snprintf(display, sizeof display, "User Number %llu", (unsigned long long)(f->next_user + i));
        snprintf(word, sizeof word, "%llu", (unsigned long long)(f->next_user + i));
        char first[] = "user", second[] = "number", *words[] = {first, second, word};
        Imp__UserAdd body = IMP__USER_ADD__INIT;
        Imp__Command command = IMP__COMMAND__INIT;
        body.localpart = body.userid = name;
        body.display_name = display;
        body.words = words;
        body.n_words = 3;
        command.body_case = IMP__COMMAND__BODY_USER_ADD;
        command.user_add = &body;
        uint64_t uid = apply(f, &command);
        if (i == 0)
            f->first_uid = uid;
    }
}

/* Contacts are the next users of the same block: as in a firm, those who know each other are not spread
 * evenly. */
static void add_contacts(struct fill *f)
{
    for (uint64_t i = 0; i < f->o.users; i++) {
        uint64_t block = i / BLOCK_USERS * BLOCK_USERS;
        uint64_t n = f->o.users - block < BLOCK_USERS ? f->o.users - block : BLOCK_USERS;
        for (uint64_t j = 1; j <= f->o.contacts && j < n; j++) {
            char name[32], jid[400], group[] = "Colleagues", *groups[] = {group};
            local_name(name, f->next_user + block + (i - block + j) % n);
            snprintf(jid, sizeof jid, "%s@%s", name, f->domain);
            Imp__RosterSet body = IMP__ROSTER_SET__INIT;
            Imp__Command command = IMP__COMMAND__INIT;
            body.uid = f->first_uid + i;
            body.contact = jid;
            body.groups = groups;
            body.n_groups = 1;
            command.body_case = IMP__COMMAND__BODY_ROSTER_SET;
            command.roster_set = &body;
            apply(f, &command);
        }
    }
}

static void message_command(struct fill *f, uint64_t i, Imp__MessageStore *body, Imp__Command *command,
                            char texts[2][400])
{
    char name[32];
    local_name(name, f->next_user + (i + 1) % f->o.users);
    snprintf(texts[0], 400, "%s@%s/phone", name, f->domain);
    local_name(name, f->next_user + i % f->o.users);
    snprintf(texts[1], 400, "%s@%s", name, f->domain);
    imp__message_store__init(body);
    imp__command__init(command);
    body->to_uid = f->first_uid + i % f->o.users;
    body->from = texts[0];
    body->to = texts[1];
    snprintf(f->stanza, f->o.message_bytes, "<message type='chat' id='m%llu'><body>", (unsigned long long)i);
    f->stanza[strlen(f->stanza)] = 'x'; /* no two are alike */
    body->stanza.data = (uint8_t *)f->stanza;
    body->stanza.len = f->o.message_bytes;
    command->body_case = IMP__COMMAND__BODY_MESSAGE_STORE;
    body->pending = true;
    command->message_store = body;
}

static void add_messages(struct fill *f)
{
    for (uint64_t i = 0; i < f->o.messages; i++) {
        char texts[2][400];
        Imp__MessageStore body;
        Imp__Command command;
        message_command(f, i, &body, &command, texts);
        apply(f, &command);
    }
}

static void open_store(struct fill *f)
{
    struct err_ctx err = {0};
    struct key none;
    key_init(&none);
    snprintf(f->store_dir, sizeof f->store_dir, "%s/store", f->o.dir);
    struct store_options o = {.dir = f->store_dir};
    if (store_open(&f->store, &o, &err))
        die("open", &err);
    struct store_reader *r = store_reader_new(f->store);
    struct store_txn *t = store_read_txn(r);
    store_get_position(t, &f->position, &f->conf_arena);
    Imp__ClusterRow *cluster = store_find_row(t, TABLE_CLUSTER, &none, &f->arena);
    if (!cluster || !f->position.n_conf)
        die("the node must have run once", NULL);
    f->domain = mem_strdup(cluster->default_domain);
    f->next_user = f->first_uid = cluster->next_uid;
    struct store_iter i;
    store_iter_init(&i, t, TABLE_PROPOSER, &none);
    while (store_iter_next(&i)) {
        const Imp__ProposerRow *row = store_iter_row(&i, &f->arena);
        struct key_reader k;
        key_read(&k, i.key, i.n_key);
        f->node = key_read_u32(&k);
        f->epoch = row->epoch;
        f->next_seq = row->next_seq;
    }
    store_iter_fini(&i);
    store_reader_free(r);
    arena_reset(&f->arena);
}

/* ---- the log ---- */

static void on_log_fatal(void *user, int code, const char *text)
{
    fprintf(stderr, "big_state: the log: %s\n", text);
    exit(1);
}

static void on_log_done(void *user)
{
}

static struct blob *log_entry(struct fill *f, uint64_t i)
{
    char texts[2][400];
    Imp__MessageStore body;
    Imp__Command command;
    message_command(f, i, &body, &command, texts);
    command.time_ms = clock_wall_ms();
    Imp__Proposal proposal = IMP__PROPOSAL__INIT, *proposals[] = {&proposal};
    Imp__Entry entry = IMP__ENTRY__INIT;
    proposal.node = f->node;
    proposal.epoch = f->epoch;
    proposal.seq = f->next_seq++;
    proposal.command = &command;
    entry.proposals = proposals;
    entry.n_proposals = 1;
    uint8_t *bytes = mem_alloc(imp__entry__get_packed_size(&entry));
    struct blob *blob = blob_new(bytes, imp__entry__pack(&entry, bytes));
    mem_free(bytes);
    return blob;
}

static void add_log(struct fill *f)
{
    struct err_ctx err = {0};
    struct disk *disk;
    struct rlog *l;
    char dir[4096];
    if (replica_finish_install(f->o.dir, NULL, &err)) /* the log begins behind the store */
        die("log", &err);
    snprintf(dir, sizeof dir, "%s/log", f->o.dir);
    if (disk_open_directory(&disk, dir, &err))
        die("log", &err);
    struct rlog_config config = {
        .disk = disk, .salt = random_u64(), .on_done = on_log_done, .on_fatal = on_log_fatal};
    if (rlog_open(&l, &config, &err))
        die("log", &err);
    for (uint64_t i = 0; i < f->o.log_entries;) {
        struct rlog_entry entries[ENTRIES_AT_ONCE];
        unsigned n = 0;
        for (; n < ENTRIES_AT_ONCE && i < f->o.log_entries; n++, i++)
            entries[n] =
                (struct rlog_entry){f->position.applied_term, RLOG_COMMAND, log_entry(f, f->o.messages + i)};
        rlog_append(l, rlog_last(l) + 1, entries, n);
        for (unsigned k = 0; k < n; k++)
            blob_unref(entries[k].payload);
        while (rlog_write_begin(l))
            rlog_write_finish(l);
        rlog_poll(l);
    }
    rlog_close(l);
    disk_close_directory(disk);
}

/* ---- main ---- */

static void parse(struct options *o, int argc, char **argv)
{
    static const struct {
        const char *name;
        size_t at;
    } numbers[] = {{"--users", offsetof(struct options, users)},
                   {"--contacts", offsetof(struct options, contacts)},
                   {"--messages", offsetof(struct options, messages)},
                   {"--message-bytes", offsetof(struct options, message_bytes)},
                   {"--log-entries", offsetof(struct options, log_entries)}};
    for (int i = 1; i < argc; i++) {
        size_t k = 0;
        while (k < n_elements(numbers) && strcmp(argv[i], numbers[k].name) != 0)
            k++;
        if (k < n_elements(numbers) && i + 1 < argc)
            *(uint64_t *)((char *)o + numbers[k].at) = strtoull(argv[++i], NULL, 10);
        else if (*argv[i] != '-' && !o->dir)
            o->dir = argv[i];
        else
            die("unknown option", NULL);
    }
    if (!o->dir || !o->users || o->message_bytes < 64)
        die("big_state DIR [--users N] [--contacts N] [--messages N] [--message-bytes N] [--log-entries N]",
            NULL);
}

int main(int argc, char **argv)
{
    struct fill f = {.o = {.users = 1000, .contacts = 50, .messages = 10000, .message_bytes = 1024}};
    struct err_ctx err = {0};
    parse(&f.o, argc, argv);
    arena_init(&f.arena);
    arena_init(&f.conf_arena);
    f.stanza = mem_alloc(f.o.message_bytes);
    memset(f.stanza, 'x', f.o.message_bytes);
    uint64_t begin = clock_monotonic_ms();
    open_store(&f);
    add_users(&f);
    add_contacts(&f);
    add_messages(&f);
    end_txn(&f);
    uint64_t size = store_size_bytes(f.store);
    if (f.o.log_entries ? store_make_point(f.store, &err) : 0)
        die("point", &err);
    if (install_write_marker(f.o.dir, &f.position, &err))
        die("marker", &err);
    if (f.o.log_entries)
        store_close_dirty(f.store);
    else if (store_close_clean(f.store, &err))
        die("close", &err);
    if (f.o.log_entries)
        add_log(&f);
    printf("%llu users, %llu contacts each, %llu messages of %llu bytes, %llu entries in the log: %.1f MB in "
           "%.1f s\n",
           (unsigned long long)f.o.users, (unsigned long long)f.o.contacts, (unsigned long long)f.o.messages,
           (unsigned long long)f.o.message_bytes, (unsigned long long)f.o.log_entries, (double)size / 1e6,
           (double)(clock_monotonic_ms() - begin) / 1e3);
    mem_free(f.stanza);
    mem_free(f.domain);
    arena_fini(&f.arena);
    arena_fini(&f.conf_arena);
    return 0;
}
