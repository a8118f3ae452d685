/* Stanzas as they lie in the store: XML in "jabber:client" as envelope_write makes it. */
#ifndef IM_STORED_H
#define IM_STORED_H

#include "base/arena.h"
#include "im/envelope.h"

struct xml;

/* The start tag's attributes that are kept as they were written: all but from, to, id, type, xml:lang and a
 * default namespace. TAG is the text between '<' and the first '>' of a well-formed element. Appends each
 * with a leading space. */
void stanza_extra_attributes(struct buf *out, const char *tag, size_t n_bytes);
/* The element as an envelope with FROM and TO. NULL when it is no stanza. */
struct envelope *stored_stanza(const void *data, size_t n_bytes, const char *from, const char *to);
/* The stanza of E as a tree in ARENA, without from and to; NULL when its payload cannot be read. Costs a
 * parse: for who must look inside of what passes. */
struct xml *stanza_tree(const struct envelope *e, struct arena *arena);

/* The id of a stored message for clients (XEP-0359 stanza-id, XEP-0313): its log index and place, enciphered
 * with a key of the cluster, as an id must not be guessed nor tell anything (XEP-0313 §3.1, XEP-0359 §6; ADR
 * 0044). NULL for IDS: as they are, in a cluster that has no key (below level 3). One per shard. */
struct stored_ids;
enum { STORED_ID_MAX = 40 };
struct stored_ids *stored_ids_new(const void *key, size_t n_bytes); /* NULL: that is no key */
void stored_ids_free(struct stored_ids *ids);
void stored_id_write(struct stored_ids *ids, char out[STORED_ID_MAX], uint64_t index, uint32_t place);
bool stored_id_parse(struct stored_ids *ids, const char *id, uint64_t *index,
                     uint32_t *place); /* false: no id of ours */
/* Appends <stanza-id/> of the account BY (XEP-0359 §3.1) if E is stored. */
void stored_id_element(struct stored_ids *ids, struct buf *out, const struct envelope *e, const char *by);

#endif
