/* The interactive prompt of impcli, with history and completion of areas, verbs and options. */
#ifndef CLI_PROMPT_H
#define CLI_PROMPT_H

#include "cli/client.h"

int prompt_run(const struct client *c); /* until end of input or "exit"; exit status of the last command */

#endif
