#include "node/xmpp_glue.h"
#include "admin.pb-c.h"
#include "node/node_impl.h"
#include <string.h>

/* ---- administration: posted by a shard, done on the control loop, answered by a letter back ---- */

enum { ARGS_MAX = 8 };

struct request {
    struct letter letter;
    struct node *node;
    struct loop *reply_to;
    void (*on_done)(void *user, bool ok, const char *text);
    void *user;
    struct arena arena;
    const char *area, *verb, *option, *option_value, *who;
    char *args[ARGS_MAX];
    size_t n_args;
    char *input;
    bool ok;
    char *text;
};

static void free_request(struct request *r)
{
    if (r->input)
        mem_wipe(r->input, strlen(r->input));
    mem_free(r->input);
    mem_free(r->text);
    arena_fini(&r->arena);
    mem_free(r);
}

static void discard(struct letter *letter)
{
    free_request(container_of(letter, struct request, letter));
}

static void hand_back(struct letter *letter)
{
    struct request *r = container_of(letter, struct request, letter);
    r->on_done(r->user, r->ok, r->text);
    free_request(r);
}

static void on_reply(void *user, bool ok, const char *text)
{
    struct request *r = user;
    r->ok = ok;
    r->text = mem_strdup(text);
    r->letter.deliver = hand_back;
    r->letter.discard = discard;
    loop_post(r->reply_to, &r->letter);
}

static void run(struct letter *letter)
{
    struct request *r = container_of(letter, struct request, letter);
    Imp__AdminRequest m = IMP__ADMIN_REQUEST__INIT;
    Imp__AdminOption option = IMP__ADMIN_OPTION__INIT, *options[] = {&option};
    if (!r->node->admin) {
        on_reply(r, false, "this node is starting or stopping");
        return;
    }
    m.area = (char *)r->area;
    m.verb = (char *)r->verb;
    m.args = r->args;
    m.n_args = r->n_args;
    m.release = (char *)im_release(r->node->im);
    if (r->option) {
        option.name = (char *)r->option;
        option.value = (char *)(r->option_value ? r->option_value : "");
        m.options = options;
        m.n_options = 1;
    }
    if (r->input)
        m.input = (ProtobufCBinaryData){strlen(r->input), (uint8_t *)r->input};
    admin_run(r->node->admin, &m, r->who, on_reply, r);
}

void xmpp_glue_admin(void *user, const struct xmpp_admin_request *from)
{
    struct node *n = user;
    struct request *r = mem_new(struct request);
    arena_init(&r->arena);
    r->node = n;
    r->reply_to = from->reply_to;
    r->on_done = from->on_done;
    r->user = from->user;
    r->area = arena_strdup(&r->arena, from->area);
    r->verb = arena_strdup(&r->arena, from->verb);
    r->who = arena_printf(&r->arena, "xmpp:%s", from->who);
    if (from->option) {
        r->option = arena_strdup(&r->arena, from->option);
        r->option_value = from->option_value ? arena_strdup(&r->arena, from->option_value) : NULL;
    }
    for (; r->n_args < from->n_args && r->n_args < ARGS_MAX; r->n_args++)
        r->args[r->n_args] = arena_strdup(&r->arena, from->args[r->n_args]);
    r->input = from->input ? mem_strdup(from->input) : NULL;
    r->letter.deliver = run;
    r->letter.discard = discard;
    loop_post(n->loop, &r->letter);
}

/* ---- secrets ---- */

static void give_secret(struct node *n, enum setting id, enum xmpp_secret which)
{
    struct arena a;
    struct buf plain = {0};
    struct err_ctx err = {0};
    const uint8_t *sealed;
    size_t n_sealed;
    char purpose[128];
    arena_init(&a);
    snprintf(purpose, sizeof purpose, "setting:%s", setting_defs[id].key);
    if (setting_sealed(control_read(n), id, &a, &sealed, &n_sealed) &&
        seal_open(&n->ring, purpose, sealed, n_sealed, &plain, &err))
        log_warning(n->log, "%s cannot be read: %s", setting_defs[id].key, err.text);
    xmpp_set_secret(n->xmpp, which, plain.n ? plain.data : NULL);
    if (plain.data)
        mem_wipe(plain.data, plain.n);
    buf_fini(&plain);
    arena_fini(&a);
}

void xmpp_glue_settings_changed(struct node *n)
{
    give_secret(n, SETTING_XMPP_TURN_SECRET, XMPP_SECRET_TURN);
    give_secret(n, SETTING_XMPP_COMPONENT_SECRETS, XMPP_SECRET_COMPONENTS);
}
