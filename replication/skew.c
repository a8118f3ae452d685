#include "replication/skew.h"

int64_t skew_median(const int64_t *others, unsigned n)
{
    int64_t sorted[SKEW_MEMBERS] = {0};
    if (n > SKEW_MEMBERS - 1)
        n = SKEW_MEMBERS - 1;
    for (unsigned i = 0; i < n; i++) {
        unsigned at = i + 1;
        for (; at > 0 && sorted[at - 1] > others[i]; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = others[i];
    }
    return n % 2 ? sorted[n / 2] / 2 + sorted[n / 2 + 1] / 2 : sorted[n / 2];
}
