#include "base/release.h"

const char *release_name(void)
{
    return IMP_RELEASE;
}

unsigned release_max_level(void)
{
    return IMP_MAX_LEVEL;
}
