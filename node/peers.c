#include "node/peers.h"
#include "base/mem.h"
#include "node/node_impl.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PEERS_FILE "peers"
enum { PEERS_BYTES_MAX = 64 * 1024 };

/* Lines "ID ADDRESS PORT NAME". */
void peers_read(struct node *n, struct peers *out)
{
    struct buf b = {0};
    char *rest = NULL;
    out->n = 0;
    if (!datadir_read(&n->dir, PEERS_FILE, &b, PEERS_BYTES_MAX, NULL) && b.n)
        for (char *line = strtok_r(b.data, "\n", &rest); line && out->n < PEERS_MAX;
             line = strtok_r(NULL, "\n", &rest)) {
            struct replica_address *a = &out->list[out->n];
            unsigned port;
            if (sscanf(line, "%u %255s %u", &a->node, out->addresses[out->n], &port) != 3 ||
                a->node == n->id.node)
                continue;
            a->address = out->addresses[out->n++];
            a->port = (uint16_t)port;
        }
    buf_fini(&b);
}

/* "ADDR", "ADDR:PORT", "[IPv6]", "[IPv6]:PORT" in place. */
static bool parse_address(char *text, const char **address, uint16_t *port)
{
    char *colon = NULL, *end = *text == '[' ? strchr(text, ']') : NULL;
    *port = 7800;
    *address = text;
    if (*text == '[') {
        if (!end || (end[1] && end[1] != ':'))
            return false;
        *address = text + 1;
        colon = end[1] ? end + 1 : NULL;
        *end = '\0';
    } else {
        colon = strchr(text, ':');
        if (colon && strchr(colon + 1, ':'))
            colon = NULL; /* IPv6 without brackets */
    }
    if (colon) {
        char *rest;
        unsigned long v = strtoul(colon + 1, &rest, 10);
        *colon = '\0';
        if (!colon[1] || *rest || !v || v > 65535)
            return false;
        *port = (uint16_t)v;
    }
    return **address != '\0' && strlen(*address) < 256;
}

int peers_read_hints(struct node *n, struct peers **out, struct err_ctx *err)
{
    struct peers *p = mem_new(struct peers);
    struct store_reader *reader = store_reader_new(n->store);
    struct members *m = members_read(store_read_txn(reader), 0);
    char *text = mem_strdup(n->config.peers), *rest = NULL;
    int rc = 0;
    for (char *one = strtok_r(text, ",", &rest); one && !rc && p->n < PEERS_MAX; one = strtok_r(NULL, ",", &rest)) {
        char *equals = strchr(one, '=');
        const char *address;
        uint16_t port;
        if (equals)
            *equals = '\0';
        if (!equals || !parse_address(equals + 1, &address, &port)) {
            rc = err_set(err, ERR_INVALID, "impnode.yaml: peers: '%s' is not NAME=ADDR[:PORT]", one);
            break;
        }
        const struct member *member = members_find_name(m, one);
        if (!member || member->id == n->id.node)
            continue;
        snprintf(p->addresses[p->n], sizeof(p->addresses[0]), "%s", address);
        p->list[p->n] = (struct replica_address){.node = member->id, .address = p->addresses[p->n], .port = port};
        p->n++;
    }
    mem_free(text);
    members_free(m);
    store_reader_free(reader);
    if (rc)
        mem_free(p);
    else
        *out = p;
    return rc;
}

void peers_load(struct node *n)
{
    n->peers = mem_new(struct peers);
    peers_read(n, n->peers);
}

static bool is_word(const char *s)
{
    for (const char *p = s; *p; p++)
        if (isspace((unsigned char)*p))
            return false;
    return *s != 0;
}

static bool is_removed(struct node *n, uint32_t node)
{
    struct key k;
    key_init(&k);
    key_u32(&k, node);
    return store_has(control_read(n), TABLE_NODE_TOMBSTONE, &k);
}

static const struct replica_address *find(const struct peers *p, uint32_t node)
{
    for (unsigned i = 0; i < p->n; i++)
        if (p->list[i].node == node)
            return &p->list[i];
    return NULL;
}

void peers_on_members(struct node *n)
{
    struct buf b = {0};
    struct err_ctx err = {0};
    buf_adds(&b, "# Written by the node: where the other members are, for when its tables do not tell.\n");
    for (unsigned i = 0; i < n->members->n; i++) {
        const struct member *m = &n->members->list[i];
        if (m->id != n->id.node && is_word(m->address) && (m->seen || find(n->peers, m->id)))
            buf_addf(&b, "%u %s %u %s\n", m->id, m->address, m->cluster_port, m->name);
    }
    /* a store that has gone back does not make them forgotten */
    for (unsigned i = 0; i < n->peers->n; i++) {
        const struct replica_address *a = &n->peers->list[i];
        if (!members_find(n->members, a->node) && !is_removed(n, a->node))
            buf_addf(&b, "%u %s %u -\n", a->node, a->address, a->port);
    }
    if (!n->peers_text || strcmp(n->peers_text, b.data) != 0) {
        if (datadir_write(&n->dir, PEERS_FILE, b.data, b.n, 0600, &err))
            log_warning(n->log, "where the other members are cannot be kept: %s", err.text);
        mem_free(n->peers_text);
        n->peers_text = mem_strdup(b.data);
    }
    buf_fini(&b);
}
