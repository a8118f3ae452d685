/* XEP-0133: service administration. What changes something is done by the node as impcli does it, with the
 * same checks and the same record in the audit. */
#include "base/clock.h"
#include "im/address.h"
#include "im/roster.h"
#include "protocols/xmpp/adhoc.h"
#include "protocols/xmpp/admin_lists.h"
#include "protocols/xmpp/service.h"
#include "replication/settings.h"
#include <stdio.h>
#include <string.h>

#define ADMIN(name) "http://jabber.org/protocol/admin#" name

enum { TARGETS_MAX = 100 };

/* ---- what the node does ---- */

/* One command of impcli after the other for each target; the first that fails ends it. */
struct errand {
    const char *area, *verb;
    const char *targets[TARGETS_MAX];
    size_t n_targets, at;
    const char *args[2]; /* behind the target, where there are any */
    size_t n_args;
    const char *option, *option_value;
    const char *input; /* a secret */
    const char *done;
    void (*then)(struct adhoc_call *c);
};

static void step(struct adhoc_call *c);

static void on_step(void *user, bool ok, const char *text)
{
    struct adhoc_call *c = user;
    struct errand *w = c->state;
    if (!ok)
        adhoc_fail(c, text);
    else if (++w->at < w->n_targets)
        step(c);
    else if (w->then)
        w->then(c);
    else
        adhoc_done(c, w->done ? w->done : text);
}

static void step(struct adhoc_call *c)
{
    struct errand *w = c->state;
    struct xmpp_admin_request r = {
        .area = w->area, .verb = w->verb, .who = c->who, .reply_to = c->shard->loop};
    const char *args[3];
    args[r.n_args++] = w->targets[w->at];
    for (size_t i = 0; i < w->n_args; i++)
        args[r.n_args++] = w->args[i];
    r.args = args;
    r.option = w->option;
    r.option_value = w->option_value;
    r.input = w->input;
    r.on_done = on_step;
    r.user = c;
    xmpp_admin(c->shard->xmpp->xmpp, &r);
}

static struct errand *errand_new(struct adhoc_call *c, const char *area, const char *verb)
{
    struct errand *w = c->state = arena_zalloc(&c->arena, sizeof *w);
    w->area = area;
    w->verb = verb;
    return w;
}

/* The accounts of field VAR; false: the call has ended. */
static bool take_targets(struct adhoc_call *c, struct errand *w, const char *var, bool with_resource)
{
    const char *values[TARGETS_MAX];
    size_t n = adhoc_values(c, var, values, TARGETS_MAX);
    for (size_t i = 0; i < n; i++) {
        char prepared[JID_MAX + 1];
        uint64_t uid;
        if (jid_prepare(prepared, values[i], strlen(values[i]), NULL) < 0 ||
            (!with_resource && *jid_resource(prepared)) || shard_find_uid(c->shard, prepared, &uid) != 0) {
            adhoc_fail(c,
                       arena_printf(&c->arena, "there is no account %s here; nothing was done", values[i]));
            return false;
        }
        w->targets[w->n_targets++] = arena_strdup(&c->arena, prepared);
    }
    return true;
}

static void run_on_accounts(struct adhoc_call *c, const char *area, const char *verb, const char *done)
{
    struct errand *w = errand_new(c, area, verb);
    w->done = done;
    if (take_targets(c, w, "accountjids", strcmp(verb, "kick") == 0))
        step(c);
}

/* ---- accounts: §4.1 to §4.6 ---- */

static void run_add(struct adhoc_call *c)
{
    struct errand *w = errand_new(c, "user", "add");
    const char *given = adhoc_value(c, "given_name"), *surname = adhoc_value(c, "surname");
    char prepared[JID_MAX + 1];
    const char *jid = adhoc_value(c, "accountjid");
    if (strcmp(adhoc_value(c, "password"), adhoc_value(c, "password-verify")) != 0) {
        adhoc_fail(c, "the two passwords are not the same");
        return;
    }
    if (jid_prepare(prepared, jid, strlen(jid), NULL) < 0 || !strchr(prepared, '@') ||
        *jid_resource(prepared)) {
        adhoc_fail(c, "the new account's address must be LOCALPART@DOMAIN");
        return;
    }
    w->targets[w->n_targets++] = arena_strdup(&c->arena, prepared);
    w->input = adhoc_value(c, "password");
    if (*given || *surname) {
        w->option = "name";
        w->option_value = arena_printf(&c->arena, "%s%s%s", given, *given && *surname ? " " : "", surname);
    }
    step(c);
}

