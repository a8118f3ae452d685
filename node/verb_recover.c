#include "node/verbs.h"

int verb_recover(struct options *o)
{
    return verb_fail("recovering %s: not available in this release", o->data);
}
