#include "protocols/axl/axl_message.h"
#include "base/mem.h"
#include "base/xml.h"
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS_SOAP "http://schemas.xmlsoap.org/soap/envelope/"
#define NS_AXL "http://www.cisco.com/AXL/API/"

enum { FAULT_ITEM_NOT_FOUND = 5007 };

/* An answer is held back to 8 MB by the server; the elements are those of AXL_MAX_PAGE users with all tags.
 */
static const struct xml_limits answer_limits = {
    .stanza_bytes = 16u << 20, .depth = 32, .attrs = 64, .elements = 400000};

const char *axl_operation_name(enum axl_operation op)
{
    static const char *const names[] = {
#define X(id, name) [AXL_OP_##id] = name,
        AXL_OPERATIONS(X)
#undef X
    };
    return names[op];
}

const char *axl_outcome_text(enum axl_outcome outcome)
{
    static const char *const texts[] = {
        [AXL_OK] = "done",
        [AXL_FAULT] = "refused by the call manager",
        [AXL_NOT_FOUND] = "not found",
        [AXL_TOO_LARGE] = "the list is too large for one answer",
        [AXL_RETRY] = "the call manager does not answer",
        [AXL_THROTTLED] = "the call manager is throttling",
        [AXL_AUTH] = "wrong AXL user or password",
        [AXL_DENIED] = "the AXL user has no AXL role",
        [AXL_TLS] = "the call manager's certificate is not trusted",
        [AXL_VERSION] = "no AXL schema version in common",
        [AXL_MALFORMED] = "the answer is not AXL",
        [AXL_CANCELED] = "canceled",
    };
    return texts[outcome];
}

