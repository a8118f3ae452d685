#include "replication/fsm/fsm_internal.h"
#include <string.h>

/* Of administrative writes; the oldest go. */
enum { AUDIT_MAX = 10000, AUDIT_DROP_PER_COMMAND = 4, AUDIT_TEXT_MAX = 1000 };

static void drop_oldest(struct fsm *f)
{
    struct store_hash hash;
    uint64_t n_rows;
    store_table_hash(f->txn, TABLE_AUDIT, &hash, &n_rows);
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_AUDIT, NULL);
    for (int n = 0; n < AUDIT_DROP_PER_COMMAND && n_rows > AUDIT_MAX && store_iter_next(&i); n++, n_rows--) {
        struct key k;
        key_init(&k);
        key_bytes(&k, i.key, i.n_key);
        store_delete(f->txn, TABLE_AUDIT, &k);
    }
    store_iter_fini(&i);
}

/* Cut between two characters. */
static char *short_text(struct fsm *f, char *text)
{
    size_t n = strlen(text);
    if (n <= AUDIT_TEXT_MAX)
        return text;
    for (n = AUDIT_TEXT_MAX; n && ((unsigned char)text[n] & 0xc0) == 0x80; n--)
        ;
    return arena_strndup(f->arena, text, n);
}

void fsm_audit(struct fsm *f)
{
    const Imp__Audited *a = f->command->audited;
    Imp__AuditRow row = IMP__AUDIT_ROW__INIT;
    row.time_ms = f->now_ms;
    row.node = a->node;
    row.os_uid = a->os_uid;
    row.who = short_text(f, a->who);
    row.command = short_text(f, a->command);
    const Imp__Note *note = f->command->body_case == IMP__COMMAND__BODY_NOTE ? f->command->note : NULL;
    row.result = f->out->code            ? f->out->text
                 : note && *note->result ? short_text(f, note->result)
                                         : (char *)"done";
    struct key k;
    key_init(&k);
    key_u64(&k, f->in->index);
    key_u32(&k, f->in->place);
    store_put_row(f->txn, TABLE_AUDIT, &k, &row);
    drop_oldest(f);
}
