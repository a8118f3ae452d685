/* PEP (XEP-0163) as it lies in the store: nodes, items, and who may see them. Reads alone, from any
 * transaction: the state machine and the protocols share them. Rows live in the arena. */
#ifndef REPLICATION_PEP_H
#define REPLICATION_PEP_H

#include "storage/store.h"

enum pep_field {
#define X(id, bit, member, type, var, choices, label) PEP_FIELD_##id = 1 << bit,
#include "replication/pep_config.def"
#undef X
};
enum {
    PEP_NODE_MAX = 1023,   /* bytes of a node's name and of an item's id */
    PEP_GROUPS_MAX = 64,   /* of a configuration */
    PEP_PARTIES_MAX = 1000 /* of a node: subscribers and affiliations of others than the owner */
};

/* Do the two agree in FIELDS (enum pep_field)? */
bool pep_config_agrees(const Imp__PepConfig *a, const Imp__PepConfig *b, uint32_t fields);

Imp__PepUserRow *pep_find_user(struct store_txn *t, uint64_t uid, struct arena *a); /* NULL: no PEP data */
Imp__PepNodeRow *pep_find_node(struct store_txn *t, uint64_t uid, const char *node, struct arena *a);
Imp__PepItemRow *pep_find_item(struct store_txn *t, uint64_t uid, const Imp__PepNodeRow *node, const char *id,
                               struct arena *a);
Imp__PepItemRow *pep_last_item(struct store_txn *t, uint64_t uid, const Imp__PepNodeRow *node,
                               struct arena *a); /* NULL: none */
/* "none" with no subscription when there is no row; never NULL. JID: bare. */
Imp__PepPartyRow *pep_get_party(struct store_txn *t, uint64_t uid, const Imp__PepNodeRow *node,
                                const char *jid, struct arena *a);

/* All items, oldest first; with store_iter_descending before the first step the newest first. Position in the
 * order: the key behind the prefix. */
void pep_items_init(struct store_iter *i, struct store_txn *t, uint64_t uid, const Imp__PepNodeRow *node);
/* The item's key in PEP_ITEM, for store_iter_seek; false: there is none. */
bool pep_item_key(struct store_txn *t, uint64_t uid, const Imp__PepNodeRow *node, const char *id,
                  struct arena *a, struct key *out);

/* May JID (bare, not the owner's) read the items and subscribe (XEP-0060 §4.5)? */
enum pep_access {
    PEP_MAY,
    PEP_MUST_ASK,     /* authorize: a subscription has to be approved */
    PEP_NO_PRESENCE,  /* presence: it has no presence subscription */
    PEP_NOT_IN_GROUP, /* roster */
    PEP_NOT_LISTED,   /* whitelist */
    PEP_IS_OUTCAST,
};
enum pep_access pep_check_access(struct store_txn *t, uint64_t uid, const Imp__PepNodeRow *node,
                                 const char *jid, struct arena *a);
/* May it publish (§4.1, publish_model)? */
bool pep_may_publish(struct store_txn *t, uint64_t uid, const Imp__PepNodeRow *node, const char *jid,
                     struct arena *a);

/* Keys, for the state machine and for iterations. */
struct key pep_key_node(uint64_t uid, const char *node);
struct key pep_key_number(uint64_t uid, uint32_t number); /* prefix of items, ids and parties */
struct key pep_key_number_str(uint64_t uid, uint32_t number, const char *s);
struct key pep_key_item(uint64_t uid, uint32_t items, const Imp__PepItemRefRow *ref);
struct key pep_key_by_jid(const char *jid, uint64_t uid, uint32_t number);

#endif
