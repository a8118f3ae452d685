/* Clients that speak XMPP: phones. From the hand-over of the edge on (c2s_hand_over) everything between a
 * phone and the log is the code of the node: relay, home, stream management, im/. A phone keeps what it sent
 * until it is acknowledged, counts what it got, and comes back with both on whatever node lets it in.
 *
 *            connected       <features/>   bound        <enabled/>
 *   AWAY -----------> OPENING ----------> BINDING ----------> ENABLING ----------> ONLINE
 *     ^                  |                   ^ <failed/>                             ^
 *     |                  '-----------------> RESUMING ----------- <resumed/> --------'
 *     '---- from everywhere: the connection has gone, or the phone has no patience any more
 *
 * Every message has a number, by which it is known wherever it comes up: world_mail.c keeps what became of
 * each, and says what must not be. */
#ifndef TESTS_WORLD_PHONE_H
#define TESTS_WORLD_PHONE_H

#include "world.h"

enum {
    PHONES_MAX = 6,
    PHONE_USERS = 5, /* the first of the world's */
    MAILS_MAX = 4096,
    UNACKED_MAX = 40,
    PHONE_NOBODY = 99,    /* a user that does not exist: refused */
    PHONE_ERROR = 1 << 16 /* in phone.got: the error for that message */
};

enum phone_kind {
    PHONE_RESUMES, /* XEP-0198 with resumption */
    PHONE_COUNTS,  /* and without */
    PHONE_PLAIN,   /* acknowledges nothing */
};
enum phone_state { PHONE_AWAY, PHONE_OPENING, PHONE_RESUMING, PHONE_BINDING, PHONE_ENABLING, PHONE_ONLINE };

/* A session in the memory of one process; node 0: not known which. */
struct phone_home {
    uint32_t node;
    unsigned life;
    uint64_t session;
};

struct xml_stream;
struct phone {
    unsigned number, user;
    enum phone_kind kind;
    enum phone_state state;
    char resource[8], id[64]; /* id: of the session that it may resume; "": none */
    struct stream *stream;
    struct xml_stream *xml;
    struct world_event step, answer;
    uint64_t patience; /* until when it waits for what it has asked for; 0: for nothing */
    unsigned n_failures;
    unsigned connection; /* how many it has had, */
    unsigned session;    /* and how many sessions */
    /* What it sent in this session and was not acknowledged: numbers of messages, 0: something else. */
    unsigned unacked[UNACKED_MAX], n_unacked;
    uint64_t n_acked;
    bool counts; /* both sides do */
    /* What it got in this session, by the number of the stanza from 1 on: as above, or PHONE_ERROR. */
    unsigned *got, n_got, cap_got, n_told;
    bool is_lazy;           /* answers late */
    struct phone_home home; /* where the session was when the connection was made */
};
struct phones {
    struct phone phone[PHONES_MAX];
    unsigned n;
    bool is_quiet;  /* no messages any more */
    bool is_silent; /* nor anything else that it is not asked for */
    bool is_ready;  /* the cluster is: level, users, settings */
};

/* ---- world_phone.c ---- */
void phones_prepare(void); /* draws them, and has the settings made */
void phones_begin(void);
void phones_do_harm(void);
void phones_be_quiet(bool quiet);
void phones_be_silent(bool silent);
unsigned phone_say(struct phone *p, unsigned to_user); /* one message; 0: no more of them */
void phone_ask(struct phone *p);                       /* how far the node has got */
bool phones_are_settled(char *why, size_t n_why);      /* all online, and everything acknowledged */
void phones_check_homes(void);                         /* nobody has two */
void phones_describe(void);
struct world_node *phones_some_home(void); /* of one of them; NULL: none */
/* Where the phone's session is; false: nowhere. */
bool phone_find_home(const struct phone *p, struct phone_home *home);

/* ---- world_mail.c: what became of messages ---- */
/* A new one for the user; 0: no more of them. */
unsigned mail_new(struct phone *from, unsigned to_user);
unsigned mail_recipient(unsigned number);
void mail_acknowledged(struct phone *by, unsigned number);
void mail_given_up(unsigned number); /* the sender's session is lost, it will never know */
/* A node gives it back: an error is on its way. */
void mail_refused(unsigned number);
void mail_bounced(struct phone *to, unsigned number);
void mail_taken_back(unsigned number); /* its sender says that it has the error */
/* ID: of the stanza-id, "" for none. */
void mail_received(struct phone *by, unsigned number, const char *id);
void mail_confirmed(struct phone *by, unsigned number); /* its recipient says that it has it */
/* The client was told H by a node that it may resume at. */
void mail_check_count(const struct phone *p, uint64_t h);
/* For the trace: commands about sessions. */
struct fsm_result;
void mail_on_executed(const Imp__Proposal *p, uint64_t index, const struct fsm_result *result);
void mail_on_applied(struct world_node *n); /* something was committed that was not before */
void mail_set_archive(unsigned user, bool on);
/* From now on, with nothing wrong in the whole cluster: what is repeated was confirmed less than a second
 * ago. */
void mail_home_was_killed(void);
bool mail_is_settled(char *why, size_t n_why);
bool mail_has_come(unsigned number);
bool mail_is_bounced(unsigned number);
void mail_blame(unsigned number, const char *what);

/* ---- world_chat.c ---- */
void chat_in_quiet(void);
void chat_through_changes(void);

/* ---- world_stream.c ---- */
/* One of all connections that carry frames from node to node breaks, and the one the other way does not. */
void world_break_a_link(void);
/* A connection from outside to a loop of N; AT_NODE: its other end, which is not read yet. */
struct stream *world_dial_from_outside(struct world_node *n, struct loop *l,
                                       const struct stream_events *events, void *user,
                                       struct stream **at_node);

#endif
