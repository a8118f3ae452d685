/* fsm_replay LOG...: applies recorded logs, in order, to one empty store and prints the hashes. Two releases
 * that print the same replay one log to equal hashes. */
#include "golden.h"
#include <string.h>

int main(int argc, char **argv)
{
    struct golden g;
    struct err_ctx err = {0};
    struct buf out = {0};
    if (argc < 2 || !strcmp(argv[1], "--help")) {
        fprintf(argc < 2 ? stderr : stdout,
                "usage: fsm_replay LOG...\n"
                "Applies the recorded logs, in order, to an empty store and prints the state hash at every "
                "%dth index\n"
                "and at each log's end, then each table's rows and hash.\n",
                GOLDEN_EVERY);
        return argc < 2 ? 2 : 0;
    }
    int rc = golden_open(&g, &err);
    for (int i = 1; !rc && i < argc; i++)
        rc = golden_play(&g, argv[i], &out, &err);
    if (out.n)
        fwrite(out.data, 1, out.n, stdout);
    if (rc)
        fprintf(stderr, "fsm_replay: %s\n", err.text);
    buf_fini(&out);
    golden_close(&g);
    return rc ? 1 : 0;
}
