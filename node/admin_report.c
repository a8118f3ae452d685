/* impcli report ... */
#include "base/mem.h"
#include "node/admin_handlers.h"

static const char *jid_of(struct admin_call *call, uint64_t uid)
{
    struct key k;
    key_init(&k);
    key_u64(&k, uid);
    const Imp__UserRow *user = store_find_row(admin_read(call), TABLE_USER, &k, &call->arena);
    return user ? admin_user_jid(call, user) : "";
}

/* What users said when they blocked somebody (XEP-0377). */
void admin_report_abuse(struct admin_call *call)
{
    static const struct admin_column columns[] = {
        {"time", "TIME"}, {"by", "BY"}, {"about", "ABOUT"}, {"reason", "REASON"}, {"text", "TEXT"}};
    json_t *array = json_array();
    struct store_iter it;
    struct key prefix;
    key_init(&prefix);
    store_iter_init(&it, admin_read(call), TABLE_ABUSE_REPORT, &prefix);
    while (store_iter_next(&it)) {
        const Imp__AbuseReportRow *r = store_iter_row(&it, &call->arena);
        struct key_reader k;
        key_read(&k, it.key, it.n_key);
        uint64_t uid = key_read_u64(&k);
        if (!r || k.failed)
            continue;
        json_t *ids = json_array();
        for (size_t i = 0; i < r->n_ids; i++)
            json_array_append_new(ids, json_string(r->ids[i]));
        json_array_append_new(array, json_pack("{s:o, s:s, s:s, s:s, s:s, s:s, s:o}", "time",
                                               admin_json_time(r->time_ms), "by", jid_of(call, uid), "about",
                                               r->jid, "reason", r->reason, "text", r->text, "lang", r->lang,
                                               "stanza_ids", ids));
    }
    store_iter_fini(&it);
    admin_reply_table(call, array, columns, n_elements(columns));
}
