#include "node/enrol.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/release.h"
#include "cluster/identity.h"
#include "replication/levels.h"
#include "replication/replica.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int read_text(char **out, const struct datadir *d, const char *name, size_t max, struct err_ctx *err)
{
    struct buf b = {0};
    int rc = datadir_read(d, name, &b, max, err);
    if (!rc && (!b.n || memchr(b.data, 0, b.n)))
        rc = err_set(err, ERR_CORRUPT, "%s/%s is damaged", d->path, name);
    if (!rc)
        *out = mem_strndup(b.data, b.n);
    seal_buf_fini(&b);
    return rc;
}

int enrol_key(char **key_pem, const struct datadir *d, struct err_ctx *err)
{
    char *pem;
    int rc = read_text(&pem, d, ENROL_KEY, IDENTITY_PEM_MAX, err);
    if (rc == ERR_NOTFOUND) {
        rc = identity_new_key(&pem, err);
        if (!rc && (rc = datadir_write(d, ENROL_KEY, pem, strlen(pem), 0600, err)))
            identity_free_key(pem);
    }
    if (!rc)
        *key_pem = pem;
    return rc;
}

int enrol_read_config(struct config *c, const struct datadir *d, struct err_ctx *err)
{
    char *text, file[DATADIR_PATH_MAX + 32];
    config_init(c);
    int rc = read_text(&text, d, ENROL_CONFIG, ENROL_CONFIG_MAX, err);
    if (rc)
        return rc;
    snprintf(file, sizeof(file), "%s/%s", d->path, ENROL_CONFIG);
    rc = config_parse(c, file, text, err);
    if (!rc && (rc = config_check(c, err)))
        err_prefix(err, rc, "%s", file);
    mem_free(text);
    return rc;
}

int enrol_write_config(const struct config *c, const struct datadir *d, struct err_ctx *err)
{
    struct buf b = {0};
    config_write(c, &b);
    int rc = datadir_write(d, ENROL_CONFIG, b.data, b.n, 0644, err);
    buf_fini(&b);
    return rc;
}

int enrol_write_recovered(uint64_t index, const struct datadir *d, struct err_ctx *err)
{
    char text[32];
    int n = snprintf(text, sizeof(text), "%" PRIu64 "\n", index);
    return datadir_write(d, ENROL_RECOVERED, text, (size_t)n, 0644, err);
}

int enrol_read_recovered(uint64_t *index, const struct datadir *d, struct err_ctx *err)
{
    char *text;
    *index = 0;
    int rc = read_text(&text, d, ENROL_RECOVERED, 32, err);
    if (rc == ERR_NOTFOUND)
        return 0;
    if (rc)
        return rc;
    *index = strtoull(text, NULL, 10);
    mem_free(text);
    return *index ? 0
                  : err_set(err, ERR_CONFLICT,
                            "a recovery of this node was interrupted: run 'impnode recover --data %s "
                            "--force-new-cluster' once more",
                            d->path);
}

const char *enrol_address(const struct config *c, char out[CONFIG_TEXT_MAX + 1])
{
    snprintf(out, CONFIG_TEXT_MAX + 1, "%s", *c->address == '[' ? c->address + 1 : c->address);
    if (*c->address == '[')
        out[strcspn(out, "]")] = '\0';
    return out;
}

/* Keys and certificates made in memory, before anything is on disk. */
struct material {
    char *ca_key, *ca_cert, *key, *cert;
    struct seal_ring ring;
    struct buf sealed_ca_key;
    uint8_t key_hash[32];
};

static int make_material(struct material *m, const struct enrol_new_cluster *n, const struct datadir *d,
                         struct err_ctx *err)
{
    uint64_t now = clock_wall_ms();
    seal_ring_init_random(&m->ring);
    struct buf request = {0};
    int rc = identity_new_key(&m->ca_key, err);
    if (!rc)
        rc = identity_new_ca(&m->ca_cert, m->ca_key, n->cluster_id, 1, now, err);
    if (!rc)
        rc = enrol_key(&m->key, d, err);
    if (!rc)
        rc = identity_key_hash(m->key_hash, m->key, err);
    if (!rc)
        rc = identity_new_request(&request, m->key, err);
    if (!rc)
        rc = identity_sign_node(&m->cert, &(struct identity_ca){.cert_pem = m->ca_cert, .key_pem = m->ca_key}, request.data,
                                request.n, n->cluster_id, 1, now, err);
    if (!rc)
        rc = seal(&m->ring, "ca", m->ca_key, strlen(m->ca_key), &m->sealed_ca_key, err);
    buf_fini(&request);
    return rc;
}

