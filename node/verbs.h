/* The commands of impnode; each returns the exit status. */
#ifndef NODE_VERBS_H
#define NODE_VERBS_H

#include "node/options.h"

int verb_init(struct options *o);
int verb_join(struct options *o);
int verb_run(struct options *o);
int verb_recover(struct options *o);
int verb_restore(struct options *o);

/* For all of them: "impnode: text" on stderr. */
int verb_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
