/* Until the IM core is linked in: there are no sessions. */
#include "im/session_admin.h"

void session_admin_list(struct im *im, uint64_t uid, size_t max, struct loop *loop, session_list_fn *on_list,
                        void *user)
{
    (void)im, (void)uid, (void)max, (void)loop;
    on_list(user, NULL, 0, false);
}

void session_admin_kick(struct im *im, uint64_t uid, const char *resource, struct loop *loop,
                        session_kick_fn *on_done, void *user)
{
    (void)im, (void)uid, (void)resource, (void)loop;
    on_done(user, 0);
}
