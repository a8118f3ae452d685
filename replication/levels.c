#include "replication/levels.h"
#include "base/release.h"
#include <stddef.h>
#include <stdio.h>

static const struct level {
    unsigned level;
    const char *release, *what;
} levels[] = {
#define X(level_, release_, what_) {level_, release_, what_},
#include "replication/levels.def"
#undef X
};
enum { N_LEVELS = sizeof(levels) / sizeof(levels[0]) };

unsigned level_known(void)
{
    unsigned highest = levels[N_LEVELS - 1].level, limit = release_max_level();
    return limit && limit < highest ? limit : highest;
}

static const struct level *find(unsigned level)
{
    for (size_t i = 0; i < N_LEVELS; i++)
        if (levels[i].level == level && level <= level_known())
            return &levels[i];
    return NULL;
}

const char *level_release(unsigned level)
{
    const struct level *l = find(level);
    return l ? l->release : "a newer release";
}

const char *level_what(unsigned level)
{
    const struct level *l = find(level);
    return l ? l->what : "";
}

int level_refuse(unsigned level, struct err_ctx *err)
{
    if (level <= level_known())
        return 0;
    return err_set(
        err, ERR_VERSION,
        "the cluster is at feature level %u, and this release (%s) knows %u: install the release that the "
        "other nodes have ('impcli node list' there). A level that was raised never falls, so a release "
        "from before cannot be used any more",
        level, release_name(), level_known());
}

void level_remedy(char out[LEVEL_TEXT_MAX], unsigned level)
{
    snprintf(out, LEVEL_TEXT_MAX,
             "this works once all nodes have release %s or newer (feature level %u; see impcli node list)",
             level_release(level), level);
}
