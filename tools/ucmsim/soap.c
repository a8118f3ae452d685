#include "soap.h"
#include "base/mem.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS_SOAP "http://schemas.xmlsoap.org/soap/envelope/"
#define NS_AXL "http://www.cisco.com/AXL/API/"

/* One request under way. */
struct call {
    struct soap *soap;
    struct arena arena;
    const struct xml *request; /* the body's child */
    const char *name, *version, *sequence;
    struct soap_reply *reply;
    struct buf *out; /* of the reply */
};

const char *soap_operation_name(enum soap_operation op)
{
    static const char *const names[] = {
#define X(name) #name,
        SOAP_OPERATIONS(X)
#undef X
    };
    return names[op];
}

void soap_init(struct soap *s, struct ucm *ucm, struct faults *faults)
{
    *s = (struct soap){.ucm = ucm, .faults = faults, .max_bytes = 8u << 20, .max_changes = 1000};
    snprintf(s->release, sizeof s->release, "14.0.1.13900(155)");
    soap_set_versions(s, "11.5,12.5,14.0");
}

int soap_set_versions(struct soap *s, const char *list)
{
    char versions[8][8];
    unsigned n = 0;
    while (*list) {
        size_t n_bytes = strcspn(list, ",");
        if (n == n_elements(versions) || n_bytes < 1 || n_bytes > 5 || strspn(list, "0123456789.") < n_bytes)
            return ERR_INVALID;
        snprintf(versions[n++], sizeof versions[0], "%.*s", (int)n_bytes, list);
        list += n_bytes + (list[n_bytes] == ',');
    }
    if (!n)
        return ERR_INVALID;
    memcpy(s->versions, versions, sizeof versions);
    s->n_versions = n;
    return 0;
}

/* ---- envelopes ---- */

static void add_tag(struct buf *out, const char *tag, const char *value)
{
    buf_addf(out, "<%s>", tag);
    xml_escape(out, value, strlen(value));
    buf_addf(out, "</%s>", tag);
}

static void begin_envelope(struct buf *out)
{
    buf_reset(out);
    buf_adds(out, "<?xml version='1.0' encoding='UTF-8'?><soapenv:Envelope xmlns:soapenv=\"" NS_SOAP
                  "\"><soapenv:Body>");
}

static void end_envelope(struct buf *out)
{
    buf_adds(out, "</soapenv:Body></soapenv:Envelope>");
}

static void begin_response(struct call *c)
{
    c->reply->status = 200;
    begin_envelope(c->out);
    buf_addf(c->out, "<ns:%sResponse xmlns:ns=\"" NS_AXL "%s\"", c->name, c->version);
    if (c->sequence) {
        buf_adds(c->out, " sequence=\"");
        xml_escape(c->out, c->sequence, strlen(c->sequence));
        buf_addc(c->out, '"');
    }
    buf_addc(c->out, '>');
}

static void end_response(struct call *c)
{
    buf_addf(c->out, "</ns:%sResponse>", c->name);
    end_envelope(c->out);
}

/* A fault as releases since 9.1 write it: axlError without a namespace. */
static void answer_fault(struct call *c, int code, const char *text)
{
    c->reply->status = 500;
    begin_envelope(c->out);
    buf_adds(c->out, "<soapenv:Fault><faultcode>soapenv:Server</faultcode>");
    add_tag(c->out, "faultstring", text);
    buf_addf(c->out, "<detail><axlError><axlcode>%d</axlcode>", code);
    add_tag(c->out, "axlmessage", text);
    add_tag(c->out, "request", c->name ? c->name : "");
    buf_adds(c->out, "</axlError></detail></soapenv:Fault>");
    end_envelope(c->out);
}

static void answer_too_large(struct call *c, size_t n_rows, size_t n_suggested)
{
    answer_fault(c, -1,
                 arena_printf(&c->arena,
                              "Query request too large. Total rows matched: %zu rows. Suggested row fetch: "
                              "less than %zu rows",
                              n_rows, n_suggested));
}

