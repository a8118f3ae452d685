#include "control.h"
#include "base/mem.h"
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char control_help[] =
    "Control interface (HTTP, JSON in and out; no authentication, so bind it to 127.0.0.1):\n"
    "  GET    /stats                 requests seen per operation, sessions, faults served, users, queue\n"
    "  DELETE /stats                 counts from zero again\n"
    "  GET    /users[?like=user00%]  users whose userid matches (% is any text)\n"
    "  GET    /users/USERID          one user\n"
    "  POST   /users                 {\"userid\":\"amori\", FIELD:..., \"password\":\"...\"} adds a user;\n"
    "                                {\"from\":31,\"to\":40} adds user0031 to user0040\n"
    "  PATCH  /users/USERID          {FIELD:...} changes it; FIELD is an AXL tag (firstName, displayName, "
    "lastName,\n"
    "                                userid (renames), mailid, department, homeCluster, "
    "imAndPresenceEnable,\n"
    "                                directoryUri, telephoneNumber, title), or \"password\", or \"locked\"\n"
    "  PATCH  /users?like=user1%     the same for all that match\n"
    "  DELETE /users/USERID          removes it; DELETE /users?like=user1% removes all that match\n"
    "  GET    /queue                 the change queue\n"
    "  PUT    /queue                 {\"queueId\":\"NEW\"} a new queue ({}: a random id), as after an "
    "upgrade;\n"
    "                                {\"keep\":N} forgets all but the newest N changes, so that pollers see "
    "a gap\n"
    "  GET    /faults                what is set\n"
    "  POST   /faults                {\"kind\":KIND, \"operation\":\"listUser\" (default: any), \"count\":N "
    "(default:\n"
    "                                until cleared), \"skip\":N (let N pass first), \"ms\":N (delay, any "
    "kind),\n"
    "                                \"rows\":N, \"code\":N, \"text\":\"...\", \"versions\":\"11.5,12.5\"}\n"
    "  DELETE /faults                clears them\n"
    "  PUT    /server                {\"user\",\"password\" (of the AXL account), "
    "\"versions\":\"11.5,12.5\",\n"
    "                                \"maxRows\":N, \"release\":\"...\", \"lockAfter\":N} changes what is "
    "given\n"
    "Kinds of faults:\n"
#define X(id, name, help) "  " name "\t" help "\n"
    FAULT_KINDS(X)
#undef X
    ;

/* ---- answers ---- */

static unsigned answer(struct buf *out, unsigned status, json_t *json)
{
    char *text = json_dumps(json, JSON_COMPACT | JSON_PRESERVE_ORDER);
    buf_adds(out, text);
    buf_addc(out, '\n');
    free(text);
    json_decref(json);
    return status;
}

static unsigned answer_ok(struct buf *out)
{
    return answer(out, 200, json_pack("{s:b}", "ok", 1));
}

