/* After the quorum is lost for good: a cluster of one is made of this node. */
#include "cluster/datadir.h"
#include "node/enrol.h"
#include "node/verbs.h"
#include "replication/replica.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static bool is_sure(const struct options *o, const struct datadir_identity *id)
{
    printf(
        "This makes a cluster of its own of node %s.\n"
        "  - What the other nodes had acknowledged and this one has not received is lost.\n"
        "  - The other nodes must never run again with their present data: they would be a second cluster "
        "until\n"
        "    they reach this one, which ends them. Delete their data directories; they join anew.\n"
        "  - If several nodes are left, do this on the one with the highest applied index ('applied_index' "
        "in\n"
        "    'impcli --json dbreplication runtimestate').\n",
        id->name);
    if (o->yes)
        return true;
    char line[16] = "";
    printf("Type yes to go on: ");
    fflush(stdout);
    return fgets(line, sizeof(line), stdin) && !strcmp(line, "yes\n");
}

int verb_recover(struct options *o)
{
    struct err_ctx err = {0};
    struct datadir d;
    struct datadir_identity id;
    uint64_t last_index = 0;
    if (datadir_open(&d, o->data, 0, &err))
        return verb_fail("%s", err.text);
    int rc = datadir_read_identity_of_copy(&d, &id, &err);
    if (!rc && !is_sure(o, &id)) {
        datadir_close(&d);
        return verb_fail("nothing was changed");
    }
    if (!rc)
        rc = replica_finish_install(d.path, NULL, &err);
    if (!rc)
        rc = enrol_write_recovered(0, &d, &err);
    if (!rc)
        rc = replica_force_new_cluster(d.path, id.node, &last_index, &err);
    if (!rc)
        rc = enrol_write_recovered(last_index, &d, &err);
    if (!rc)
        rc = datadir_write_identity(&d, &id, &err);
    datadir_close(&d);
    if (rc)
        return verb_fail("%s", err.text);
    printf(
        "\nNode %s goes on alone, from log index %" PRIu64
        " on, as the publisher. The others are lost to it: none of them can\nspeak with it again.\n\nNext:\n",
        id.name, last_index);
    printf("  impnode run --data %s\n", o->data);
    printf("  impcli --data %s node list                shows who is lost\n", o->data);
    printf("  impcli --data %s node remove NAME         for each of them: moves its users, frees its name\n",
           o->data);
    printf(
        "  impcli --data %s node token               for each new one, which joins with an empty directory\n",
        o->data);
    printf("  impcli --data %s node rotate-keys         if a lost machine may be in the wrong hands\n",
           o->data);
    return 0;
}
