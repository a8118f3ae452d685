/* Between the Sync Agent and the replicated store: settings and stored state in, commands out; alarms; contacts' rosters
 * follow a renamed user and a new display name. Control loop. */
#ifndef NODE_SYNC_GLUE_H
#define NODE_SYNC_GLUE_H

#include "cluster/members.h"
#include "cluster/seal.h"
#include "node/alarm.h"
#include "node/sync_agent.h"
#include "replication/replica.h"

struct sync_glue;

struct sync_glue_options {
    struct loop *loop;
    struct log *log;
    struct replica *replica;
    struct store_reader *reader; /* the control loop's */
    const struct seal_ring *seal;
    struct alarms *alarms;
    uint32_t node_id;
    const char *node_name;
};
struct sync_glue *sync_glue_new(const struct sync_glue_options *o);
/* on_closed (may be NULL) exactly once, later. */
void sync_glue_close(struct sync_glue *g, void (*on_closed)(void *user), void *user);
struct sync_agent *sync_glue_agent(struct sync_glue *g);

/* Is this node's view of who is the publisher that of a majority? Without one the role may have moved: the agent rests,
 * so that never two are at work. False at first. */
void sync_glue_set_current(struct sync_glue *g, bool current);
/* The service is on or off; the agent works when it is on and this node is the publisher. */
void sync_glue_set_active(struct sync_glue *g, bool active);
void sync_glue_members_changed(struct sync_glue *g, const struct members *members);
void sync_glue_settings_changed(struct sync_glue *g);
bool sync_glue_is_configured(struct sync_glue *g);   /* axl.url is set */
bool sync_glue_first_sync_done(struct sync_glue *g); /* a full run has completed once, on whichever node */

#endif