static void answer_text(struct soap_reply *reply, unsigned status, const char *title, const char *text)
{
    reply->status = status;
    reply->is_xml = false;
    buf_reset(&reply->body);
    buf_addf(&reply->body, "<html><head><title>%u %s</title></head><body><h1>HTTP Status %u - %s</h1><p>",
             status, title, status, title);
    xml_escape(&reply->body, text, strlen(text));
    buf_adds(&reply->body, "</p></body></html>\n");
}

static void answer_version(struct call *c, const char *versions)
{
    struct buf text = {0};
    buf_adds(&text, "Incorrect axl version. Supported axl versions: ");
    if (versions)
        buf_adds(&text, versions);
    for (unsigned i = 0; !versions && i < c->soap->n_versions; i++)
        buf_addf(&text, "%s%s", i ? "," : "", c->soap->versions[i]);
    answer_text(c->reply, 599, "Unsupported", text.data);
    buf_fini(&text);
}

/* ---- operations ---- */

static const char *text_of(struct call *c, const struct xml *parent, const char *name)
{
    return parent ? xml_child_text(parent, name, NULL, &c->arena) : NULL;
}

static void soap_op_getCCMVersion(struct call *c)
{
    begin_response(c);
    buf_adds(c->out, "<return><componentVersion>");
    add_tag(c->out, "version", c->soap->release);
    buf_adds(c->out, "</componentVersion></return>");
    end_response(c);
}

/* Which fields does returnedTags ask for? Bit set; no returnedTags: all (getUser). */
static unsigned wanted_fields(struct call *c)
{
    const struct xml *tags = xml_child(c->request, "returnedTags", NULL);
    unsigned wanted = tags ? 0 : ~0u;
    for (int f = 0; tags && f < N_FIELDS; f++)
        if (xml_child(tags, field_tag((enum field)f), NULL))
            wanted |= 1u << f;
    return wanted;
}

static void add_user(struct buf *out, const struct ucm_user *user, unsigned wanted, bool listed,
                     struct buf *scratch)
{
    buf_addf(out, "<user uuid=\"{%s}\">", user->uuid);
    for (int f = 0; f < N_FIELDS; f++)
        if ((wanted >> f & 1) && (!listed || field_is_listed((enum field)f)))
            add_tag(out, field_tag((enum field)f), ucm_user_value(user, (enum field)f, scratch));
    buf_adds(out, "</user>");
}

struct criteria {
    const char *pattern[N_FIELDS];
    bool any;
};

static void read_criteria(struct call *c, struct criteria *out)
{
    static const enum field searchable[] = {FIELD_FIRST_NAME, FIELD_LAST_NAME, FIELD_USERID,
                                            FIELD_DEPARTMENT};
    const struct xml *x = xml_child(c->request, "searchCriteria", NULL);
    *out = (struct criteria){.any = false};
    for (size_t i = 0; i < n_elements(searchable); i++) {
        enum field f = searchable[i];
        out->pattern[f] = text_of(c, x, field_tag(f));
        out->any |= out->pattern[f] != NULL;
    }
}

static bool matches(const struct ucm_user *user, const struct criteria *criteria)
{
    for (int f = 0; f < N_FIELDS; f++)
        if (criteria->pattern[f] && !ucm_like(user->value[f] ? user->value[f] : "", criteria->pattern[f]))
            return false;
    return true;
}