static void run_delete(struct adhoc_call *c)
{
    run_on_accounts(c, "user", "remove", "removed");
}

static void run_disable(struct adhoc_call *c)
{
    run_on_accounts(c, "user", "lock", "disabled");
}

static void run_reenable(struct adhoc_call *c)
{
    run_on_accounts(c, "user", "unlock", "enabled again");
}

static void run_end_session(struct adhoc_call *c)
{
    run_on_accounts(c, "session", "kick", "sessions ended");
}

static void run_password(struct adhoc_call *c)
{
    struct errand *w = errand_new(c, "user", "passwd");
    w->input = adhoc_value(c, "password");
    if (take_targets(c, w, "accountjid", false))
        step(c);
}

/* ---- what is known of an account: §4.8 to §4.10 ---- */

static void add_item(void *user, const struct roster_item *item)
{
    home_write_roster_item(user, item);
}

static bool find_target(struct adhoc_call *c, const char *var, uint64_t *uid)
{
    struct errand *w = errand_new(c, "", "");
    if (!take_targets(c, w, var, false))
        return false;
    if (w->n_targets > 1) { /* a form has room for one */
        adhoc_fail(c, "one account at a time, please");
        return false;
    }
    return shard_find_uid(c->shard, w->targets[0], uid) == 0;
}

static void run_roster(struct adhoc_call *c)
{
    uint64_t uid;
    if (!find_target(c, "accountjids", &uid))
        return;
    struct buf out = {0};
    adhoc_field_begin(&out, "accountjids", "jid-multi");
    adhoc_field_value(&out, adhoc_value(c, "accountjids"));
    adhoc_field_end(&out);
    buf_adds(&out, "<query xmlns='jabber:iq:roster'>");
    roster_read(c->shard, uid, add_item, &out);
    buf_adds(&out, "</query>");
    adhoc_form(c, out.data, out.n);
    buf_fini(&out);
}

static void show_last_login(struct adhoc_call *c, uint64_t uid, const struct presence_facts *p)
{
    struct key k;
    key_init(&k);
    key_u64(&k, uid);
    const Imp__LastActivityRow *row = store_find_row(shard_txn(c->shard), TABLE_LAST_ACTIVITY, &k, &c->arena);
    uint64_t ms = p->since_ms ? p->since_ms : row ? row->login_ms : 0;
    char text[32] = "never";
    if (ms)
        clock_format_utc(text, ms, 0);
    struct buf out = {0};
    adhoc_field_begin(&out, "accountjids", "jid-multi");
    adhoc_field_value(&out, adhoc_value(c, "accountjids"));
    adhoc_field_end(&out);
    adhoc_field_begin(&out, "lastlogin", "text-single");
    adhoc_field_value(&out, !ms && p->n_resources ? "is logged in" : text);
    adhoc_field_end(&out);
    adhoc_form(c, out.data, out.n);
    buf_fini(&out);
}

static void run_last_login(struct adhoc_call *c)
{
    uint64_t uid;
    if (find_target(c, "accountjids", &uid))
        admin_look_at(c, uid, show_last_login);
}

static void show_stats(struct adhoc_call *c, uint64_t uid, const struct presence_facts *p)
{
    char n[32];
    struct buf out = {0};
    struct key k;
    key_init(&k);
    key_u64(&k, uid);
    const Imp__RosterMetaRow *roster = store_find_row(shard_txn(c->shard), TABLE_ROSTER_META, &k, &c->arena);
    adhoc_field_begin(&out, "ipaddresses", "text-multi");
    for (unsigned i = 0; i < p->n_addresses; i++)
        adhoc_field_value(&out, p->addresses[i]);
    adhoc_field_end(&out);
    snprintf(n, sizeof n, "%u", roster ? roster->n_items : 0);
    adhoc_field_begin(&out, "rostersize", "text-single");
    adhoc_field_value(&out, n);
    adhoc_field_end(&out);
    adhoc_field_begin(&out, "onlineresources", "text-multi");
    for (size_t at = 0; at < p->resources.n; at += strlen(p->resources.data + at) + 1)
        adhoc_field_value(&out, p->resources.data + at);
    adhoc_field_end(&out);
    adhoc_form(c, out.data, out.n);
    buf_fini(&out);
}

