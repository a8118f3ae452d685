#include "node/admin_calls.h"
#include "cluster/home.h"

void admin_calls_register(const struct admin_env *env)
{
    static const struct {
        const char *method;
        link_call_fn *fn;
    } calls[] = {
        {"status", admin_call_status},     {"hashes", admin_call_hashes}, {"services", admin_call_services},
        {"sessions", admin_call_sessions}, {"kick", admin_call_kick},     {"ranges", admin_call_ranges},
    };
    for (unsigned i = 0; i < n_elements(calls); i++)
        links_handle_call(env->links, calls[i].method, calls[i].fn, (void *)env);
}

uint32_t admin_active_home(struct admin_call *call, const Imp__UserRow *user)
{
    struct members *m = members_read(admin_read(call), store_reader_index(call->env->reader));
    uint32_t node = home_active(m, user->home, user->home_index, user->uid, NULL);
    members_free(m);
    return node;
}
