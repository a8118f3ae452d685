/* The admin server: impcli's requests from DIR/admin.sock, on the control loop. One request a connection.
 *
 * A command's handler is one function admin_<area>_<verb> in node/admin_<area>.c, found through commands.def.
 * It answers now or later, exactly once, with admin_reply, admin_done or admin_fail; the call is freed after
 * that. */
#ifndef NODE_ADMIN_H
#define NODE_ADMIN_H

#include "base/arena.h"
#include "base/loop.h"
#include "cluster/link.h"
#include "admin.pb-c.h"
#include "node/rpc/command.h"
#include "replication/replica.h"
#include "storage/store.h"
#include <jansson.h>

struct admin_backups;
struct im;
struct seal_ring;
struct services;
struct sync_agent;
struct watcher;

/* What the commands act on. All on the control loop; owned by the node, living longer than the server. */
struct admin_env {
    struct loop *loop;
    struct log *log_root;
    struct replica *replica;
    struct links *links;
    struct store_reader *reader;
    const struct seal_ring *seal;
    struct services *services;
    struct repair *repair; /* NULL: a node that is no process of its own (tests) */
    struct watcher *watcher;
    const bool *alone; /* without a majority for so long that writes are refused; NULL: never */
    const bool *was_removed; /* another member says that this node was removed; NULL: never */
    struct sync_agent *sync;
    struct im *im;
    struct store *store;
    struct admin_backups *backups;
    uint32_t node_id;
    const char *node_name;
    const char *data_dir;
    /* A new cluster key, stored on this node; KEY_ID: its 8 bytes. */
    int (*begin_keys)(void *node, uint8_t *key_id, struct err_ctx *err);
    void *node;
    const uint8_t *ca_fingerprint; /* 32 bytes, of the CA that signs now */
    uint64_t opened_ms; /* CLOCK_MONOTONIC; admin_open fills it */
};

struct admin;
int admin_open(struct admin **out, const struct admin_env *env, struct err_ctx *err);
/* Ends the connections; A is freed with the last of them. No call of another node may come any more (the
 * links end, or the loop no longer turns), and calls whose answer is still awaited are dropped. May be NULL.
 */
void admin_close(struct admin *a);

/* A command that is not impcli's: an administrator's by XMPP. Answered exactly once, with a line for a person, unless A
 * closes before. WHO stands in the audit. */
typedef void admin_reply_fn(void *user, bool ok, const char *text);

void admin_run(struct admin *a, const struct Imp__AdminRequest *request, const char *who,
               admin_reply_fn *on_reply, void *user);

struct admin_call {
    const struct admin_env *env;
    const struct command *command;
    const char *const *args;
    unsigned n_args;
    const char *input;
    size_t n_input;
    struct arena arena;        /* ends with the call */
    struct admin_names *names; /* of nodes and domains, read once; in the arena */
    uint32_t os_uid;
    char who[64];
    bool is_audited; /* its record is on its way with a proposal, or another node wrote it */
    bool is_look;    /* a WRITE command in a form that only reads: no record */
    void *state;     /* the handler's, in the arena */
    void (*on_gone)(struct admin_call *call); /* the front end left: stop what goes on, then admin_fail */
    struct admin_connection *connection;
};
typedef void admin_handler_fn(struct admin_call *call);

/* Forgets what is in the arena, for a call that goes on (--watch): nothing of it may be in use. */
void admin_rewind(struct admin_call *call);

/* Value of an option, NULL when not given; "" for a switch. */
const char *admin_option(const struct admin_call *call, const char *name);

/* The answers. json and text are taken over; text NULL: nothing for a person. */
void admin_reply(struct admin_call *call, json_t *json, struct buf *text);
void admin_reply_more(struct admin_call *call, json_t *json,
                      struct buf *text); /* --watch: not the last one */
/* A piece of a file that the front end writes, and progress; not the last answer. */
struct admin_part {
    const void *data;
    size_t n;
    uint64_t done, total;
};
void admin_send_part(struct admin_call *call, const struct admin_part *part);
size_t admin_queued(const struct admin_call *call); /* bytes of answers that the front end has not taken */
void admin_done(struct admin_call *call, const char *format, ...) __attribute__((format(printf, 2, 3)));
void admin_fail(struct admin_call *call, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A list of objects as table: columns by JSON key. */
struct admin_column {
    const char *key, *title;
};
void admin_reply_table(struct admin_call *call, json_t *array, const struct admin_column *columns,
                       unsigned n_columns);

/* Reads at this turn's snapshot. */
struct store_txn *admin_read(struct admin_call *call);
/* Proposes with the audit record of this call; on_done gets the call. When it cannot be submitted the call
 * has failed with a text and false is returned. */
bool admin_propose(struct admin_call *call, Imp__Command *command, proposal_done_fn *on_done);
/* NULL, or why no write can succeed here now: "n3 has no contact to a majority of the voters (no answer from n1, n2)".
 * In the arena. */
const char *admin_alone(struct admin_call *call);
/* The command line of the call as the audit shows it. */
void admin_audit_line(struct buf *line, struct admin_call *call);
/* admin_done of an act that has no proposal of its own (a kick, a service): its audit record is written, but
 * not waited for. */
void admin_acted(struct admin_call *call, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* At the end of the call: an administrative write that has no record yet (refused before anything was
 * proposed) gets one. */
void admin_audit_end(struct admin_call *call, const char *result);
/* Proposes one checked setting; the call fails when the value is not allowed. */
void admin_set_setting(struct admin_call *call, const char *key, const char *value,
                       proposal_done_fn *on_done);
/* For on_done: false when the result is a refusal; the call has then been answered. */
bool admin_accepted(struct admin_call *call, const struct proposal_result *result);

/* Look-ups that answer the call themselves (and return NULL) when there is no such thing. */
Imp__NodeRow *admin_find_node(struct admin_call *call, const char *name);
Imp__NodeRow *admin_self(struct admin_call *call);                        /* never NULL */
Imp__UserRow *admin_find_user(struct admin_call *call, const char *name); /* "user" or "user@domain" */
const char *admin_node_name(struct admin_call *call, uint32_t node);      /* "" for 0 */
const char *admin_user_jid(struct admin_call *call, const Imp__UserRow *user);

/* Lets NODE execute this same call and hands its answer on. */
void admin_forward(struct admin_call *call, uint32_t node);

/* METHOD on every member but this one. on_reply per node that answered, then on_all once. */
struct admin_gather {
    struct admin_call *call;
    unsigned n_open, timeout_ms; /* 0: 2 s */
    void (*on_reply)(struct admin_gather *g, uint32_t node, int code, const uint8_t *data, size_t n_bytes);
    void (*on_all)(struct admin_gather *g);
};
void admin_gather(struct admin_gather *g, const char *method, const void *data, size_t n_bytes);

#define ADMIN_TIME_BYTES 32
/* "2026-01-31T12:00:00Z", JSON null for 0. */
json_t *admin_json_time(uint64_t wall_ms);

#endif
