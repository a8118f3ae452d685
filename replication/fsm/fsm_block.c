/* Block lists and reports of abuse (XEP-0191, XEP-0377). Level 3. */
#include "replication/fsm/fsm_internal.h"
#include <string.h>

enum { REPORTS_MAX = 100 /* kept of one user; the oldest go */, REPORT_IDS_MAX = 64, REPORT_TEXT_MAX = 4096 };

static bool has_row(struct fsm *f, uint64_t uid, const char *jid)
{
    struct key k = fsm_key_u64_str(uid, jid);
    return store_find_row(f->txn, TABLE_BLOCK, &k, f->arena) != NULL;
}

bool fsm_blocks(struct fsm *f, uint64_t uid, const char *jid)
{
    if (f->level < LEVEL_3)
        return false;
    const char *at = strchr(jid, '@');
    return has_row(f, uid, jid) || (at && has_row(f, uid, at + 1));
}

static unsigned count_rows(struct fsm *f, enum table table, uint64_t uid)
{
    struct key prefix = fsm_key_u64(uid);
    struct store_iter i;
    unsigned n = 0;
    store_iter_init(&i, f->txn, table, &prefix);
    while (store_iter_next(&i))
        n++;
    store_iter_fini(&i);
    return n;
}

static unsigned purge(struct fsm *f, enum table table, uint64_t uid, unsigned max)
{
    struct key prefix = fsm_key_u64(uid);
    struct store_iter i;
    unsigned n = 0;
    store_iter_init(&i, f->txn, table, &prefix);
    while (n < max && store_iter_next(&i)) {
        struct key k;
        key_init(&k);
        key_bytes(&k, i.key, i.n_key);
        store_delete(f->txn, table, &k);
        n++;
    }
    store_iter_fini(&i);
    return n;
}

unsigned fsm_block_purge(struct fsm *f, uint64_t uid, unsigned max)
{
    unsigned n = purge(f, TABLE_BLOCK, uid, max);
    return n < max ? n + purge(f, TABLE_ABUSE_REPORT, uid, max - n) : n;
}

static bool are_jids(char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!fsm_is_text(list[i], 1, FSM_JID_MAX))
            return false;
    return n <= FSM_MAX_ROWS;
}

static bool are_reports(const Imp__BlockSet *b)
{
    for (size_t i = 0; i < b->n_reports; i++) {
        const Imp__AbuseReport *r = b->reports[i];
        bool good = fsm_is_text(r->jid, 1, FSM_JID_MAX) && fsm_is_text(r->reason, 1, FSM_TEXT_MAX) &&
                    strlen(r->text) <= REPORT_TEXT_MAX && fsm_is_text(r->lang, 0, FSM_NAME_MAX) &&
                    r->n_ids <= REPORT_IDS_MAX;
        for (size_t k = 0; good && k < r->n_ids; k++)
            good = fsm_is_text(r->ids[k], 1, FSM_TEXT_MAX);
        if (!good)
            return false;
    }
    return b->n_reports <= REPORTS_MAX;
}

/* JIDs of LIST that are not blocked yet, each once. */
static unsigned count_new(struct fsm *f, uint64_t uid, char *const *list, size_t n)
{
    unsigned found = 0;
    for (size_t i = 0; i < n; i++) {
        bool again = false;
        for (size_t k = 0; k < i && !again; k++)
            again = strcmp(list[i], list[k]) == 0;
        found += !again && !has_row(f, uid, list[i]);
    }
    return found;
}

static bool refuse(struct fsm *f, const Imp__BlockSet *b)
{
    const Imp__UserRow *user = fsm_find_user(f, b->uid);
    if (!user) {
        fsm_refuse(f, ERR_NOTFOUND, "there is no such user");
        return true;
    }
    if (!fsm_is_at_home(f, user))
        return true;
    if (!are_jids(b->block_jid, b->n_block_jid) || !are_jids(b->unblock_jid, b->n_unblock_jid) ||
        !are_reports(b)) {
        fsm_refuse(f, ERR_INVALID, "an address or a report is empty, too long, or there are too many");
        return true;
    }
    if (!!b->n_block_jid + !!b->n_unblock_jid + !!b->unblock_all != 1) {
        fsm_refuse(f, ERR_INVALID, "one of block, unblock and unblock all is expected");
        return true;
    }
    long long n = count_rows(f, TABLE_BLOCK, b->uid) + count_new(f, b->uid, b->block_jid, b->n_block_jid);
    if (b->n_block_jid && n > setting_int(f->txn, NULL, SETTING_LIMIT_BLOCKED))
        fsm_refuse(f, ERR_LIMIT, "the block list is full");
    return f->out->code != 0;
}

static void add_reports(struct fsm *f, const Imp__BlockSet *b)
{
    if (!b->n_reports)
        return;
    for (size_t i = 0; i < b->n_reports; i++) {
        const Imp__AbuseReport *r = b->reports[i];
        struct key k = fsm_key_u64_u64_u32(b->uid, f->in->index, f->in->place);
        key_u32(&k, (uint32_t)i);
        Imp__AbuseReportRow row = IMP__ABUSE_REPORT_ROW__INIT;
        row.jid = r->jid;
        row.reason = r->reason;
        row.text = r->text;
        row.lang = r->lang;
        row.n_ids = r->n_ids;
        row.ids = r->ids;
        row.time_ms = f->now_ms;
        store_put_row(f->txn, TABLE_ABUSE_REPORT, &k, &row);
    }
    unsigned n = count_rows(f, TABLE_ABUSE_REPORT, b->uid);
    if (n > REPORTS_MAX)
        purge(f, TABLE_ABUSE_REPORT, b->uid, n - REPORTS_MAX);
}

void fsm_do_block_set(struct fsm *f, const void *body)
{
    const Imp__BlockSet *b = body;
    if (refuse(f, b))
        return;
    if (b->unblock_all)
        purge(f, TABLE_BLOCK, b->uid, UINT32_MAX);
    for (size_t i = 0; i < b->n_unblock_jid; i++) {
        struct key k = fsm_key_u64_str(b->uid, b->unblock_jid[i]);
        store_delete(f->txn, TABLE_BLOCK, &k);
    }
    for (size_t i = 0; i < b->n_block_jid; i++) {
        if (has_row(f, b->uid, b->block_jid[i]))
            continue;
        struct key k = fsm_key_u64_str(b->uid, b->block_jid[i]);
        Imp__BlockRow row = IMP__BLOCK_ROW__INIT;
        row.time_ms = f->now_ms;
        store_put_row(f->txn, TABLE_BLOCK, &k, &row);
    }
    add_reports(f, b);
    f->out->value = count_rows(f, TABLE_BLOCK, b->uid);
}
