/* Is our clock right, as far as the other members' tell? A leader whose is not hands over to one whose is.
 * And what time is it, as far as they tell: the state machine's time never goes back, so one command with a
 * time of hours ahead would make tokens void for hours. */
#include "replication/replica_impl.h"
#include "replication/skew.h"

enum { EVERY_MS = 1000 };

static bool is_near(int64_t a, int64_t b)
{
    int64_t d = a - b;
    return d >= -SKEW_MAX_MS && d <= SKEW_MAX_MS;
}

static int64_t own_clock(uint64_t now_ms)
{
    return (int64_t)clock_wall_ms() - (int64_t)now_ms;
}

uint64_t clocks_time_ms(struct replica *r)
{
    uint64_t now_ms = replica_now_ms(r);
    if (!r->has_clock_offset) {
        r->has_clock_offset = true;
        r->clock_offset_ms = own_clock(now_ms);
    }
    return (uint64_t)((int64_t)now_ms + r->clock_offset_ms);
}

static void hand_over(struct replica *r, uint64_t now_ms, const struct transport_info *peers, unsigned n,
                      int64_t median)
{
    if (r->status.role != DRIVER_LEADER || r->status.is_transferring)
        return;
    /* With nobody better placed it stays where it is. */
    for (unsigned i = 0; i < n; i++) {
        if (!peers[i].connected || !peers[i].has_clock ||
            !is_near(peers[i].clock_ms - own_clock(now_ms), median) ||
            !configuration_is_voter(&r->status.conf, peers[i].node))
            continue;
        log_warning(r->log, "this node's clock is off: leadership goes to node %u", peers[i].node);
        driver_transfer(r->driver, now_ms, peers[i].node);
        return;
    }
}

void clocks_check(struct replica *r, uint64_t now_ms)
{
    struct transport_info peers[TRANSPORT_MAX_PEERS];
    int64_t others[TRANSPORT_MAX_PEERS];
    unsigned n_others = 0;
    if (now_ms < r->clocks_checked_ms + EVERY_MS)
        return;
    r->clocks_checked_ms = now_ms;
    unsigned n = transport_get_info(r->transport, peers, TRANSPORT_MAX_PEERS);
    for (unsigned i = 0; i < n; i++)
        if (peers[i].connected && peers[i].has_clock && configuration_find(&r->status.conf, peers[i].node))
            others[n_others++] = peers[i].clock_ms - own_clock(now_ms);
    int64_t median = skew_median(others, n_others);
    r->clock_ahead_ms = -median;
    r->clock_offset_ms = own_clock(now_ms) + median;
    r->has_clock_offset = true;
    if (is_near(median, 0))
        r->skewed_since_ms = 0;
    else if (!r->skewed_since_ms)
        r->skewed_since_ms = now_ms;
    r->is_skewed = r->skewed_since_ms && now_ms >= r->skewed_since_ms + SKEW_FOR_MS;
    if (r->is_skewed)
        hand_over(r, now_ms, peers, n, median);
}
