/* DIR/peers: where the other members were last known to be. A crash takes the store back to its last durable
 * point and the log is applied only once there is a leader; when all nodes crash at once soon after a join,
 * no store may know where the others are, and without this file they would never find each other. */
#include "base/mem.h"
#include "node/node_impl.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define PEERS_FILE "peers"
enum { PEERS_BYTES_MAX = 64 * 1024 };

/* Lines "NODE PORT ADDRESS". */
static void parse(struct node *n, const char *text)
{
    n->hints = mem_calloc(REPLICA_MAX_HINTS, sizeof(*n->hints));
    for (const char *line = text; *line && n->n_hints < REPLICA_MAX_HINTS;) {
        struct replica_hint *h = &n->hints[n->n_hints];
        unsigned node, port;
        if (sscanf(line, "%u %u %255s", &node, &port, h->address) == 3 && node && node != n->id.node &&
            port && port < 65536) {
            h->node = node;
            h->port = (uint16_t)port;
            n->n_hints++;
        }
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
}

void peers_load(struct node *n)
{
    struct buf text = {0};
    struct err_ctx err = {0};
    int rc = datadir_read(&n->dir, PEERS_FILE, &text, PEERS_BYTES_MAX, &err);
    if (rc && rc != ERR_NOTFOUND)
        log_warning(n->log, "where the other members were is not known: %s", err.text);
    n->peers_text = mem_strndup(rc ? "" : text.data, rc ? 0 : text.n);
    parse(n, n->peers_text);
    buf_fini(&text);
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

void peers_on_members(struct node *n)
{
    struct buf text = {0};
    struct err_ctx err = {0};
    for (unsigned i = 0; i < n->members->n; i++) {
        const struct member *m = &n->members->list[i];
        if (m->id != n->id.node && is_word(m->address))
            buf_addf(&text, "%u %u %s\n", m->id, m->cluster_port, m->address);
    }
    /* a store that has gone back does not make them forgotten */
    for (unsigned i = 0; i < n->n_hints; i++) {
        const struct replica_hint *h = &n->hints[i];
        if (!members_find(n->members, h->node) && !is_removed(n, h->node))
            buf_addf(&text, "%u %u %s\n", h->node, h->port, h->address);
    }
    buf_addc(&text, 0);
    if (strcmp(text.data, n->peers_text) == 0) {
        buf_fini(&text);
        return;
    }
    if (datadir_write(&n->dir, PEERS_FILE, text.data, text.n - 1, 0600, &err)) {
        log_warning(n->log, "where the other members are cannot be kept: %s", err.text);
    } else {
        mem_free(n->peers_text);
        n->peers_text = mem_strdup(text.data);
    }
    buf_fini(&text);
}
