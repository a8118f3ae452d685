#include "replication/hashes.h"

#include <string.h>

void hashes_init(struct hashes *h, uint32_t self)
{
    memset(h, 0, sizeof(*h));
    h->self = self;
}

static struct hashes_slot *slot_for(struct hashes *h, uint64_t index)
{
    struct hashes_slot *oldest = &h->slots[0];
    for (unsigned i = 0; i < HASHES_SLOTS; i++) {
        if (h->slots[i].index == index)
            return &h->slots[i];
        if (h->slots[i].index < oldest->index)
            oldest = &h->slots[i];
    }
    if (oldest->index > index)
        return NULL; /* older than anything that is still compared */
    memset(oldest, 0, sizeof(*oldest));
    oldest->index = index;
    return oldest;
}

void hashes_add(struct hashes *h, uint64_t now_ms, uint32_t node, uint64_t index,
                const struct store_hash *hash)
{
    struct hashes_slot *s = slot_for(h, index);
    if (!s || s->n == HASHES_NODES)
        return;
    for (unsigned i = 0; i < s->n; i++)
        if (s->reports[i].node == node)
            return;
    s->reports[s->n].node = node;
    s->reports[s->n].hash = *hash;
    s->n++;
    if (node == h->self) {
        s->has_own = true;
        s->since_ms = now_ms;
    }
}

static bool is_equal(const struct store_hash *a, const struct store_hash *b)
{
    return a->lo == b->lo && a->hi == b->hi;
}

static unsigned n_with(const struct hashes_slot *s, const struct store_hash *hash)
{
    unsigned n = 0;
    for (unsigned i = 0; i < s->n; i++)
        n += is_equal(&s->reports[i].hash, hash);
    return n;
}

static void judge(const struct hashes *h, const struct hashes_slot *s, struct hashes_result *out)
{
    const struct store_hash *own = NULL, *most = NULL;
    unsigned n_most = 0;
    for (unsigned i = 0; i < s->n; i++) {
        unsigned n = n_with(s, &s->reports[i].hash);
        if (s->reports[i].node == h->self)
            own = &s->reports[i].hash;
        if (n > n_most) {
            n_most = n;
            most = &s->reports[i].hash;
        }
    }
    *out = (struct hashes_result){.index = s->index};
    if (n_most == s->n) {
        out->verdict = HASHES_EQUAL;
    } else if (2 * n_most <= s->n) {
        out->verdict = HASHES_TIE;
    } else if (!is_equal(own, most)) {
        out->verdict = HASHES_WE_DIFFER;
    } else {
        out->verdict = HASHES_THEY_DIFFER;
        for (unsigned i = 0; i < s->n; i++)
            if (!is_equal(&s->reports[i].hash, most))
                out->nodes[out->n_nodes++] = s->reports[i].node;
    }
}

bool hashes_judge(struct hashes *h, uint64_t now_ms, unsigned n_nodes, struct hashes_result *out)
{
    for (unsigned i = 0; i < HASHES_SLOTS; i++) {
        struct hashes_slot *s = &h->slots[i];
        if (!s->has_own || s->is_judged || (s->n < n_nodes && now_ms < s->since_ms + HASHES_WAIT_MS))
            continue;
        s->is_judged = true;
        if (s->n < 2)
            continue;
        judge(h, s, out);
        return true;
    }
    return false;
}