static void soap_op_listUser(struct call *c)
{
    struct soap *s = c->soap;
    struct criteria criteria;
    struct buf scratch = {0};
    const char *skip_text = text_of(c, c->request, "skip"), *first_text = text_of(c, c->request, "first");
    size_t skip = first_text && skip_text ? strtoul(skip_text, NULL, 10) : 0; /* skip needs first */
    size_t first = first_text ? strtoul(first_text, NULL, 10) : SIZE_MAX;
    size_t n_matched = 0, n_rows = 0, n_total = 0;
    unsigned wanted = wanted_fields(c);
    read_criteria(c, &criteria);
    if (!criteria.any || !xml_child(c->request, "returnedTags", NULL)) {
        answer_fault(c, 5003, "searchCriteria and returnedTags are mandatory");
        return;
    }
    begin_response(c);
    buf_adds(c->out, "<return>");
    for (size_t i = 0; i < s->ucm->n_users; i++) {
        const struct ucm_user *user = s->ucm->users[i];
        if (!matches(user, &criteria))
            continue;
        n_total++;
        if (n_matched++ < skip || n_rows >= first)
            continue;
        n_rows++;
        if (c->out->n <= s->max_bytes)
            add_user(c->out, user, wanted, true, &scratch);
    }
    buf_fini(&scratch);
    if (s->max_rows && n_rows > s->max_rows) {
        answer_too_large(c, n_total, s->max_rows + 1);
    } else if (c->out->n > s->max_bytes) {
        answer_too_large(c, n_total,
                         (size_t)((double)n_rows * (double)s->max_bytes / (double)c->out->n / 2) + 1);
    } else {
        s->n_rows += n_rows;
        buf_adds(c->out, "</return>");
        end_response(c);
    }
}

static void soap_op_getUser(struct call *c)
{
    const char *uuid = text_of(c, c->request, "uuid"), *userid = text_of(c, c->request, "userid");
    const struct ucm_user *user = uuid     ? ucm_find_uuid(c->soap->ucm, uuid)
                                  : userid ? ucm_find(c->soap->ucm, userid)
                                           : NULL;
    struct buf scratch = {0};
    if (!user) {
        answer_fault(c, 5007, "Item not valid: The specified User was not found");
        return;
    }
    begin_response(c);
    buf_adds(c->out, "<return>");
    add_user(c->out, user, wanted_fields(c), false, &scratch);
    buf_adds(c->out, "</return>");
    end_response(c);
    buf_fini(&scratch);
}

static bool wants_user_changes(struct call *c)
{
    const struct xml *list = xml_child(c->request, "objectList", NULL);
    const struct xml *object = list ? xml_child(list, "object", NULL) : NULL;
    if (!object)
        return true; /* no list: every kind of object */
    for (; object; object = xml_next(object, "object", NULL))
        if (!strcmp(xml_text(object, &c->arena), "User"))
            return true;
    return false;
}

static void add_change(struct buf *out, const struct ucm_change *change)
{
    buf_addf(out,
             "<change type=\"User\" uuid=\"{%s}\"><id>%llu</id><action>%c</action><doGet>%s</doGet>"
             "<changedTags>%s</changedTags></change>",
             change->uuid, (unsigned long long)change->id, change->action, change->do_get ? "true" : "false",
             change->xml ? change->xml : "");
}

/* Without startChangeId: where the queue stands now. With it: what came since. An unknown queue id is
 * answered with the queue that is, and no changes: the caller must see that ids no longer mean what it
 * thinks. */
static void soap_op_listChange(struct call *c)
{
    const struct ucm *u = c->soap->ucm;
    const struct xml *start = xml_child(c->request, "startChangeId", NULL);
    const char *queue = start ? xml_attr(start, "queueId") : NULL;
    uint64_t from = start ? strtoull(xml_text(start, &c->arena), NULL, 10) : u->next_change;
    uint64_t to = u->next_change, next;
    if (start && !queue) {
        answer_fault(c, 5003, "queueId is mandatory");
        return;
    }
    if (start && strcmp(queue, u->queue_id))
        from = u->next_change;
    if (from < u->first_change)
        from = u->first_change;
    if (from > u->next_change)
        from = u->next_change;
    next = to - from > c->soap->max_changes ? from + c->soap->max_changes : to;
    begin_response(c);
    buf_addf(c->out, "<queueInfo><firstChangeId>%llu</firstChangeId><lastChangeId>%llu</lastChangeId>",
             (unsigned long long)u->first_change, (unsigned long long)u->next_change - 1);
    buf_addf(c->out, "<nextStartChangeId>%llu</nextStartChangeId>", (unsigned long long)next);
    add_tag(c->out, "queueId", u->queue_id);
    buf_adds(c->out, "</queueInfo><changes>");
    if (wants_user_changes(c))
        for (; from < next; from++)
            add_change(c->out, ucm_change(u, from));
    buf_adds(c->out, "</changes>");
    end_response(c);
}

