/* Which release this program is. One object holds it, so that a program of another release is the same
 * objects linked with another one of these (tests/cluster/CMakeLists.txt). Constant, any thread. */
#ifndef BASE_RELEASE_H
#define BASE_RELEASE_H

const char *release_name(void);
/* Highest feature level that this release may know; 0: all that are in it (replication/levels.h). */
unsigned release_max_level(void);

#endif
