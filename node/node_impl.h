/* struct node, seen by the files of the boot and the node's own duties only. Everything is on the control
 * loop but what says otherwise. */
#ifndef NODE_NODE_IMPL_H
#define NODE_NODE_IMPL_H

#include "base/clock.h"
#include "base/loop.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "cluster/certs.h"
#include "cluster/datadir.h"
#include "cluster/identity.h"
#include "cluster/join.h"
#include "cluster/link.h"
#include "cluster/member_manager.h"
#include "cluster/members.h"
#include "cluster/plane.h"
#include "cluster/seal.h"
#include "im/shard.h"
#include "node/admin.h"
#include "node/alarm.h"
#include "node/config.h"
#include "node/node.h"
#include "node/repair.h"
#include "node/service.h"
#include "node/supervisor.h"
#include "node/watcher.h"
#include "replication/replica.h"
#include "replication/settings.h"
#include "storage/store.h"
#include <pthread.h>
#include <stdatomic.h>

struct admission;
struct auth;
struct c2s_edge;
struct components;
struct http_server;
struct web;
struct keys;
struct node_tls;
struct scrubber;
struct sync_glue;
struct xmpp;

/* What changed in the store since the control loop last looked. */
enum node_dirty {
    DIRTY_MEMBERS = 1,
    DIRTY_SERVICES = 2,
    DIRTY_SETTINGS = 4,
    DIRTY_CERTS = 8,
    DIRTY_CA = 16,
    DIRTY_SYNC = 32,
    DIRTY_HOMES = 64, /* a row of a user or node: homes may have moved */
    DIRTY_ALL = 127,
};

/* memory.c */
struct memory_duty {
    int64_t n_logins, n_sessions; /* as last seen, */
    uint64_t changed_ms;          /* and when that was */
    int64_t n_changes;            /* since memory was given back, */
    uint64_t since_ms;            /* the first of them */
    uint64_t took_us;
    struct work work;
    bool running;
};

struct node {
    struct node_options options;
    struct config config;
    struct datadir dir;
    struct datadir_identity id;
    struct seal_ring ring;
    uint64_t fence_index;              /* after a recovery: until this is applied nobody else may speak */
    char address[CONFIG_TEXT_MAX + 1]; /* what the others are told */
    char *key_pem, *cert_pem, *ca_pem; /* ca_pem: all generations, the one that signs first */
    uint8_t ca_fingerprint[32];        /* of the one that signs */
    uint32_t ca_generation;            /* that signed cert_pem; 0: not known yet */
    unsigned certs_every_ms;
    struct tls_ctx *tls_server, *tls_link, *tls_raft;
    struct tls_sni *client_sni; /* certificates that clients see; swapped as a whole */
    struct certs_found certs_found;
    uint8_t start_nonce[16];

    struct log *log_root, *log;
    struct metrics metrics;
    struct loop *loop;
    pthread_t signal_thread;
    bool stopping;

    struct store *store;
    struct store_reader *reader;
    struct scrubber *scrubber;
    struct repair *repair;
    struct archive_trim *archive_trim; /* archive_trim.c; NULL: not leader yet */
    struct loop_hook before_poll;
    struct replica *replica;
    struct members *members;
    struct peers *peers; /* peers.c */
    struct peers *hints; /* what impnode.yaml says of where others are */
    char *peers_text;    /* what the file has */
    struct links *links;
    struct plane *plane;
    struct join_server *join;
    struct member_manager *manager;
    struct services *services;
    struct alarms *alarms;
    struct keys *keys;
    struct admin_env admin_env;
    struct admin *admin;
    struct im *im;
    struct homes *homes;
    uint64_t homes_index; /* of the last feed event that may have moved homes */
    struct xmpp *xmpp;
    struct components *components;
    struct auth *auth;
    struct admission *admission; /* of client connections */
    struct c2s_edge *edge;       /* NULL: a witness */
    struct sync_glue *sync;
    struct http_server *http;
    struct web *web; /* XMPP over HTTPS; NULL: a witness */

