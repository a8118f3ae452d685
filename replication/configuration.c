#include "replication/configuration.h"

#include "base/err.h"
#include <stdio.h>
#include <string.h>

enum { FORMAT = 1 };

static struct configuration_server *find(struct configuration *c, uint64_t id)
{
    for (unsigned i = 0; i < c->n; i++)
        if (c->servers[i].id == id)
            return &c->servers[i];
    return NULL;
}

const struct configuration_server *configuration_find(const struct configuration *c, uint64_t id)
{
    for (unsigned i = 0; i < c->n; i++)
        if (c->servers[i].id == id)
            return &c->servers[i];
    return NULL;
}

bool configuration_is_voter(const struct configuration *c, uint64_t id)
{
    const struct configuration_server *s = configuration_find(c, id);
    return s && s->role == CONFIGURATION_VOTER;
}

unsigned configuration_n_voters(const struct configuration *c)
{
    unsigned n = 0;
    for (unsigned i = 0; i < c->n; i++)
        n += c->servers[i].role == CONFIGURATION_VOTER;
    return n;
}

int configuration_add(struct configuration *c, uint64_t id, enum configuration_role role)
{
    if (id == 0)
        return ERR_INVALID;
    if (find(c, id))
        return ERR_EXISTS;
    if (c->n == CONFIGURATION_MAX)
        return ERR_LIMIT;
    c->servers[c->n++] = (struct configuration_server){.id = id, .role = (uint8_t)role};
    return 0;
}

int configuration_set_role(struct configuration *c, uint64_t id, enum configuration_role role)
{
    struct configuration_server *s = find(c, id);
    if (!s)
        return ERR_NOTFOUND;
    s->role = (uint8_t)role;
    return 0;
}

int configuration_remove(struct configuration *c, uint64_t id)
{
    struct configuration_server *s = find(c, id);
    if (!s)
        return ERR_NOTFOUND;
    size_t after = (size_t)(&c->servers[c->n] - (s + 1));
    memmove(s, s + 1, after * sizeof(*s));
    c->n--;
    return 0;
}

/* libraft 0.22.1, configurationEncodeToBuf: format, count (8), per server id (8), address with NUL, role (1);
 * padded to 8 bytes with zeros. */
void configuration_encode(struct buf *out, const struct configuration *c)
{
    size_t start = out->n;
    buf_add_u8(out, FORMAT);
    buf_add_u64(out, c->n);
    for (unsigned i = 0; i < c->n; i++) {
        char address[24];
        int n = snprintf(address, sizeof(address), "%llu", (unsigned long long)c->servers[i].id);
        buf_add_u64(out, c->servers[i].id);
        buf_add(out, address, (size_t)n + 1);
        buf_add_u8(out, c->servers[i].role);
    }
    while ((out->n - start) % 8)
        buf_add_u8(out, 0);
}

static int decode_server(struct configuration *out, struct reader *r)
{
    uint64_t id = read_u64(r);
    char want[24];
    int n = snprintf(want, sizeof(want), "%llu", (unsigned long long)id);
    for (int i = 0; i <= n; i++) {
        char c = (char)read_u8(r);
        if (r->failed || c != want[i])
            return ERR_MALFORMED;
    }
    uint8_t role = read_u8(r);
    if (r->failed || role > CONFIGURATION_VOTER || configuration_add(out, id, role))
        return ERR_MALFORMED;
    return 0;
}

int configuration_decode(struct configuration *out, const void *data, size_t n_bytes)
{
    struct reader r;
    reader_init(&r, data, n_bytes);
    out->n = 0;
    uint8_t format = read_u8(&r);
    uint64_t n = read_u64(&r);
    if (r.failed || format != FORMAT || n == 0 || n > CONFIGURATION_MAX)
        return ERR_MALFORMED;
    for (uint64_t i = 0; i < n; i++)
        if (decode_server(out, &r))
            return ERR_MALFORMED;
    if (reader_left(&r) >= 8)
        return ERR_MALFORMED;
    while (reader_left(&r))
        if (read_u8(&r) != 0)
            return ERR_MALFORMED;
    return 0;
}
