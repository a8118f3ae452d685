#include "base/mem.h"
#include "protocols/xmpp/c2s.h"
#include <string.h>

struct c2s_login *c2s_login_new(void)
{
    return mem_new(struct c2s_login);
}

void c2s_login_free(struct c2s_login *login)
{
    if (!login)
        return;
    if (!login->packed) {
        mem_free(login->localpart);
        mem_free(login->domain);
        mem_free(login->mechanism);
        mem_free(login->address);
        mem_free(login->lang);
        mem_free(login->request);
        mem_free(login->success);
    }
    mem_free(login);
}

struct c2s_login *c2s_login_pack(struct c2s_login *login)
{
    const char *kept[] = {login->localpart, login->domain, login->mechanism, login->address, login->lang};
    size_t n = sizeof *login;
    for (size_t i = 0; i < n_elements(kept); i++)
        n += kept[i] ? strlen(kept[i]) + 1 : 0;
    struct c2s_login *l = mem_alloc(n);
    *l = *login;
    char **to[] = {&l->localpart, &l->domain, &l->mechanism, &l->address, &l->lang};
    char *at = (char *)(l + 1);
    for (size_t i = 0; i < n_elements(kept); i++)
        if (kept[i]) {
            *to[i] = at;
            at = stpcpy(at, kept[i]) + 1;
        }
    l->request = l->success = NULL;
    l->packed = true;
    c2s_login_free(login);
    return l;
}