    struct watcher watcher;
    uint64_t barrier_index; /* committed when this process started; 0: not reached yet */
    bool barrier_in_flight;
    bool up_in_flight, left_in_flight, update_in_flight, cert_in_flight;
    bool was_member;       /* this node's row has been seen */
    bool was_told_removed; /* by another member */
    uint64_t removed_ms;
    uint64_t no_lease_ms, outage_since_ms;      /* CLOCK_BOOTTIME; wall clock, 0: clients are served */
    bool im_serving, xmpp_wanted, xmpp_serving; /* the services run */
    bool all_running_told;
    uint64_t epoch; /* of the proposer session, as last told to the links */
    uint64_t update_retry_ms, alarms_stepped_ms, quorum_lost_ms, clock_checked_ms, certs_checked_ms,
        default_checked_ms, progress_ms;
    struct memory_duty memory;
    /* disk_check.c */
    uint64_t free_checked_ms, stuck_checked_ms;
    bool disk_was_low, was_full_told, replication_stands;
    struct stuck_peer {
        uint32_t node;
        uint64_t match_index, since_ms; /* since when it has not moved */
    } stuck_peers[REPLICA_MAX_PEERS];
    unsigned n_stuck_peers, n_late; /* steps in which replication stood still */
    uint64_t alone_ms;              /* since when without a majority; 0: with one */
    bool alone;                     /* for so long that writes are refused at once */
    bool quorum_lost;               /* the alarm's */
    struct replica_status status;
    struct {
        bool in_flight;
        uint64_t retry_ms;
        uint64_t from_uid, from_index; /* where the next step of a migration goes on */
        bool migrated;                 /* nothing is left of before level 2 */
    } level;

    unsigned dirty; /* enum node_dirty */
    struct deferred changed;
    struct timer tick;
};

/* boot.c: the steps in order. After a failed start the process ends. */
int boot_start(struct node *n, struct err_ctx *err);
void boot_stop(struct node *n);

/* control.c */
int control_start(struct node *n,
                  struct err_ctx *err); /* reader, alarms, services, feed: before replica_start */
void control_begin(struct node *n);     /* after replica_start */
void control_stop(struct node *n);
void control_touch(struct node *n, unsigned dirty); /* looked at later in this turn */
void control_step(struct node *n);                  /* watcher, services, up, lease: after any change */
/* This node's services run: alarms that say otherwise end. */
void control_clear_delays(struct node *n);
struct store_txn *control_read(struct node *n);
int control_submit(struct node *n, Imp__Command *command, proposal_done_fn *on_done, void *user);
const struct member *control_self(const struct node *n); /* NULL until the own row is applied */
bool control_is_publisher(const struct node *n);

/* duties.c: what a node checks by itself once in a while */
void duties_step(struct node *n, uint64_t now_ms);
/* memory.c: gives back what log-ins and ended sessions have left behind. Once a second. */
void memory_step(struct node *n, uint64_t now_ms);

/* ---- disk_check.c ---- */
void disk_check_step(struct node *n, uint64_t now_ms);
bool disk_check_is_full(const struct node *n); /* so that a write may have failed for it; any thread */
int duties_start_scrub(struct node *n, struct err_ctx *err); /* reads all rows once per storage.scrub */
void duties_stop_scrub(struct node *n);
void duties_on_trouble(void *user, enum member_trouble trouble, uint32_t node, bool raised, bool forget,
                       const char *text);
void duties_on_tables_differ(void *user, uint64_t index, bool we_differ, bool tie, const uint32_t *nodes,
                             unsigned n);

/* archive_trim.c: retention of the archives */
void archive_trim_step(struct node *n);
void archive_trim_free(struct archive_trim *t);
/* level.c: the feature level */
void level_step(struct node *n);
void level_on_members(struct node *n, const struct members *before); /* n->members is new */

/* node_tls.c: this node's certificate and those that clients see */
int node_tls_load(struct node *n, struct err_ctx *err); /* files of the data directory -> contexts */
void node_tls_on_ca(struct node *n);                    /* the CAs in the store have changed */
void node_tls_on_certs(struct node *n);                 /* client-facing certificates have changed */
void node_tls_check(struct node *n);                    /* renewal, expiry */
void node_tls_propose_default(struct node *n);          /* the leader: a certificate for the default domain */

/* keys.c: change of the cluster key and the CA */
void keys_start(struct node *n); /* the links are there */
void keys_step(struct node *n, uint64_t now_ms);
bool keys_is_waiting(struct node *n); /* for the key that the cluster uses, from another member */
void keys_current(const struct node *n,
                  uint8_t id[SEAL_KEY_ID_BYTES]); /* the newest key that this node holds */
/* A new key, drawn and stored here; the KeysBegin that names it is to be proposed. ERR_CONFLICT: under way.
 */
int keys_begin(void *node, uint8_t key_id[SEAL_KEY_ID_BYTES], struct err_ctx *err);

/* feature.c: im, xmpp and sync of this node */
int feature_start(struct node *n, struct err_ctx *err); /* before replica_start */
int feature_begin(struct node *n, struct err_ctx *err); /* after it */
void feature_stop(struct node *n);
void feature_new_key(struct node *n); /* the cluster key is another one now */
void feature_on_change(struct node *n, unsigned dirty);
void feature_set_certs(struct node *n); /* n->client_sni is new */

/* health.c: HTTPS */
void health_start(struct node *n);
void health_set_certs(struct node *n);
void health_settings_changed(struct node *n);

void node_notify(struct node *n, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Ends the process at once. Any thread. */
void node_fatal(struct node *n, bool again, const char *text) __attribute__((noreturn));

#endif