/* Bytes of the character at P, 0 when it is not UTF-8 (RFC 3629 §4). */
static size_t utf8_length(const unsigned char *p)
{
    size_t n = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
        (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

void axl_copy_text(char *out, size_t room, const char *text)
{
    size_t n = 0;
    for (const unsigned char *p = (const unsigned char *)text; *p;) {
        size_t length = utf8_length(p);
        bool is_control = *p < ' ' || *p == 0x7f || (*p == 0xc2 && length == 2 && p[1] < 0xa0);
        if (n + (length ? length : 1) >= room)
            break;
        if (!length || is_control) {
            out[n++] = length ? ' ' : '?';
        } else {
            memcpy(out + n, p, length);
            n += length;
        }
        p += length ? length : 1;
    }
    out[n] = 0;
}

/* ---- writing ---- */

static void add_tag(struct buf *out, const char *tag, const char *value)
{
    buf_addf(out, "<%s>", tag);
    xml_escape(out, value, strlen(value));
    buf_addf(out, "</%s>", tag);
}

/* Boolean tags carry a value: an empty one is not valid by the schema. */
static void add_user_tags(struct buf *out, bool with_display_name)
{
    buf_addf(
        out,
        "<returnedTags><firstName/>%s<lastName/><userid/><mailid/><status/><homeCluster>true</homeCluster>"
        "<imAndPresenceEnable>true</imAndPresenceEnable><directoryUri/></returnedTags>",
        with_display_name ? "<displayName/>" : "");
}

void axl_write_body(struct buf *out, const struct axl_request *r, const char *version)
{
    const char *name = axl_operation_name(r->op);
    buf_addf(out, "<ns:%s xmlns:ns=\"" NS_AXL "%s\">", name, version);
    switch (r->op) {
    case AXL_OP_GET_VERSION:
        break;
    case AXL_OP_LIST_USERS:
        buf_adds(out, "<searchCriteria><userid>%</userid></searchCriteria>");
        add_user_tags(out, false);
        buf_addf(out, "<skip>%zu</skip><first>%zu</first>", r->skip, r->first);
        break;
    case AXL_OP_GET_USER:
        buf_addf(out, "<uuid>{%s}</uuid>", r->uuid);
        add_user_tags(out, true);
        break;
    case AXL_OP_LIST_CHANGES:
        if (r->queue_id) {
            buf_adds(out, "<startChangeId queueId=\"");
            xml_escape(out, r->queue_id, strlen(r->queue_id));
            buf_addf(out, "\">%llu</startChangeId>", (unsigned long long)r->next_change);
        }
        buf_adds(out, "<objectList><object>User</object></objectList>");
        break;
    case AXL_OP_AUTHENTICATE:
        add_tag(out, "userid", r->userid);
        add_tag(out, "password", r->password);
        break;
    }
    buf_addf(out, "</ns:%s>", name);
}

void axl_write_envelope(struct buf *out, const struct axl_request *request, const char *version)
{
    buf_adds(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<soapenv:Envelope xmlns:soapenv=\"" NS_SOAP
                  "\"><soapenv:Header/><soapenv:Body>");
    axl_write_body(out, request, version);
    buf_adds(out, "</soapenv:Body></soapenv:Envelope>");
}

/* ---- reading values ---- */

static const char *text_of(const struct xml *parent, const char *name, struct arena *arena)
{
    const char *text = parent ? xml_child_text(parent, name, NULL, arena) : NULL;
    return text ? text : "";
}

/* t f true false 0 1 (AXLSoap.xsd, simple type boolean). */
static bool read_bool(const char *text)
{
    return !strcmp(text, "true") || !strcmp(text, "t") || !strcmp(text, "1");
}

/* XInteger: may be empty. False when TEXT is no number. */
static bool read_number(uint64_t *out, const char *text)
{
    char *end;
    if (!isdigit((unsigned char)text[0]))
        return false;
    *out = strtoull(text, &end, 10);
    return !*end;
}

/* "{8-4-4-4-12}" in braces or without, any case. */
static bool read_uuid(char out[AXL_UUID_TEXT + 1], const char *text)
{
    size_t n = text ? strlen(text) : 0;
    if (n == AXL_UUID_TEXT + 2 && text[0] == '{' && text[n - 1] == '}') {
        text++;
        n -= 2;
    }
    if (n != AXL_UUID_TEXT)
        return false;
    for (size_t i = 0; i < n; i++) {
        bool is_dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (is_dash ? text[i] != '-' : !isxdigit((unsigned char)text[i]))
            return false;
        out[i] = (char)tolower((unsigned char)text[i]);
    }
    out[n] = 0;
    return true;
}

/* ---- reading answers ---- */

static void set_error(struct axl_result *out, enum axl_outcome outcome, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void set_error(struct axl_result *out, enum axl_outcome outcome, const char *format, ...)
{
    char text[sizeof out->error.text + 8];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    axl_copy_text(out->error.text, sizeof out->error.text, text);
    out->error.outcome = outcome;
}

/* False: no such user, not even a broken one. */
static bool read_user(struct axl_user *user, const struct xml *x, struct arena *arena)
{
    uint64_t status = 0;
    *user = (struct axl_user){.userid = text_of(x, "userid", arena),
                              .first_name = text_of(x, "firstName", arena),
                              .last_name = text_of(x, "lastName", arena),
                              .mailid = text_of(x, "mailid", arena),
                              .directory_uri = text_of(x, "directoryUri", arena),
                              .display_name = text_of(x, "displayName", arena),
                              .im_and_presence = read_bool(text_of(x, "imAndPresenceEnable", arena)),
                              .home_cluster = read_bool(text_of(x, "homeCluster", arena))};
    if (read_number(&status, text_of(x, "status", arena)) && status < 1000)
        user->status = (int)status;
    return read_uuid(user->uuid, xml_attr(x, "uuid")) && user->userid[0];
}

static void read_users(struct axl_result *out, const struct xml *list, struct arena *arena)
{
    size_t n = 0;
    const struct xml *x;
    for (x = list ? xml_child(list, "user", NULL) : NULL; x; x = xml_next(x, "user", NULL))
        n++;
    struct axl_user *users = arena_alloc(arena, (n ? n : 1) * sizeof *users);
    out->n_rows = n;
    for (x = list ? xml_child(list, "user", NULL) : NULL; x; x = xml_next(x, "user", NULL))
        if (read_user(&users[out->n_users], x, arena))
            out->n_users++;
    out->users = users;
}

static void read_version(struct axl_result *out, const struct xml *list, struct arena *arena)
{
    out->version = text_of(list ? xml_child(list, "componentVersion", NULL) : NULL, "version", arena);
    if (!out->version[0])
        set_error(out, AXL_MALFORMED, "getCCMVersion without a version");
}

static bool is_relevant_tag(const char *name)
{
    static const char *const tags[] = {
        "firstName",   "displayName",         "lastName",     "userid", "mailid",
        "homeCluster", "imAndPresenceEnable", "directoryUri", "status"};
    for (size_t i = 0; name && i < n_elements(tags); i++)
        if (!strcmp(tags[i], name))
            return true;
    return false;
}

static bool read_change(struct axl_change *out, const struct xml *x, struct arena *arena)
{
    const char *type = xml_attr(x, "type"), *action = text_of(x, "action", arena);
    const struct xml *tags = xml_child(x, "changedTags", NULL);
    *out = (struct axl_change){.do_get = read_bool(text_of(x, "doGet", arena))};
    if (!type || strcmp(type, "User") || !read_uuid(out->uuid, xml_attr(x, "uuid")))
        return false;
    read_number(&out->id, text_of(x, "id", arena));
    /* An action that is not known is taken as an update: the record is then fetched and tells all. */
    out->action =
        action[0] == 'a' || action[0] == 'r' ? (enum axl_change_action)action[0] : AXL_CHANGE_UPDATE;
    out->relevant = out->do_get || out->action != AXL_CHANGE_UPDATE || !tags || !xml_first_element(tags);
    for (const struct xml *tag = tags ? xml_child(tags, "changedTag", NULL) : NULL; tag && !out->relevant;
         tag = xml_next(tag, "changedTag", NULL))
        out->relevant = is_relevant_tag(xml_attr(tag, "name"));
    return true;
}

static void read_changes(struct axl_result *out, const struct xml *response, struct arena *arena)
{
    const struct xml *queue = xml_child(response, "queueInfo", NULL),
                     *list = xml_child(response, "changes", NULL);
    const struct xml *x;
    const char *id = text_of(queue, "queueId", arena);
    size_t n = 0;
    if (!id[0] || strlen(id) >= sizeof out->queue.queue_id ||
        !read_number(&out->queue.next_change, text_of(queue, "nextStartChangeId", arena))) {
        set_error(out, AXL_MALFORMED, "listChange without a usable queueInfo");
        return;
    }
    memcpy(out->queue.queue_id, id, strlen(id) + 1);
    read_number(&out->queue.first_change, text_of(queue, "firstChangeId", arena));
    read_number(&out->queue.last_change, text_of(queue, "lastChangeId", arena));
    for (x = list ? xml_child(list, "change", NULL) : NULL; x; x = xml_next(x, "change", NULL))
        n++;
    struct axl_change *changes = arena_alloc(arena, (n ? n : 1) * sizeof *changes);
    for (x = list ? xml_child(list, "change", NULL) : NULL; x; x = xml_next(x, "change", NULL))
        if (read_change(&changes[out->n_changes], x, arena))
            out->n_changes++;
    out->changes = changes;
}

/* The number after LABEL and anything that is no digit; 0 when missing. */
static unsigned number_after(const char *text, const char *label)
{
    const char *p = strcasestr(text, label);
    uint64_t n = 0;
    if (!p)
        return 0;
    p += strlen(label);
    p += strcspn(p, "0123456789");
    for (; isdigit((unsigned char)*p) && n < 100000000; p++)
        n = n * 10 + (uint64_t)(*p - '0');
    return (unsigned)n;
}

/* The element NAME anywhere below X, by its local name: axlError is met with and without a namespace. */
static const struct xml *find_below(const struct xml *x, const char *name)
{
    for (const struct xml *child = xml_first_element(x); child; child = xml_next_element(child)) {
        const struct xml *found = xml_is(child, name, NULL) ? child : find_below(child, name);
        if (found)
            return found;
    }
    return NULL;
}

static void read_fault(struct axl_result *out, const struct xml *fault, struct arena *arena)
{
    const struct xml *error = find_below(fault, "axlError");
    const char *text = text_of(error, "axlmessage", arena);
    out->error.axl_code = atoi(text_of(error, "axlcode", arena));
    if (!text[0])
        text = text_of(fault, "faultstring", arena);
    if (strcasestr(text, "Query request too large")) {
        out->error.suggested_rows = number_after(text, "less than");
        set_error(out, AXL_TOO_LARGE, "%s", text);
    } else {
        set_error(out, out->error.axl_code == FAULT_ITEM_NOT_FOUND ? AXL_NOT_FOUND : AXL_FAULT,
                  "%s (code %d)", text[0] ? text : "SOAP fault", out->error.axl_code);
    }
}

static void read_body(struct axl_result *out, struct arena *arena, enum axl_operation op, const char *body,
                      size_t n_body)
{
    struct err_ctx err = {0};
    struct xml *root;
    const struct xml *soap_body, *x = NULL;
    if (xml_parse(&root, arena, body, n_body, &answer_limits, &err)) {
        set_error(out, AXL_MALFORMED, "%s: %s", axl_operation_name(op), err.text);
        return;
    }
    soap_body = xml_is(root, "Envelope", NS_SOAP) ? xml_child(root, "Body", NS_SOAP) : NULL;
    if (soap_body)
        x = xml_first_element(soap_body);
    if (x && xml_is(x, "Fault", NS_SOAP)) {
        read_fault(out, x, arena);
        return;
    }
    const char *name = arena_printf(arena, "%sResponse", axl_operation_name(op));
    if (!x || !xml_is(x, name, NULL) || strncmp(x->ns, NS_AXL, strlen(NS_AXL))) {
        set_error(out, AXL_MALFORMED, "%s: the answer holds no %s", axl_operation_name(op), name);
        return;
    }
    const struct xml *returned = xml_child(x, "return", NULL);
    switch (op) {
    case AXL_OP_GET_VERSION:
        read_version(out, returned, arena);
        break;
    case AXL_OP_LIST_USERS:
        read_users(out, returned, arena);
        break;
    case AXL_OP_GET_USER:
        read_users(out, returned, arena);
        if (out->n_users != 1)
            set_error(out, AXL_MALFORMED, "getUser without a usable user");
        break;
    case AXL_OP_LIST_CHANGES:
        read_changes(out, x, arena);
        break;
    case AXL_OP_AUTHENTICATE:
        out->is_authenticated = read_bool(text_of(returned, "userAuthenticated", arena));
        out->auth_code = atoi(text_of(returned, "code", arena));
        break;
    }
}

void axl_read_answer(struct axl_result *out, struct arena *arena, enum axl_operation op, int http_status,
                     const char *body, size_t n_body)
{
    *out = (struct axl_result){.version = ""};
    out->error.http_status = http_status;
    /* The HTTP status decides first; only 200 and 500 carry SOAP. */
    switch (http_status) {
    case 200:
    case 500:
        read_body(out, arena, op, body, n_body);
        if (http_status == 500 && (out->error.outcome == AXL_MALFORMED || out->error.outcome == AXL_OK))
            set_error(out, AXL_RETRY, "HTTP status 500 without a SOAP fault");
        break;
    case 401:
        set_error(out, AXL_AUTH, "HTTP status 401: %s", axl_outcome_text(AXL_AUTH));
        break;
    case 403:
        set_error(out, AXL_DENIED, "HTTP status 403: %s", axl_outcome_text(AXL_DENIED));
        break;
    case 503:
        set_error(out, AXL_THROTTLED, "HTTP status 503: %s", axl_outcome_text(AXL_THROTTLED));
        break;
    case 599:
        set_error(out, AXL_VERSION, "HTTP status 599: %s", axl_outcome_text(AXL_VERSION));
        break;
    default:
        if (http_status >= 500 || http_status == 408 || http_status == 429)
            set_error(out, AXL_RETRY, "HTTP status %d", http_status);
        else
            set_error(out, AXL_MALFORMED, "HTTP status %d: no AXL service at this URL", http_status);
        break;
    }
}

/* ---- versions ---- */

/* Best first. Newer than 14.0 is only tried when the server says that it has nothing older. */
static const char *const versions[] = {"14.0", "12.5", "11.5", "15.0"};

/* Does TEXT name VERSION as a word of its own, also as "14" for "14.0"? */
static bool names_version(const char *text, const char *version)
{
    size_t n = strlen(version), n_major = strcspn(version, ".");
    bool is_zero = !strcmp(version + n_major, ".0");
    for (const char *p = text; (p += strcspn(p, "0123456789")), *p;) {
        size_t n_word = strspn(p, "0123456789.");
        while (n_word && p[n_word - 1] == '.')
            n_word--; /* the full stop of a sentence */
        if ((n_word == n && !memcmp(p, version, n)) ||
            (is_zero && n_word == n_major && !memcmp(p, version, n_word)))
            return true;
        p += n_word ? n_word : 1;
    }
    return false;
}

const char *axl_next_version(const char *body, const char *old, unsigned *tried)
{
    const char *list = strcasestr(body, "supported");
    bool any_named = false;
    for (size_t i = 0; i < n_elements(versions); i++) {
        if (!strcmp(versions[i], old))
            *tried |= 1u << i;
        any_named |= list && names_version(list, versions[i]);
    }
    for (size_t i = 0; i < n_elements(versions); i++) {
        if ((*tried >> i & 1) || (any_named && !names_version(list, versions[i])))
            continue;
        *tried |= 1u << i;
        return versions[i];
    }
    return NULL;
}