static void soap_op_doAuthenticateUser(struct call *c)
{
    enum { CODE_OK = 0, CODE_WRONG = 1, CODE_LOCKED = 3 };
    struct soap *s = c->soap;
    const char *userid = text_of(c, c->request, "userid"), *password = text_of(c, c->request, "password");
    struct ucm_user *user = userid ? ucm_find(s->ucm, userid) : NULL;
    int code = CODE_WRONG;
    if (user && user->locked) {
        code = CODE_LOCKED;
    } else if (user && password && password[0] && !strcmp(user->password, password)) {
        code = CODE_OK;
        user->n_failures = 0;
    } else if (user && ++user->n_failures == s->lock_after) {
        user->locked = true;
    }
    if (code)
        s->n_auth_failed++;
    else
        s->n_auth_ok++;
    begin_response(c);
    buf_addf(c->out, "<return><userAuthenticated>%s</userAuthenticated><code>%d</code>",
             code ? "false" : "true", code);
    if (!code)
        buf_adds(c->out, "<daysToExpiry>30</daysToExpiry><isWarningNeeded>false</isWarningNeeded>");
    buf_adds(c->out, "</return>");
    end_response(c);
}

static void soap_op_listProcessNode(struct call *c)
{
    static const struct {
        const char *uuid, *name, *description, *usage, *role;
    } nodes[] = {
        {"11111111-2222-4333-8444-555555555501", "ucm", "call manager", "Publisher", "CUCM Voice/Video"},
        {"11111111-2222-4333-8444-555555555502", "imp", "IM and presence", "Subscriber",
         "CUCM IM and Presence"},
    };
    const struct xml *criteria = xml_child(c->request, "searchCriteria", NULL);
    const char *name = text_of(c, criteria, "name"), *role = text_of(c, criteria, "processNodeRole");
    const struct xml *tags = xml_child(c->request, "returnedTags", NULL);
    if (!criteria || !tags) {
        answer_fault(c, 5003, "searchCriteria and returnedTags are mandatory");
        return;
    }
    begin_response(c);
    buf_adds(c->out, "<return>");
    for (size_t i = 0; i < n_elements(nodes); i++) {
        if ((name && !ucm_like(nodes[i].name, name)) || (role && !ucm_like(nodes[i].role, role)))
            continue;
        buf_addf(c->out, "<processNode uuid=\"{%s}\">", nodes[i].uuid);
        if (xml_child(tags, "name", NULL))
            buf_addf(c->out, "<name>%s.%s</name>", nodes[i].name, c->soap->ucm->domain);
        if (xml_child(tags, "description", NULL))
            add_tag(c->out, "description", nodes[i].description);
        if (xml_child(tags, "nodeUsage", NULL))
            add_tag(c->out, "nodeUsage", nodes[i].usage);
        if (xml_child(tags, "processNodeRole", NULL))
            add_tag(c->out, "processNodeRole", nodes[i].role);
        buf_adds(c->out, "</processNode>");
    }
    buf_adds(c->out, "</return>");
    end_response(c);
}

static void soap_op_getLdapAuthentication(struct call *c)
{
    begin_response(c);
    buf_adds(c->out, "<return><ldapAuthentication uuid=\"{11111111-2222-4333-8444-555555555510}\">"
                     "<authenticateEndUsers>false</authenticateEndUsers><distinguishedName/><ldapPassword/>"
                     "<userSearchBase/></ldapAuthentication></return>");
    end_response(c);
}

/* ---- dispatch ---- */

