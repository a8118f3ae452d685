#include "node/admin_calls.h"
#include "cluster/home.h"

void admin_calls_register(const struct admin_env *env)
{
    static const struct {
        const char *method;
        link_call_fn *fn;
    } calls[] = {
        {"status", admin_call_status}, {"hashes", admin_call_hashes}, {"services", admin_call_services},
        {"sessions", admin_call_sessions}, {"kick", admin_call_kick},
    };
    for (unsigned i = 0; i < n_elements(calls); i++)
        links_handle_call(env->links, calls[i].method, calls[i].fn, (void *)env);
}
