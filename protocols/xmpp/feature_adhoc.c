/* XEP-0050: ad-hoc commands, with forms of XEP-0004. Those of the server are for administrators, whom the
 * setting xmpp.admins names, those of an account for its user. */
#include "base/clock.h"
#include "im/address.h"
#include "im/user.h"
#include "protocols/xmpp/adhoc.h"
#include "protocols/xmpp/service.h"
#include <string.h>

#define NS_COMMANDS "http://jabber.org/protocol/commands"
#define NS_FORM "jabber:x:data"
#define NS_ADMIN "http://jabber.org/protocol/admin"

enum { OPEN_MAX = 4, OPEN_MS = 10 * 60 * 1000 };

/* Forms that were shown to a session and are not submitted yet; of too many the oldest is forgotten. */
struct open_form {
    const struct adhoc_command *command; /* NULL: none */
    char id[33];
    uint64_t since_ms;
};
struct adhoc_state {
    struct open_form open[OPEN_MAX];
};

/* ---- commands ---- */

static const struct adhoc_command *commands_of(const struct xmpp_iq *iq)
{
    return iq->scope == IQ_SELF ? user_commands : admin_commands;
}

static bool may_command(const struct xmpp_iq *iq)
{
    return iq->scope == IQ_SELF || service_is_admin(iq->shard, iq->envelope->from);
}

static const struct adhoc_command *find_command(const struct xmpp_iq *iq, const char *node)
{
    for (const struct adhoc_command *c = commands_of(iq); c->node; c++)
        if (node && strcmp(c->node, node) == 0)
            return c;
    return NULL;
}

static struct open_form *find_open(struct c2s_home *h, const char *id)
{
    struct adhoc_state *st = hooks_state(h, FEATURE_adhoc, 0);
    for (int i = 0; st && i < OPEN_MAX; i++)
        if (st->open[i].command && strcmp(st->open[i].id, id) == 0)
            return &st->open[i];
    return NULL;
}

static struct open_form *open_form(struct c2s_home *h, const struct adhoc_command *command)
{
    struct adhoc_state *st = hooks_state(h, FEATURE_adhoc, sizeof *st);
    struct open_form *o = &st->open[0];
    for (int i = 0; i < OPEN_MAX; i++) {
        if (!st->open[i].command || st->open[i].since_ms < o->since_ms)
            o = &st->open[i];
        if (!o->command)
            break;
    }
    o->command = command;
    o->since_ms = loop_now_ms(h->session.shard->loop);
    random_hex(o->id, 16);
    return o;
}

/* ---- writing ---- */

static void begin(struct buf *out, const char *node, const char *id, const char *status)
{
    buf_adds(out, "<command xmlns='" NS_COMMANDS "' node='");
    iq_escape(out, node);
    buf_addf(out, "' sessionid='%s' status='%s'>", id, status);
}

static void add_form_type(struct buf *out, const struct adhoc_command *command)
{
    if (strncmp(command->node, NS_ADMIN, sizeof NS_ADMIN - 1) == 0)
        buf_adds(out, "<field var='FORM_TYPE' type='hidden'><value>" NS_ADMIN "</value></field>");
}

static void add_options(struct buf *out, const char *options)
{
    for (const char *p = options; p && *p;) {
        size_t n = strcspn(p, "|");
        buf_addf(out, "<option><value>%.*s</value></option>", (int)n, p);
        p += n + (p[n] == '|');
    }
}