/* True when the fault is the whole answer; slow and cut still need the right one. */
static bool answer_with_fault(struct call *c, const struct fault *fault)
{
    switch (fault->kind) {
    case FAULT_AUTH:
        answer_text(c->reply, 401, "Unauthorized", "This request requires HTTP authentication.");
        return true;
    case FAULT_DENIED:
        answer_text(c->reply, 403, "Access to the requested resource has been denied", "");
        return true;
    case FAULT_THROTTLE:
        answer_text(c->reply, 503, "Service Unavailable",
                    "Maximum outstanding changes reached. Retry later.");
        return true;
    case FAULT_VERSION:
        answer_version(c, fault->text[0] ? fault->text : NULL);
        return true;
    case FAULT_TOO_LARGE:
        answer_too_large(c, c->soap->ucm->n_users, fault->rows ? fault->rows : 100);
        return true;
    case FAULT_SOAP:
        answer_fault(c, fault->code, fault->text[0] ? fault->text : "Internal error");
        return true;
    case FAULT_GARBAGE:
        c->reply->status = 200;
        buf_reset(c->out);
        buf_adds(c->out, "this is not XML & never was");
        return true;
    case FAULT_DTD:
        c->reply->status = 200;
        buf_reset(c->out);
        buf_adds(c->out, "<!DOCTYPE a [<!ENTITY b \"bbbbbbbb\">]><a>&b;</a>");
        return true;
    case FAULT_CUT:
        c->reply->cut = true;
        return false;
    default:
        return false;
    }
}

static int find_operation(const char *name)
{
    for (int i = 0; i < N_SOAP_OPERATIONS; i++)
        if (!strcmp(soap_operation_name((enum soap_operation)i), name))
            return i;
    return -1;
}

static void run(struct call *c, int op)
{
    static void (*const run_operation[])(struct call * c) = {
#define X(name) soap_op_##name,
        SOAP_OPERATIONS(X)
#undef X
    };
    struct fault fault;
    if (op >= 0)
        c->soap->n_requests[op]++;
    else
        c->soap->n_unknown++;
    if (fault_take(c->soap->faults, c->name, &fault)) {
        c->reply->delay_ms = fault.ms;
        if (answer_with_fault(c, &fault))
            return;
    }
    for (unsigned i = 0; i < c->soap->n_versions; i++)
        if (!strcmp(c->soap->versions[i], c->version)) {
            if (op >= 0)
                run_operation[op](c);
            else
                answer_fault(c, 5002, "Unknown operation");
            return;
        }
    answer_version(c, NULL);
}

/* SOAPAction "CUCM:DB ver=14.0 listUser" must say the same as the body; a missing one is taken. */
static bool action_fits(struct call *c, const char *action)
{
    if (!action || !strcmp(action, "\"\""))
        return true;
    const char *want = arena_printf(&c->arena, "CUCM:DB ver=%s %s", c->version, c->name);
    size_t n = strlen(action);
    if (n >= 2 && action[0] == '"' && action[n - 1] == '"')
        action = arena_strndup(&c->arena, action + 1, n - 2);
    return !strcmp(action, want);
}

void soap_handle(struct soap *s, const char *request, size_t n_bytes, const char *action,
                 struct soap_reply *reply)
{
    static const struct xml_limits limits = {
        .stanza_bytes = 1 << 20, .depth = 32, .attrs = 64, .elements = 10000};
    struct call c = {.soap = s, .reply = reply, .out = &reply->body};
    struct err_ctx err = {0};
    struct xml *root = NULL;
    const struct xml *body;
    *reply = (struct soap_reply){.is_xml = true};
    arena_init(&c.arena);
    if (xml_parse(&root, &c.arena, request, n_bytes, &limits, &err)) {
        s->n_bad++;
        answer_fault(&c, 5000, arena_printf(&c.arena, "Cannot parse the request: %s", err.text));
    } else if (!xml_is(root, "Envelope", NS_SOAP) || !(body = xml_child(root, "Body", NS_SOAP)) ||
               !(c.request = xml_first_element(body)) || !c.request->ns ||
               strncmp(c.request->ns, NS_AXL, strlen(NS_AXL))) {
        s->n_bad++;
        answer_fault(&c, 5000, "No AXL request in the SOAP body");
    } else {
        c.name = c.request->name;
        c.version = c.request->ns + strlen(NS_AXL);
        c.sequence = xml_attr(c.request, "sequence");
        if (action_fits(&c, action)) {
            run(&c, find_operation(c.name));
        } else {
            s->n_bad++;
            answer_fault(&c, 5000, "SOAPAction and body do not agree");
        }
    }
    arena_fini(&c.arena);
}