static unsigned answer_error(struct buf *out, unsigned status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static unsigned answer_error(struct buf *out, unsigned status, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return answer(out, status, json_pack("{s:s}", "error", text));
}

static unsigned answer_code(struct buf *out, const struct err_ctx *err)
{
    return answer_error(out, err->code == ERR_EXISTS ? 409 : 400, "%s", err->text);
}

static json_t *user_json(const struct ucm_user *user)
{
    struct buf scratch = {0};
    json_t *json = json_pack("{s:s}", "uuid", user->uuid);
    for (int f = 0; f < N_FIELDS; f++) {
        const char *value = ucm_user_value(user, (enum field)f, &scratch);
        json_object_set_new(json, field_tag((enum field)f),
                            field_is_bool((enum field)f) ? json_boolean(!strcmp(value, "true"))
                                                         : json_string(value));
    }
    json_object_set_new(json, "locked", json_boolean(user->locked));
    buf_fini(&scratch);
    return json;
}

static json_t *queue_json(const struct ucm *u)
{
    return json_pack("{s:s,s:I,s:I}", "queueId", u->queue_id, "firstChangeId", (json_int_t)u->first_change,
                     "nextChangeId", (json_int_t)u->next_change);
}

/* ---- users ---- */

/* Applies the members of SET to USER. A field's value is a string, or a boolean for a boolean field. */
static int set_user(struct sim *sim, struct ucm_user *user, json_t *set, bool log_change, struct err_ctx *err)
{
    struct buf tags = {0};
    const char *key;
    json_t *value;
    int code = 0;
    json_object_foreach(set, key, value)
    {
        const char *text =
            json_is_boolean(value) ? (json_is_true(value) ? "true" : "false") : json_string_value(value);
        int f = field_find(key);
        if (!strcmp(key, "locked") && json_is_boolean(value))
            user->locked = json_is_true(value);
        else if (!text || (f < 0 && strcmp(key, "password")))
            code = err_set(err, ERR_INVALID, "unknown field or wrong type: %s", key);
        else if (f < 0)
            ucm_set_password(user, text);
        else
            code = ucm_set(&sim->ucm, user, (enum field)f, text, &tags, err);
        if (code)
            break;
    }
    if (log_change)
        ucm_log_update(&sim->ucm, user, &tags);
    buf_fini(&tags);
    return code;
}

static unsigned add_users(struct sim *sim, json_t *body, struct buf *out)
{
    const char *userid = json_string_value(json_object_get(body, "userid"));
    json_t *from = json_object_get(body, "from"), *to = json_object_get(body, "to");
    struct err_ctx err = {0};
    struct ucm_user *user;
    if (json_is_integer(from) && json_is_integer(to)) {
        json_int_t a = json_integer_value(from), b = json_integer_value(to);
        if (a < 0 || b < a || b - a >= 1000000)
            return answer_error(out, 400, "from and to: at most 1000000 users");
        ucm_make_users(&sim->ucm, (unsigned)a, (unsigned)b, true);
        return answer_ok(out);
    }
    if (!userid)
        return answer_error(out, 400, "userid, or from and to, is missing");
    if (ucm_add(&sim->ucm, &user, userid, &err))
        return answer_code(out, &err);
    if (set_user(sim, user, body, false, &err)) {
        ucm_remove(&sim->ucm, user);
        return answer_code(out, &err);
    }
    ucm_log_add(&sim->ucm, user);
    return answer(out, 201, user_json(user));
}

static unsigned on_user(struct sim *sim, const char *method, const char *userid, json_t *body,
                        struct buf *out)
{
    struct ucm_user *user = ucm_find(&sim->ucm, userid);
    struct err_ctx err = {0};
    if (!user)
        return answer_error(out, 404, "no user %s", userid);
    if (!strcmp(method, "GET"))
        return answer(out, 200, user_json(user));
    if (!strcmp(method, "PATCH"))
        return set_user(sim, user, body, true, &err) ? answer_code(out, &err)
                                                     : answer(out, 200, user_json(user));
    if (!strcmp(method, "DELETE")) {
        ucm_remove(&sim->ucm, user);
        return answer_ok(out);
    }
    return answer_error(out, 405, "GET, PATCH or DELETE");
}

static unsigned on_users(struct sim *sim, const char *method, const char *like, json_t *body, struct buf *out)
{
    bool get = !strcmp(method, "GET"), patch = !strcmp(method, "PATCH"), del = !strcmp(method, "DELETE");
    struct err_ctx err = {0};
    json_t *list = json_array();
    unsigned long n = 0;
    if (!strcmp(method, "POST")) {
        json_decref(list);
        return add_users(sim, body, out);
    }
    if (!get && (!(patch || del) || !like)) {
        json_decref(list);
        return answer_error(out, 405, "GET, POST; PATCH and DELETE with ?like=");
    }
    for (size_t i = 0; i < sim->ucm.n_users; i++) {
        struct ucm_user *user = sim->ucm.users[i];
        if (like && !ucm_like(user->value[FIELD_USERID], like))
            continue;
        n++;
        if (get) {
            json_array_append_new(list, user_json(user));
        } else if (patch && set_user(sim, user, body, true, &err)) {
            json_decref(list);
            return answer_code(out, &err);
        } else if (del) {
            ucm_remove(&sim->ucm, user);
            i--;
        }
    }
    if (get)
        return answer(out, 200, list);
    json_decref(list);
    return answer(out, 200, json_pack("{s:I}", "n", (json_int_t)n));
}

/* ---- the rest ---- */

static unsigned on_stats(struct sim *sim, const char *method, struct buf *out)
{
    struct soap *s = &sim->soap;
    if (!strcmp(method, "DELETE")) {
        memset(s->n_requests, 0, sizeof s->n_requests);
        s->n_unknown = s->n_bad = s->n_rows = s->n_auth_ok = s->n_auth_failed = 0;
        sim->faults.n_served = 0;
        sim->n_logins = sim->n_session_hits = sim->n_refused_logins = sim->n_connections = 0;
        return answer_ok(out);
    }
    json_t *requests = json_object();
    for (int i = 0; i < N_SOAP_OPERATIONS; i++)
        json_object_set_new(requests, soap_operation_name((enum soap_operation)i),
                            json_integer((json_int_t)s->n_requests[i]));
    return answer(out, 200,
                  json_pack("{s:o,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:o}", "requests", requests,
                            "unknown", (json_int_t)s->n_unknown, "bad", (json_int_t)s->n_bad, "rowsListed",
                            (json_int_t)s->n_rows, "authenticated", (json_int_t)s->n_auth_ok,
                            "notAuthenticated", (json_int_t)s->n_auth_failed, "faultsServed",
                            (json_int_t)sim->faults.n_served, "sessionsMade", (json_int_t)sim->n_logins,
                            "sessionsReused", (json_int_t)sim->n_session_hits, "loginsRefused",
                            (json_int_t)sim->n_refused_logins, "connections", (json_int_t)sim->n_connections,
                            "users", (json_int_t)sim->ucm.n_users, "queue", queue_json(&sim->ucm)));
}

static unsigned on_queue(struct sim *sim, const char *method, json_t *body, struct buf *out)
{
    json_t *keep = json_object_get(body, "keep"), *id = json_object_get(body, "queueId");
    if (!strcmp(method, "PUT")) {
        if (json_is_integer(keep) && json_integer_value(keep) >= 0)
            ucm_forget_changes(&sim->ucm, (uint64_t)json_integer_value(keep));
        else
            ucm_new_queue(&sim->ucm, json_string_value(id));
    }
    return answer(out, 200, queue_json(&sim->ucm));
}

static unsigned number(json_t *body, const char *key)
{
    json_int_t n = json_integer_value(json_object_get(body, key));
    return n < 0 ? 0 : n > 3600000 ? 3600000 : (unsigned)n;
}

static unsigned add_fault(struct sim *sim, json_t *body, struct buf *out)
{
    const char *kind = json_string_value(json_object_get(body, "kind"));
    const char *operation = json_string_value(json_object_get(body, "operation"));
    const char *text = json_string_value(json_object_get(body, "text"));
    const char *versions = json_string_value(json_object_get(body, "versions"));
    struct fault fault = {.kind = kind ? fault_find(kind) : FAULT_NONE, .count = -1};
    if (!fault.kind)
        return answer_error(out, 400, "unknown kind of fault");
    if (json_object_get(body, "count"))
        fault.count = (int)number(body, "count");
    if (!fault.count)
        return answer_ok(out);
    fault.skip = number(body, "skip");
    fault.ms = number(body, "ms");
    fault.rows = number(body, "rows");
    fault.code = (int)json_integer_value(json_object_get(body, "code"));
    snprintf(fault.operation, sizeof fault.operation, "%s", operation ? operation : "");
    snprintf(fault.text, sizeof fault.text, "%s", versions ? versions : text ? text : "");
    if (!fault_add(&sim->faults, &fault))
        return answer_error(out, 409, "too many faults are set");
    return answer_ok(out);
}

static unsigned on_faults(struct sim *sim, const char *method, json_t *body, struct buf *out)
{
    if (!strcmp(method, "POST"))
        return add_fault(sim, body, out);
    if (!strcmp(method, "DELETE")) {
        fault_clear(&sim->faults);
        return answer_ok(out);
    }
    json_t *list = json_array();
    for (size_t i = 0; i < sim->faults.n; i++) {
        const struct fault *f = &sim->faults.list[i];
        json_array_append_new(list, json_pack("{s:s,s:s,s:i,s:i,s:i}", "kind", fault_name(f->kind),
                                              "operation", f->operation, "count", f->count, "skip",
                                              (int)f->skip, "ms", (int)f->ms));
    }
    return answer(out, 200, list);
}

static unsigned on_server(struct sim *sim, const char *method, json_t *body, struct buf *out)
{
    const char *user = json_string_value(json_object_get(body, "user"));
    const char *password = json_string_value(json_object_get(body, "password"));
    const char *versions = json_string_value(json_object_get(body, "versions"));
    const char *release = json_string_value(json_object_get(body, "release"));
    if (strcmp(method, "PUT"))
        return answer_error(out, 405, "PUT");
    if (versions && soap_set_versions(&sim->soap, versions))
        return answer_error(out, 400, "versions: like 11.5,12.5,14.0");
    if (user)
        snprintf(sim->axl_user, sizeof sim->axl_user, "%s", user);
    if (password)
        snprintf(sim->axl_password, sizeof sim->axl_password, "%s", password);
    if (user || password)
        memset(sim->sessions, 0, sizeof sim->sessions);
    if (release)
        snprintf(sim->soap.release, sizeof sim->soap.release, "%s", release);
    if (json_object_get(body, "maxRows"))
        sim->soap.max_rows = number(body, "maxRows");
    if (json_object_get(body, "lockAfter"))
        sim->soap.lock_after = number(body, "lockAfter");
    return answer_ok(out);
}

unsigned control_handle(struct sim *sim, const char *method, const char *path, const char *like,
                        const char *body, size_t n_bytes, struct buf *out)
{
    json_error_t error;
    json_t *json = n_bytes ? json_loadb(body, n_bytes, JSON_REJECT_DUPLICATES, &error) : json_object();
    unsigned status;
    if (!json_is_object(json))
        status = answer_error(out, 400, "the body is not a JSON object%s%s", json ? "" : ": ",
                              json ? "" : error.text);
    else if (!strcmp(path, "/stats"))
        status = on_stats(sim, method, out);
    else if (!strcmp(path, "/users"))
        status = on_users(sim, method, like, json, out);
    else if (!strncmp(path, "/users/", 7))
        status = on_user(sim, method, path + 7, json, out);
    else if (!strcmp(path, "/queue"))
        status = on_queue(sim, method, json, out);
    else if (!strcmp(path, "/faults"))
        status = on_faults(sim, method, json, out);
    else if (!strcmp(path, "/server"))
        status = on_server(sim, method, json, out);
    else
        status = answer_error(out, 404, "see ucmsim --help");
    json_decref(json);
    return status;
}