static void show_form(struct xmpp_iq *iq, const struct adhoc_command *command)
{
    struct open_form *o = open_form(iq->home, command);
    struct buf out = {0};
    begin(&out, command->node, o->id, "executing");
    buf_adds(&out,
             "<actions execute='complete'><complete/></actions><x xmlns='" NS_FORM "' type='form'><title>");
    iq_escape(&out, command->name);
    buf_adds(&out, "</title>");
    add_form_type(&out, command);
    for (const struct adhoc_field *f = command->fields; f->var; f++) {
        buf_addf(&out, "<field var='%s' type='%s' label='", f->var, f->type);
        iq_escape(&out, f->label);
        buf_adds(&out, "'>");
        if (f->required)
            buf_adds(&out, "<required/>");
        if (command->fill)
            command->fill(iq, f, &out);
        add_options(&out, f->options);
        buf_adds(&out, "</field>");
    }
    buf_adds(&out, "</x></command>");
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

/* §4.4: with a condition of its own. */
static void refuse(struct xmpp_iq *iq, enum stanza_error error, const char *condition)
{
    struct buf out = {0};
    stanza_error_write(&out, error, NULL);
    static const char end[] = "</error>";
    out.n -= sizeof end - 1;
    buf_addf(&out, "<%s xmlns='" NS_COMMANDS "'/></error>", condition);
    iq_error_xml(iq, out.data, out.n);
    buf_fini(&out);
}

/* ---- a run ---- */

static const struct xml *find_field(const struct adhoc_call *c, const char *var)
{
    for (const struct xml *f = c->form ? xml_child(c->form, "field", NS_FORM) : NULL; f;
         f = xml_next(f, "field", NS_FORM)) {
        const char *name = xml_attr(f, "var");
        if (name && strcmp(name, var) == 0)
            return f;
    }
    return NULL;
}

size_t adhoc_values(const struct adhoc_call *c, const char *var, const char **out, size_t max)
{
    size_t n = 0;
    const struct xml *f = find_field(c, var);
    for (const struct xml *v = f ? xml_child(f, "value", NS_FORM) : NULL; v && n < max;
         v = xml_next(v, "value", NS_FORM)) {
        const char *text = xml_text(v, (struct arena *)&c->arena);
        if (*text)
            out[n++] = text;
    }
    return n;
}

const char *adhoc_value(const struct adhoc_call *c, const char *var)
{
    const char *value;
    return adhoc_values(c, var, &value, 1) ? value : "";
}

const char *adhoc_text(const struct adhoc_call *c, const char *var)
{
    struct buf out = {0};
    const struct xml *f = find_field(c, var);
    for (const struct xml *v = f ? xml_child(f, "value", NS_FORM) : NULL; v;
         v = xml_next(v, "value", NS_FORM)) {
        if (out.n)
            buf_addc(&out, '\n');
        buf_adds(&out, xml_text(v, (struct arena *)&c->arena));
    }
    const char *text = arena_strdup((struct arena *)&c->arena, out.n ? out.data : "");
    buf_fini(&out);
    return text;
}

static void answer(struct adhoc_call *c, const char *inner, size_t n_bytes)
{
    struct buf out = {0};
    begin(&out, c->command->node, c->id, "completed");
    buf_add(&out, inner, n_bytes);
    buf_adds(&out, "</command>");
    iq_later_result(c->iq, session_find(c->shard, c->session), out.data, out.n);
    mem_wipe(out.data, out.n);
    buf_fini(&out);
    arena_fini(&c->arena);
    mem_free(c);
}

static void note(struct adhoc_call *c, const char *type, const char *text)
{
    struct buf out = {0};
    buf_addf(&out, "<note type='%s'>", type);
    iq_escape(&out, text);
    buf_adds(&out, "</note>");
    answer(c, out.data, out.n);
    buf_fini(&out);
}

void adhoc_done(struct adhoc_call *c, const char *text)
{
    note(c, "info", text);
}

void adhoc_fail(struct adhoc_call *c, const char *text)
{
    note(c, "error", text);
}

void adhoc_form(struct adhoc_call *c, const char *fields, size_t n_bytes)
{
    struct buf out = {0};
    buf_adds(&out, "<x xmlns='" NS_FORM "' type='result'>");
    add_form_type(&out, c->command);
    buf_add(&out, fields, n_bytes);
    buf_adds(&out, "</x>");
    answer(c, out.data, out.n);
    buf_fini(&out);
}

void adhoc_field_begin(struct buf *out, const char *var, const char *type)
{
    buf_addf(out, "<field var='%s' type='%s'>", var, type);
}

void adhoc_field_value(struct buf *out, const char *value)
{
    buf_adds(out, "<value>");
    iq_escape(out, value);
    buf_adds(out, "</value>");
}

void adhoc_field_end(struct buf *out)
{
    buf_adds(out, "</field>");
}

/* XEP-0004 §3.3: what a field of the type may have. */
static bool is_good(const struct adhoc_call *c, const struct adhoc_field *f)
{
    enum { VALUES_MAX = 1000 };
    const char *values[VALUES_MAX];
    size_t n = adhoc_values(c, f->var, values, VALUES_MAX);
    if (f->required && !n)
        return false;
    for (size_t i = 0; i < n && strncmp(f->type, "jid-", 4) == 0; i++) {
        char prepared[JID_MAX + 1];
        if (jid_prepare(prepared, values[i], strlen(values[i]), NULL) < 0)
            return false;
    }
    return true;
}

static void run(struct xmpp_iq *iq, const struct adhoc_command *command, const char *id)
{
    struct adhoc_call *c = mem_new(struct adhoc_call);
    const struct xml *form = xml_child(iq->payload, "x", NS_FORM);
    arena_init(&c->arena);
    c->command = command;
    c->shard = iq->shard;
    c->session = iq->home->session.id;
    c->uid = iq->uid;
    c->form = form && command->fields ? xml_copy(&c->arena, form) : NULL;
    c->who = arena_strndup(&c->arena, iq->envelope->from, jid_bare_length(iq->envelope->from));
    if (id)
        memcpy(c->id, id, sizeof c->id);
    else
        random_hex(c->id, 16);
    for (const struct adhoc_field *f = command->fields; f && f->var; f++) {
        if (is_good(c, f))
            continue;
        refuse(iq, STANZA_BAD_REQUEST, "bad-payload");
        arena_fini(&c->arena);
        mem_free(c);
        return;
    }
    struct open_form *o = id ? find_open(iq->home, id) : NULL;
    if (o)
        o->command = NULL;
    c->iq = iq_keep(iq);
    command->run(c);
}

/* ---- §3 ---- */

static void cancel(struct xmpp_iq *iq, struct open_form *o)
{
    struct buf out = {0};
    begin(&out, o->command->node, o->id, "canceled");
    buf_adds(&out, "</command>");
    o->command = NULL;
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

/* A further step of a command whose form was shown. */
static void go_on(struct xmpp_iq *iq, const struct adhoc_command *command, const char *id, const char *action)
{
    struct open_form *o = find_open(iq->home, id);
    const struct xml *form = xml_child(iq->payload, "x", NS_FORM);
    const char *type = form ? xml_attr(form, "type") : NULL;
    if (!o || o->command != command) {
        refuse(iq, STANZA_BAD_REQUEST, "bad-sessionid");
    } else if (loop_now_ms(iq->shard->loop) - o->since_ms > OPEN_MS) {
        o->command = NULL;
        refuse(iq, STANZA_NOT_ALLOWED, "session-expired");
    } else if (strcmp(action, "cancel") == 0 || (type && strcmp(type, "cancel") == 0)) {
        cancel(iq, o);
    } else if (strcmp(action, "prev") == 0) {
        refuse(iq, STANZA_BAD_REQUEST, "bad-action");
    } else if (!form || !type || strcmp(type, "submit") != 0) {
        refuse(iq, STANZA_BAD_REQUEST, "bad-payload");
    } else {
        char kept[33];
        memcpy(kept, o->id, sizeof kept);
        run(iq, command, kept);
    }
}

static bool is_action(const char *action)
{
    static const char *const actions[] = {"execute", "complete", "next", "prev", "cancel"};
    for (size_t i = 0; i < n_elements(actions); i++)
        if (strcmp(action, actions[i]) == 0)
            return true;
    return false;
}

static void handle(struct xmpp_iq *iq)
{
    const char *id = xml_attr(iq->payload, "sessionid"), *action = xml_attr(iq->payload, "action");
    const struct adhoc_command *command = find_command(iq, xml_attr(iq->payload, "node"));
    if (!may_command(iq))
        iq_error(iq, STANZA_FORBIDDEN, NULL);
    else if (!command)
        iq_error(iq, STANZA_ITEM_NOT_FOUND, NULL);
    else if (action && !is_action(action))
        refuse(iq, STANZA_BAD_REQUEST, "malformed-action");
    else if (id)
        go_on(iq, command, id, action ? action : "execute");
    else if (action && strcmp(action, "execute") != 0)
        refuse(iq, STANZA_BAD_REQUEST, "bad-action");
    else if (command->fields)
        show_form(iq, command);
    else
        run(iq, command, NULL);
}

/* ---- §2 ---- */

static void list_commands(struct xmpp_iq *iq)
{
    struct buf out = {0};
    buf_adds(&out, "<query xmlns='http://jabber.org/protocol/disco#items' node='" NS_COMMANDS "'>");
    const char *at = *iq->envelope->to ? iq->envelope->to : iq->home->session.user->jid;
    for (const struct adhoc_command *c = commands_of(iq); may_command(iq) && c->node; c++) {
        buf_adds(&out, "<item jid='");
        iq_escape(&out, at);
        buf_addf(&out, "' node='%s' name='", c->node);
        iq_escape(&out, c->name);
        buf_adds(&out, "'/>");
    }
    buf_adds(&out, "</query>");
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

static void describe(struct xmpp_iq *iq, const char *node, const char *type, const char *name)
{
    struct buf out = {0};
    buf_addf(&out,
             "<query xmlns='http://jabber.org/protocol/disco#info' node='%s'><identity category='automation' "
             "type='%s' name='",
             node, type);
    iq_escape(&out, name);
    buf_adds(&out, "'/><feature var='" NS_COMMANDS "'/><feature var='" NS_FORM "'/></query>");
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

static bool disco_node(struct xmpp_iq *iq, const char *node, bool items)
{
    if (iq->scope == IQ_ACCOUNT)
        return false;
    const struct adhoc_command *c = find_command(iq, node);
    if (strcmp(node, NS_COMMANDS) == 0 && items)
        list_commands(iq);
    else if (strcmp(node, NS_COMMANDS) == 0)
        describe(iq, NS_COMMANDS, "command-list", "Commands");
    else if (!c)
        return false;
    else if (!may_command(iq))
        iq_error(iq, STANZA_FORBIDDEN, NULL);
    else if (items)
        iq_error(iq, STANZA_ITEM_NOT_FOUND, NULL);
    else
        describe(iq, c->node, "command-node", c->name);
    return true;
}

/* Of an account: its user alone has commands there. */
static void disco_info(struct xmpp_iq *iq, struct buf *out)
{
    if (iq->scope == IQ_SELF)
        buf_adds(out, "<feature var='" NS_COMMANDS "'/>");
}

static const struct xmpp_iq_handler handlers[] = {
    {NS_COMMANDS, "command", IQ_SERVER | IQ_SELF, .set = true, .handle = handle},
    {0},
};
static const char *const features[] = {NS_COMMANDS, NULL};
const struct xmpp_feature feature_adhoc = {
    .name = "adhoc",
    .xep = "XEP-0050 1.3.0, XEP-0133 1.3.1",
    .level = 3,
    .server_features = features,
    .handlers = handlers,
    .disco_info = disco_info,
    .disco_node = disco_node,
};
