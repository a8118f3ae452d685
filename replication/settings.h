/* Replicated settings: the table of all keys, checks, and typed reads from a transaction. Checks depend on the table
 * alone, so that proposer and FSM agree. Any thread. */
#ifndef REPLICATION_SETTINGS_H
#define REPLICATION_SETTINGS_H

#include "storage/store.h"

enum setting {
#define X(id, key, type, unit, min, max, def, choices, help) SETTING_##id,
#include "replication/settings.def"
#undef X
    N_SETTINGS
};
enum setting_type { SETTING_IS_BOOL, SETTING_IS_INT, SETTING_IS_STRING, SETTING_IS_ENUM, SETTING_IS_SECRET };
struct setting_def {
    const char *key;
    enum setting_type type;
    const char *unit;
    long long min, max;
    const char *initial; /* the default */
    const char *choices; /* "a|b|c" */
    const char *help;
    unsigned level; /* of the cluster, from which it may be set */
};
extern const struct setting_def setting_defs[N_SETTINGS];

enum { SETTING_NODE_NAME_MAX = 64 };
/* KEY or "node.NAME.KEY". Returns enum setting or ERR_NOTFOUND; node (may be NULL; SETTING_NODE_NAME_MAX bytes): NAME or "". */
int setting_find(const char *key, char *node);
/* Is VALUE allowed for the key? ERR_NOTFOUND (no such key) or ERR_INVALID, with a sentence. Secrets are not checked. */
int setting_check(const char *key, const char *value, struct err_ctx *err);

/* Reads: node override first (node_name may be NULL), then the cluster's value, then the default. */
long long setting_int(struct store_txn *t, const char *node_name, enum setting id);
bool setting_bool(struct store_txn *t, const char *node_name, enum setting id);
/* In the arena; never NULL. For a SECRET: "" (see setting_sealed). */
const char *setting_string(struct store_txn *t, const char *node_name, enum setting id, struct arena *a);
/* Sealed bytes of a SECRET; false when not set. */
bool setting_sealed(struct store_txn *t, enum setting id, struct arena *a, const uint8_t **data, size_t *n_bytes);

#endif
