/* Liveness: when all is well, whoever writes to somebody who is there reaches them soon, and not only when
 * something else happens. So first nothing else does: no phone and no other client says a word but the one
 * message; only a connection between two nodes breaks now and then. Afterwards nodes join, are drained and
 * leave and users move meanwhile, as administrators do it. */
#include "world_phone.h"

#include <string.h>

enum {
    QUIET_ROUNDS = 16,
    CHANGE_ROUNDS = 16,
    STEP_US = 20 * MS,
    QUIET_US = 2 * SECOND,
    BROKEN_US = 5 * SECOND,  /* both ends know that a connection is broken, and there is another one */
    CHANGE_US = 10 * SECOND, /* a move waits for the former home, which may wait for its proposals */
    ASK_FROM = UNACKED_MAX / 2,
};

static struct phone *phone(unsigned i)
{
    return &W->phones->phone[i];
}

static bool is_there(unsigned user)
{
    for (unsigned i = 0; i < W->phones->n; i++)
        if (phone(i)->user == user && phone(i)->state != PHONE_ONLINE)
            return false;
    return true;
}

/* All connections that the two users have had. */
static unsigned n_connections(unsigned user, unsigned other)
{
    unsigned n = 0;
    for (unsigned i = 0; i < W->phones->n; i++)
        if (phone(i)->user == user || phone(i)->user == other)
            n += phone(i)->connection;
    return n;
}

/* Whose connection broke meanwhile finds its messages when it is back: phones_are_settled. */
static void say_one(uint64_t limit_us, bool in_quiet)
{
    struct phone *from = phone((unsigned)draw(W->phones->n));
    unsigned to = (unsigned)draw(PHONE_USERS), n_before = n_connections(from->user, to);
    if (to == from->user || !is_there(from->user) || !is_there(to))
        return;
    unsigned mail = phone_say(from, to);
    uint64_t end = W->queue.now + limit_us;
    while (mail && !W->is_bad && !mail_has_come(mail) && n_connections(from->user, to) == n_before) {
        if (mail_is_bounced(mail) && !in_quiet)
            return;
        if (mail_is_bounced(mail) || W->queue.now >= end) {
            mail_blame(mail, "has not come, and nothing is wrong");
            return;
        }
        world_run(STEP_US);
    }
    if (from->n_unacked > ASK_FROM)
        phone_ask(from);
}

static void pause_a_while(void)
{
    world_run(chance(50) ? draw(50 * MS) : chance(50) ? draw(SECOND) : draw(4 * SECOND));
}

void chat_in_quiet(void)
{
    phones_be_silent(true);
    sim_queue_remove(&W->queue, &W->clients.timed);
    world_say("nothing happens but single messages");
    for (unsigned i = 0; i < QUIET_ROUNDS && !W->is_bad; i++) {
        if (i % 4 == 3) {
            world_break_a_link();
            world_run(BROKEN_US);
        }
        pause_a_while();
        say_one(QUIET_US, true);
    }
    phones_be_silent(false);
}

void chat_through_changes(void)
{
    phones_be_silent(true);
    world_say("single messages while nodes and users come and go");
    for (unsigned i = 0; i < CHANGE_ROUNDS && !W->is_bad; i++) {
        struct world_node *n = world_some_node();
        if (n && chance(40))
            operator_do_something(n);
        if (chance(40))
            pause_a_while();
        say_one(CHANGE_US, false);
    }
    phones_be_silent(false);
}
