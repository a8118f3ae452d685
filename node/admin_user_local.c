/* impcli user add|import|passwd: local users. Keys are derived from the password on the thread pool; the
 * password is wiped as soon as that is done. */
#include "base/mem.h"
#include "im/address.h"
#include "im/credential_row.h"
#include "im/directory_words.h"
#include "node/admin_handlers.h"
#include <string.h>

enum {
    MAX_IMPORT = 100000,
    IMPORT_WINDOW = 8, /* derivations and proposals under way */
};

struct new_user {
    struct work work;
    struct admin_call *call;
    void (*on_ready)(struct new_user *u);
    char localpart[JID_PART_MAX + 1], domain[JID_PART_MAX + 1];
    char *display_name;
    char *password;
    size_t n_password;
    unsigned line; /* of an import, else 0 */
    uint64_t uid;  /* of a password change */
    int code;
    struct err_ctx err;
    struct credential credential;
};

static void new_user_free(struct new_user *u)
{
    if (u->password)
        mem_wipe(u->password, u->n_password);
    mem_free(u->password);
    mem_free(u->display_name);
    credential_wipe(&u->credential);
    mem_free(u);
}

static void derive(struct work *w)
{
    struct new_user *u = container_of(w, struct new_user, work);
    u->code = credential_new(&u->credential, u->password, u->n_password, CREDENTIAL_ITERATIONS, &u->err);
    mem_wipe(u->password, u->n_password);
}

static void derived(struct work *w)
{
    struct new_user *u = container_of(w, struct new_user, work);
    u->on_ready(u);
}

/* NAME is "user" or "user@domain". NULL with ERR filled when it is not an address. */
static struct new_user *new_user(struct admin_call *call, const char *name, const char *password,
                                 size_t n_password, struct err_ctx *err)
{
    struct jid jid;
    struct key key;
    const char *text = name;
    key_init(&key);
    Imp__ClusterRow *cluster = store_find_row(admin_read(call), TABLE_CLUSTER, &key, &call->arena);
    if (!strchr(name, '@') && cluster)
        text = arena_printf(&call->arena, "%s@%s", name, cluster->default_domain);
    if (jid_parse(&jid, text, strlen(text), err))
        return NULL;
    if (memchr(password, 0, n_password)) {
        err_set(err, ERR_INVALID, "the password has a zero byte");
        return NULL;
    }
    if (!*jid.local || *jid.resource) {
        err_set(err, ERR_INVALID, "'%s' is not USER or USER@DOMAIN", name);
        return NULL;
    }
    struct new_user *u = mem_new(struct new_user);
    u->call = call;
    memcpy(u->localpart, jid.local, sizeof u->localpart);
    memcpy(u->domain, jid.domain, sizeof u->domain);
    u->password = mem_strndup(password, n_password);
    u->n_password = n_password;
    u->work.work = derive;
    u->work.done = derived;
    return u;
}

static bool propose_add(struct new_user *u, proposal_done_fn *on_done,
                        bool (*propose)(struct admin_call *, Imp__Command *, proposal_done_fn *))
{
    struct credential_row credential;
    Imp__UserAdd body = IMP__USER_ADD__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    char *words[DIRECTORY_WORDS_MAX];
    credential_row_fill(&credential, &u->credential, replica_level(u->call->env->replica));
    body.domain = u->domain;
    body.localpart = u->localpart;
    body.userid = u->localpart;
    body.display_name = u->display_name ? u->display_name : (char *)"";
    body.credential = &credential.row;
    body.words = words;
    body.n_words =
        directory_words(words, &u->call->arena, (const char *const[]){u->localpart, body.display_name, NULL});
    command.body_case = IMP__COMMAND__BODY_USER_ADD;
    command.user_add = &body;
    return propose(u->call, &command, on_done);
}

/* ---- add ---- */

static void on_added(void *user, const struct proposal_result *result)
{
    struct admin_call *call = user;
    if (admin_accepted(call, result))
        admin_done(call, "%s is added", call->args[0]);
}

static void add_ready(struct new_user *u)
{
    if (u->code)
        admin_fail(u->call, "%s", u->err.text);
    else
        propose_add(u, on_added, admin_propose);
    new_user_free(u);
}

void admin_user_add(struct admin_call *call)
{
    struct err_ctx err = {0};
    if (call->n_input == 0) {
        admin_fail(call, "the password is read from standard input and must not be empty");
        return;
    }
    struct new_user *u = new_user(call, call->args[0], call->input, call->n_input, &err);
    if (!u) {
        admin_fail(call, "%s", err.text);
        return;
    }
    u->display_name = mem_strdup(admin_option(call, "name"));
    u->on_ready = add_ready;
    loop_run_work(call->env->loop, &u->work);
}

/* ---- passwd ---- */

static void on_password_set(void *user, const struct proposal_result *result)
{
    struct admin_call *call = user;
    if (admin_accepted(call, result))
        admin_done(call, "the password of %s is set", call->args[0]);
}