static void run_stats(struct adhoc_call *c)
{
    uint64_t uid;
    if (find_target(c, "accountjid", &uid))
        admin_look_at(c, uid, show_stats);
}

/* ---- lists and numbers: §4.13 to §4.22 ---- */

#define LIST(fn, what_, var_)                                                                                \
    static void fn##_num(struct adhoc_call *c)                                                               \
    {                                                                                                        \
        admin_count(c, what_, var_ "num");                                                                   \
    }                                                                                                        \
    static void fn##_list(struct adhoc_call *c)                                                              \
    {                                                                                                        \
        admin_list(c, what_, fn##_jids);                                                                     \
    }
static const char registered_jids[] = "registereduserjids", disabled_jids[] = "disableduserjids",
                  online_jids[] = "onlineuserjids", active_jids[] = "activeuserjids",
                  idle_jids[] = "idleuserjids";
LIST(registered, ADMIN_REGISTERED, "registeredusers")
LIST(disabled, ADMIN_DISABLED, "disabledusers")
LIST(online, ADMIN_ONLINE, "onlineusers")
LIST(active, ADMIN_ACTIVE, "activeusers")
LIST(idle, ADMIN_IDLE, "idleusers")
#undef LIST

/* ---- messages to users: §4.23 to §4.28 ---- */

static void announce_text(struct adhoc_call *c)
{
    const char *text = adhoc_text(c, "announcement");
    admin_announce(c, *text ? text : adhoc_text(c, "motd"));
}

static void run_announce(struct adhoc_call *c)
{
    announce_text(c);
}

static void set_text(struct adhoc_call *c, const char *key, const char *var,
                     void (*then)(struct adhoc_call *))
{
    struct errand *w = errand_new(c, "settings", "set");
    w->targets[w->n_targets++] = key;
    w->args[w->n_args++] = adhoc_text(c, var);
    w->done = "set";
    w->then = then;
    step(c);
}

static void unset_text(struct adhoc_call *c, const char *key)
{
    struct errand *w = errand_new(c, "settings", "unset");
    w->targets[w->n_targets++] = key;
    w->done = "removed";
    step(c);
}

/* Those who are there now get it as an announcement, the others when they log in. */
static void run_set_motd(struct adhoc_call *c)
{
    set_text(c, "xmpp.motd", "motd", announce_text);
}

static void run_edit_motd(struct adhoc_call *c)
{
    set_text(c, "xmpp.motd", "motd", NULL);
}

static void run_delete_motd(struct adhoc_call *c)
{
    unset_text(c, "xmpp.motd");
}

static void run_set_welcome(struct adhoc_call *c)
{
    set_text(c, "xmpp.welcome", "welcome", NULL);
}

static void run_delete_welcome(struct adhoc_call *c)
{
    unset_text(c, "xmpp.welcome");
}

/* ---- administrators: §4.29 ---- */

static void run_edit_admin(struct adhoc_call *c)
{
    struct buf list = {0};
    const char *values[TARGETS_MAX];
    bool keeps_self = false;
    size_t n = adhoc_values(c, "adminjids", values, TARGETS_MAX);
    for (size_t i = 0; i < n; i++) {
        char prepared[JID_MAX + 1];
        if (jid_prepare(prepared, values[i], strlen(values[i]), NULL) < 0 || *jid_resource(prepared) ||
            !strchr(prepared, '@')) {
            buf_fini(&list);
            adhoc_fail(c, arena_printf(&c->arena, "%s is not the address of an account", values[i]));
            return;
        }
        keeps_self |= strcmp(prepared, c->who) == 0;
        buf_addf(&list, "%s%s", list.n ? " " : "", prepared);
    }
    if (!keeps_self) {
        buf_fini(&list);
        adhoc_fail(c, "you would no longer be an administrator yourself: impcli settings set xmpp.admins");
        return;
    }
    struct errand *w = errand_new(c, "settings", "set");
    w->targets[w->n_targets++] = "xmpp.admins";
    w->args[w->n_args++] = arena_strdup(&c->arena, list.data);
    w->done = "set";
    buf_fini(&list);
    step(c);
}

static void fill(struct xmpp_iq *iq, const struct adhoc_field *f, struct buf *out)
{
    struct arena *a = iq->arena;
    enum setting id = strcmp(f->var, "adminjids") == 0 ? SETTING_XMPP_ADMINS : SETTING_XMPP_MOTD;
    const char *at = setting_string(shard_txn(iq->shard), NULL, id, a);
    if (id == SETTING_XMPP_ADMINS) {
        for (char *word; service_next_word(&at, a, &word);)
            adhoc_field_value(out, word);
        return;
    }
    while (*at) {
        size_t n = strcspn(at, "\n");
        adhoc_field_value(out, arena_strndup(a, at, n));
        at += n + (at[n] == '\n');
    }
}

/* ---- the table ---- */

#define FIELDS(name, ...) static const struct adhoc_field name[] = {__VA_ARGS__, {0}}
FIELDS(accounts, {"accountjids", "jid-multi", "The accounts", true, NULL});
FIELDS(one_of_accounts, {"accountjids", "jid-multi", "The account", true, NULL});
FIELDS(account, {"accountjid", "jid-single", "The account", true, NULL});
FIELDS(new_account, {"accountjid", "jid-single", "The address of the new account", true, NULL},
       {"password", "text-private", "The password", true, NULL},
       {"password-verify", "text-private", "The password once more", true, NULL},
       {"email", "text-single", "E-mail address", false, NULL},
       {"given_name", "text-single", "Given name", false, NULL},
       {"surname", "text-single", "Family name", false, NULL});
FIELDS(new_password, {"accountjid", "jid-single", "The account", true, NULL},
       {"password", "text-private", "The new password", true, NULL});
FIELDS(how_many, {"max_items", "list-single", "How many at most", false, "25|50|75|100|150|200|none"});
FIELDS(announcement, {"announcement", "text-multi", "The announcement", true, NULL});
FIELDS(motd, {"motd", "text-multi", "The message of the day", true, NULL});
FIELDS(welcome, {"welcome", "text-multi", "The welcome message", true, NULL});
FIELDS(admins, {"adminjids", "jid-multi", "The administrators", true, NULL});

const struct adhoc_command admin_commands[] = {
    {ADMIN("add-user"), "Add a user", new_account, NULL, run_add},
    {ADMIN("delete-user"), "Delete users", accounts, NULL, run_delete},
    {ADMIN("disable-user"), "Disable users", accounts, NULL, run_disable},
    {ADMIN("reenable-user"), "Enable disabled users again", accounts, NULL, run_reenable},
    {ADMIN("end-user-session"), "End sessions of users", accounts, NULL, run_end_session},
    {ADMIN("change-user-password"), "Change a user's password", new_password, NULL, run_password},
    {ADMIN("get-user-roster"), "Get a user's roster", one_of_accounts, NULL, run_roster},
    {ADMIN("get-user-lastlogin"), "Get a user's last log-in", one_of_accounts, NULL, run_last_login},
    {ADMIN("user-stats"), "Get statistics of a user", account, NULL, run_stats},
    {ADMIN("get-registered-users-num"), "Number of registered users", NULL, NULL, registered_num},
    {ADMIN("get-disabled-users-num"), "Number of disabled users", NULL, NULL, disabled_num},
    {ADMIN("get-online-users-num"), "Number of online users", NULL, NULL, online_num},
    {ADMIN("get-active-users-num"), "Number of active users", NULL, NULL, active_num},
    {ADMIN("get-idle-users-num"), "Number of idle users", NULL, NULL, idle_num},
    {ADMIN("get-registered-users-list"), "List of registered users", how_many, NULL, registered_list},
    {ADMIN("get-disabled-users-list"), "List of disabled users", how_many, NULL, disabled_list},
    {ADMIN("get-online-users-list"), "List of online users", how_many, NULL, online_list},
    {ADMIN("get-active-users"), "List of active users", how_many, NULL, active_list},
    {ADMIN("get-idle-users"), "List of idle users", how_many, NULL, idle_list},
    {ADMIN("announce"), "Send an announcement to online users", announcement, NULL, run_announce},
    {ADMIN("set-motd"), "Set the message of the day and send it", motd, NULL, run_set_motd},
    {ADMIN("edit-motd"), "Edit the message of the day", motd, fill, run_edit_motd},
    {ADMIN("delete-motd"), "Delete the message of the day", NULL, NULL, run_delete_motd},
    {ADMIN("set-welcome"), "Set the welcome message", welcome, NULL, run_set_welcome},
    {ADMIN("delete-welcome"), "Delete the welcome message", NULL, NULL, run_delete_welcome},
    {ADMIN("edit-admin"), "Edit the list of administrators", admins, fill, run_edit_admin},
    {0},
};
