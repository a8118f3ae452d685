/* The last resort after the quorum is lost for good: a node's own log goes on as that of a cluster of one. */
#include "base/clock.h"
#include "replication/configuration.h"
#include "replication/driver.h"
#include "replication/install.h"
#include "replication/replica.h"
#include "replication/replica_impl.h"
#include "replication/rlog.h"
#include "replication/vote.h"

static void on_fatal(void *user, int code, const char *text)
{
    err_set(user, code, "%s", text);
}

static void on_done(void *user)
{
    (void)user;
}

void replica_configuration_alone(struct buf *out, uint32_t node)
{
    struct configuration conf = {0};
    configuration_add(&conf, node, CONFIGURATION_VOTER);
    configuration_encode(out, &conf);
}

int replica_adopt_store(const char *dir, const struct store_position *p, struct err_ctx *err)
{
    int rc = install_write_marker(dir, p, err);
    return rc ? rc : replica_finish_install(dir, NULL, err);
}

int replica_force_new_cluster(const char *dir, uint32_t node, uint64_t *last_index, struct err_ctx *err)
{
    struct disk *disk = NULL;
    struct rlog *log = NULL;
    struct vote vote = {0};
    struct configuration conf = {0};
    Imp__Recover body = IMP__RECOVER__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    struct blob *entry = NULL;
    char *log_dir = mem_printf("%s/log", dir);
    int code = disk_open_directory(&disk, log_dir, err);
    if (code)
        goto out;
    struct rlog_config config = {
        .disk = disk, .salt = random_u64(), .on_done = on_done, .on_fatal = on_fatal, .user = err};
    if ((code = rlog_open(&log, &config, err)) || (code = vote_open(&vote, disk, err)))
        goto out;
    *last_index = rlog_last(log);
    if (!*last_index)
        code = err_set(err, ERR_NOTFOUND, "this node has never received anything from its cluster");
    if (!code)
        code = configuration_add(&conf, node, CONFIGURATION_VOTER);
    if (!code) {
        body.node = node;
        command.time_ms = clock_wall_ms();
        command.body_case = IMP__COMMAND__BODY_RECOVER;
        command.recover = &body;
        entry = replica_offline_entry(&command);
        code = driver_force_configuration(log, &vote, &conf, &entry, 1, err);
        *last_index = rlog_last(log);
    }
out:
    if (entry)
        blob_unref(entry);
    rlog_close(log);
    if (disk) {
        vote_close(&vote);
        disk_close_directory(disk);
    }
    mem_free(log_dir);
    return code;
}