static void passwd_ready(struct new_user *u)
{
    struct credential_row credential;
    if (u->code) {
        admin_fail(u->call, "%s", u->err.text);
    } else {
        Imp__UserPassword body = IMP__USER_PASSWORD__INIT;
        Imp__Command command = IMP__COMMAND__INIT;
        credential_row_fill(&credential, &u->credential, replica_level(u->call->env->replica));
        body.uid = u->uid;
        body.credential = &credential.row;
        command.body_case = IMP__COMMAND__BODY_USER_PASSWORD;
        command.user_password = &body;
        admin_propose(u->call, &command, on_password_set);
    }
    new_user_free(u);
}

void admin_user_passwd(struct admin_call *call)
{
    struct err_ctx err = {0};
    Imp__UserRow *row = admin_find_user(call, call->args[0]);
    if (!row)
        return;
    if (row->source != IMP__USER_SOURCE__SOURCE_LOCAL) {
        admin_fail(call, "the call manager checks the password of %s: change it there", call->args[0]);
        return;
    }
    struct new_user *u =
        call->n_input ? new_user(call, call->args[0], call->input, call->n_input, &err) : NULL;
    if (!u) {
        admin_fail(call, "%s",
                   call->n_input ? err.text
                                 : "the password is read from standard input and must not be empty");
        return;
    }
    u->uid = row->uid;
    u->on_ready = passwd_ready;
    loop_run_work(call->env->loop, &u->work);
}

/* ---- import: every line is checked before the first is written; then a few at a time ---- */

struct import_line {
    char *user, *password, *name;
    unsigned line;
};
struct import {
    struct import_line *lines;
    size_t n, next;
    unsigned n_open;
    uint64_t n_added, n_refused;
    char first_text[256];
};

static void import_go_on(struct admin_call *call);

static void import_bad(struct import *im, unsigned line, const char *text)
{
    if (im->n_refused++ > 0)
        return;
    if (line)
        snprintf(im->first_text, sizeof im->first_text, "line %u: %s", line, text);
    else
        snprintf(im->first_text, sizeof im->first_text, "%s", text);
}

static void on_imported(void *user, const struct proposal_result *result)
{
    struct admin_call *call = user;
    struct import *im = call->state;
    im->n_open--;
    if (result->code == 0)
        im->n_added++;
    else
        import_bad(im, 0, *result->text ? result->text : err_text(result->code));
    import_go_on(call);
}

/* Unlike admin_propose it does not end the call: other lines are still under way. */
static bool import_propose(struct admin_call *call, Imp__Command *command, proposal_done_fn *on_done)
{
    if (admin_alone(call))
        return false;
    return proposal_submit(call->env->replica, command, call->env->loop, 0, on_done, call) == 0;
}

static void import_ready(struct new_user *u)
{
    struct admin_call *call = u->call;
    struct import *im = call->state;
    if (u->code || !propose_add(u, on_imported, import_propose)) {
        im->n_open--;
        import_bad(im, u->line, u->code ? u->err.text : "this node takes no writes now");
        new_user_free(u);
        import_go_on(call);
        return;
    }
    new_user_free(u);
}

static void import_go_on(struct admin_call *call)
{
    struct import *im = call->state;
    struct err_ctx err = {0};
    while (im->n_open < IMPORT_WINDOW && im->next < im->n) {
        const struct import_line *l = &im->lines[im->next++];
        struct new_user *u = new_user(call, l->user, l->password, strlen(l->password), &err);
        mem_wipe(l->password, strlen(l->password));
        if (!u) {
            import_bad(im, l->line, err.text);
            continue;
        }
        u->line = l->line;
        u->display_name = mem_strdup(l->name);
        u->on_ready = import_ready;
        im->n_open++;
        loop_run_work(call->env->loop, &u->work);
    }
    if (im->n_open || im->next < im->n)
        return;
    if (im->n_refused == 0)
        admin_done(call, "%llu users added", (unsigned long long)im->n_added);
    else
        admin_fail(call, "%llu users added, %llu refused; the first one: %s", (unsigned long long)im->n_added,
                   (unsigned long long)im->n_refused, im->first_text);
}

void admin_user_import(struct admin_call *call)
{
    struct import *im = call->state = arena_zalloc(&call->arena, sizeof *im);
    char *text = arena_strndup(&call->arena, call->input ? call->input : "", call->n_input);
    size_t n_lines = 1;
    for (const char *p = text; (p = strchr(p, '\n')); p++)
        n_lines++;
    if (n_lines > MAX_IMPORT) {
        admin_fail(call, "more than %d lines: split the file", MAX_IMPORT);
        return;
    }
    im->lines = arena_zalloc(&call->arena, n_lines * sizeof *im->lines);
    unsigned line = 0;
    for (char *next, *p = text; p && *p; p = next) {
        next = strchr(p, '\n');
        if (next)
            *next++ = 0;
        line++;
        p[strcspn(p, "\r")] = 0;
        if (!*p || *p == '#')
            continue;
        char *password = strchr(p, ',');
        if (password)
            *password++ = 0;
        char *name = password ? strchr(password, ',') : NULL;
        if (name)
            *name++ = 0;
        if (!password || !*password) {
            admin_fail(call, "line %u: expected USER,PASSWORD[,DISPLAY NAME]; nothing was added", line);
            return;
        }
        im->lines[im->n++] = (struct import_line){p, password, name, line};
    }
    import_go_on(call);
}
