#include "replication/confirm.h"

#include <string.h>

void confirm_init(struct confirm *c, const struct confirm_ops *ops, void *user, uint32_t self)
{
    memset(c, 0, sizeof(*c));
    c->ops = ops;
    c->user = user;
    c->self = self;
}

void confirm_lead(struct confirm *c, uint64_t term)
{
    if (term == c->term)
        return;
    c->term = term;
    /* A round of the last leadership is neither completed nor handed on. */
    c->confirmed = c->wanted = c->begun;
}

void confirm_set_voters(struct confirm *c, const uint32_t *voters, unsigned n)
{
    bool acked[CONFIRM_MAX_VOTERS] = {false};
    if (n > CONFIRM_MAX_VOTERS)
        n = CONFIRM_MAX_VOTERS;
    for (unsigned i = 0; i < n; i++)
        for (unsigned j = 0; j < c->n_voters; j++)
            if (c->voters[j] == voters[i])
                acked[i] = c->acked[j];
    memcpy(c->voters, voters, n * sizeof(*voters));
    memcpy(c->acked, acked, sizeof(acked));
    c->n_voters = n;
}

uint64_t confirm_want(struct confirm *c)
{
    c->wanted = c->begun + 1;
    return c->wanted;
}

static void check(struct confirm *c)
{
    unsigned n = 0;
    for (unsigned i = 0; i < c->n_voters; i++)
        n += c->acked[i] || c->voters[i] == c->self;
    if (c->begun > c->confirmed && n > c->n_voters / 2) {
        c->confirmed = c->begun;
        c->ops->confirmed(c->user, c->confirmed);
    }
}

static void ask(struct confirm *c, uint64_t now_ms)
{
    c->asked_ms = now_ms;
    for (unsigned i = 0; i < c->n_voters; i++)
        if (!c->acked[i] && c->voters[i] != c->self)
            c->ops->ask(c->user, c->voters[i], c->term, c->begun);
}

void confirm_pump(struct confirm *c, uint64_t now_ms, unsigned again_ms)
{
    if (c->term == 0)
        return;
    if (c->begun == c->confirmed) {
        if (c->wanted <= c->begun)
            return;
        c->begun++;
        memset(c->acked, 0, sizeof(c->acked));
        ask(c, now_ms);
    } else if (now_ms >= c->asked_ms + again_ms) {
        ask(c, now_ms);
    }
    check(c);
}

void confirm_on_ok(struct confirm *c, uint32_t voter, uint64_t term, uint64_t round)
{
    if (c->term == 0 || term != c->term || round != c->begun || c->begun == c->confirmed)
        return;
    for (unsigned i = 0; i < c->n_voters; i++)
        if (c->voters[i] == voter)
            c->acked[i] = true;
    check(c);
}
