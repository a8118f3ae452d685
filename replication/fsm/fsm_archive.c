/* The archive (XEP-0313): whose messages a user wants in it. */
#include "replication/fsm/fsm_internal.h"
#include <string.h>

enum {
    JIDS_MAX = 256 /* in each list */,
    JID_BYTES_MAX = 3071 /* RFC 7622 §3.1 */,
    PREFS_BYTES_MAX = 64 << 10
};

/* Adds the bytes of the list to N; false: it is no list of JIDs. */
static bool check_jids(char **jids, size_t n_jids, size_t *n)
{
    if (n_jids > JIDS_MAX)
        return false;
    for (size_t i = 0; i < n_jids; i++) {
        if (!fsm_is_text(jids[i], 1, JID_BYTES_MAX))
            return false;
        *n += strlen(jids[i]);
    }
    return true;
}

void fsm_do_archive_prefs_set(struct fsm *f, const void *body)
{
    const Imp__ArchivePrefsSet *b = body;
    const Imp__ArchivePrefsRow *p = b->prefs;
    size_t n = 0;
    if (!fsm_find_user(f, b->uid)) {
        fsm_refuse(f, ERR_NOTFOUND, "there is no such user");
        return;
    }
    if (p &&
        ((unsigned)p->mode > IMP__ARCHIVE_MODE__ARCHIVE_NEVER || !check_jids(p->always, p->n_always, &n) ||
         !check_jids(p->never, p->n_never, &n) || n > PREFS_BYTES_MAX)) {
        fsm_refuse(f, ERR_INVALID, "the archive preferences have too many addresses, or one that is none");
        return;
    }
    struct key k = fsm_key_u64(b->uid);
    if (p && (p->mode || n))
        store_put_row(f->txn, TABLE_ARCHIVE_PREFS, &k, p);
    else
        store_delete(f->txn, TABLE_ARCHIVE_PREFS, &k);
}
