#include "fault.h"
#include <string.h>

static const char *const names[] = {[FAULT_NONE] = "none",
#define X(id, name, help) [FAULT_##id] = name,
                                    FAULT_KINDS(X)
#undef X
};

const char *fault_name(enum fault_kind kind)
{
    return names[kind];
}

enum fault_kind fault_find(const char *name)
{
    for (size_t i = 1; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i], name))
            return (enum fault_kind)i;
    return FAULT_NONE;
}

bool fault_add(struct faults *f, const struct fault *fault)
{
    if (f->n == MAX_FAULTS)
        return false;
    f->list[f->n++] = *fault;
    return true;
}

bool fault_take(struct faults *f, const char *operation, struct fault *out)
{
    for (size_t i = 0; i < f->n; i++) {
        struct fault *fault = &f->list[i];
        if (fault->operation[0] && strcmp(fault->operation, operation))
            continue;
        if (fault->skip) {
            fault->skip--;
            continue;
        }
        *out = *fault;
        f->n_served++;
        if (fault->count > 0 && --fault->count == 0)
            memmove(fault, fault + 1, (--f->n - i) * sizeof *fault);
        return true;
    }
    return false;
}

void fault_clear(struct faults *f)
{
    f->n = 0;
}