static void material_fini(struct material *m)
{
    identity_free_key(m->ca_key);
    identity_free_key(m->key);
    mem_free(m->ca_cert);
    mem_free(m->cert);
    seal_ring_wipe(&m->ring);
    buf_fini(&m->sealed_ca_key);
}

static int write_bootstrap(const struct enrol_new_cluster *n, const struct enrol_first *first,
                           const struct datadir *d, struct err_ctx *err)
{
    Imp__Bootstrap bootstrap = IMP__BOOTSTRAP__INIT;
    bootstrap.cluster_id = (ProtobufCBinaryData){16, (uint8_t *)n->cluster_id};
    bootstrap.domain = (char *)n->domain;
    bootstrap.node = (Imp__NodeRow *)first->node;
    bootstrap.feature_level = level_known(); /* there is no older release to wait for */
    uint8_t key[MESSAGE_KEY_BYTES];
    random_bytes(key, sizeof key);
    bootstrap.message_key = (ProtobufCBinaryData){sizeof key, key};
    bootstrap.ca = (Imp__CaRow *)first->ca;
    Imp__Command command = IMP__COMMAND__INIT;
    command.time_ms = clock_wall_ms();
    command.body_case = IMP__COMMAND__BODY_BOOTSTRAP;
    command.bootstrap = &bootstrap;
    return replica_bootstrap(d->path, &command, err);
}

static int make_state(const struct material *m, const struct enrol_new_cluster *n, const struct datadir *d,
                      struct err_ctx *err)
{
    char address[CONFIG_TEXT_MAX + 1];
    const struct config *c = n->config;
    Imp__NodeRow node = IMP__NODE_ROW__INIT;
    node.id = 1;
    node.name = (char *)c->name;
    node.address = (char *)enrol_address(c, address);
    node.cluster_port = c->listen_cluster.port;
    node.public_name = (char *)c->public_name;
    node.xmpp_port = c->listen_xmpp.off ? 0 : c->listen_xmpp.port;
    node.release = (char *)release_name();
    node.level = level_known();
    node.state = IMP__NODE_STATE__NODE_MEMBER;
    node.public_key_hash = (ProtobufCBinaryData){32, (uint8_t *)m->key_hash};
    node.joined_ms = clock_wall_ms();
    Imp__CaRow ca = IMP__CA_ROW__INIT;
    ca.cert_pem = m->ca_cert;
    ca.sealed_key = (ProtobufCBinaryData){m->sealed_ca_key.n, (uint8_t *)m->sealed_ca_key.data};
    ca.active = true;
    struct enrol_first first = {n->cluster_id, &node, &ca, &m->ring};
    return n->make_state ? n->make_state(n->user, &first, d, err) : write_bootstrap(n, &first, d, err);
}

int enrol_new_cluster(struct enrol_new_cluster *n, const struct datadir *d, struct err_ctx *err)
{
    random_bytes(n->cluster_id, sizeof(n->cluster_id));
    struct material m = {0};
    int rc = make_material(&m, n, d, err);
    if (!rc)
        rc = seal_ring_store(&m.ring, d, err);
    if (!rc)
        rc = datadir_write(d, ENROL_CERT, m.cert, strlen(m.cert), 0644, err);
    if (!rc)
        rc = datadir_write(d, ENROL_CA, m.ca_cert, strlen(m.ca_cert), 0644, err);
    if (!rc)
        rc = enrol_write_config(n->config, d, err);
    if (!rc)
        rc = make_state(&m, n, d, err);
    if (!rc) {
        struct datadir_identity id = {.node = 1};
        memcpy(id.cluster_id, n->cluster_id, 16);
        snprintf(id.name, sizeof(id.name), "%s", n->config->name);
        rc = datadir_write_identity(d, &id, err);
    }
    material_fini(&m);
    return rc;
}
