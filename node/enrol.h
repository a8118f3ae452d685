/* What init, join and recover share: the files of a node's identity. Blocking; before the node runs. */
#ifndef NODE_ENROL_H
#define NODE_ENROL_H

#include "cluster/datadir.h"
#include "cluster/seal.h"
#include "command.pb-c.h"
#include "node/config.h"

#define ENROL_KEY "keys/node.key"
#define ENROL_CERT "node.pem"
#define ENROL_CA "ca.pem"
#define ENROL_CONFIG "impnode.yaml"
/* After impnode recover: the log index until which nobody else may speak; 0: it was interrupted. */
#define ENROL_RECOVERED "recovered"
enum { ENROL_CONFIG_MAX = 64 * 1024 };
int enrol_read_recovered(uint64_t *index, const struct datadir *d, struct err_ctx *err);
int enrol_write_recovered(uint64_t index, const struct datadir *d, struct err_ctx *err);

/* The node's key: read, or made and stored durably. *key_pem is the caller's (identity_free_key). */
int enrol_key(char **key_pem, const struct datadir *d, struct err_ctx *err);
/* impnode.yaml; ERR_MALFORMED and the like with file, line and key. A missing file is an error. */
int enrol_read_config(struct config *c, const struct datadir *d, struct err_ctx *err);
int enrol_write_config(const struct config *c, const struct datadir *d, struct err_ctx *err);
/* "[::1]" -> "::1" */
const char *enrol_address(const struct config *c, char out[CONFIG_TEXT_MAX + 1]);

/* What the first state of a cluster holds of its first node. */
struct enrol_first {
    const uint8_t *cluster_id;
    const Imp__NodeRow *node;
    const Imp__CaRow *ca;
    const struct seal_ring *ring;
};
/* A new cluster in an empty directory: everything from keys to the log's first entries; identity last. */
struct enrol_new_cluster {
    const struct config *config;
    const char *domain; /* prepared */
    uint8_t cluster_id[16];
    /* How the first state is made; NULL: by the first entry of an empty log. */
    int (*make_state)(void *user, const struct enrol_first *first, const struct datadir *d,
                      struct err_ctx *err);
    void *user;
};
int enrol_new_cluster(struct enrol_new_cluster *n, const struct datadir *d, struct err_ctx *err);

#endif
