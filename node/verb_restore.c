/* impnode restore: a new cluster with the users, settings and messages of a backup. */
#include "base/clock.h"
#include "base/mem.h"
#include "cluster/datadir.h"
#include "node/backup/backup.h"
#include "node/backup/backup_key.h"
#include "node/enrol.h"
#include "node/verbs.h"
#include "replication/replica.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What the header says; copied, as the file is read several times. */
struct source {
    const char *path;
    struct seal_ring ring; /* n 0: no keys */
    bool has_keys;
    char release[64], domain[256], cluster[33], time[32], node[NODE_NAME_MAX + 1];
    unsigned level;
    uint64_t index, n_rows;
};

/* ---- the passphrase ---- */

static int read_passphrase(struct buf *out, const struct options *o, struct err_ctx *err)
{
    char line[BACKUP_PASSPHRASE_MAX + 2] = "", *text = line;
    if (o->passphrase_stdin) {
        if (!fgets(line, sizeof line, stdin))
            return err_set(err, ERR_INVALID, "--passphrase-stdin: standard input is empty");
    } else if (!isatty(0) || !(text = getpass("Passphrase of the backup: "))) {
        return err_set(
            err, ERR_INVALID,
            "the cluster key in this backup is wrapped: give its passphrase with --passphrase-stdin, or "
            "--without-keys to go on without it and enter all secrets again");
    }
    buf_add(out, text, strcspn(text, "\n"));
    mem_wipe(text, strlen(text));
    return 0;
}

static int open_keys(struct source *s, const Imp__BackupHeader *h, const struct options *o,
                     struct err_ctx *err)
{
    struct buf passphrase = {0};
    if (!h->keys || o->without_keys || (o->dry_run && !o->passphrase_stdin))
        return 0;
    int rc = read_passphrase(&passphrase, o, err);
    if (!rc)
        rc = backup_unwrap_keys(&s->ring, h->keys, passphrase.data, passphrase.n, h->cluster_id.data,
                                h->cluster_id.len, err);
    seal_buf_fini(&passphrase);
    return rc;
}

static int read_source(struct source *s, const struct options *o, struct err_ctx *err)
{
    struct backup_reader *r;
    memset(s, 0, sizeof *s);
    s->path = o->file;
    int rc = backup_reader_open(&r, s->path, err);
    if (rc)
        return rc;
    const Imp__BackupHeader *h = backup_reader_header(r);
    snprintf(s->release, sizeof s->release, "%s", h->release);
    snprintf(s->domain, sizeof s->domain, "%s", h->domain);
    snprintf(s->node, sizeof s->node, "%s", h->node);
    clock_format_utc(s->time, h->time_ms, 0);
    if (h->cluster_id.len == 16)
        datadir_hex(s->cluster, h->cluster_id.data, 16);
    s->level = h->level;
    s->index = h->index;
    s->has_keys = h->keys != NULL;
    for (size_t i = 0; i < h->n_tables; i++)
        s->n_rows += h->tables[i]->n_rows;
    rc = open_keys(s, h, o, err);
    backup_reader_close(r);
    return rc;
}

static void print_source(const struct source *s)
{
    printf("Backup of cluster %s, domain %s, made %s by node %s (release %s, feature level %u)\n"
           "State after log index %" PRIu64 ": %" PRIu64 " rows. %s\n",
           s->cluster, s->domain, s->time, s->node, s->release, s->level, s->index, s->n_rows,
           !s->has_keys ? "The cluster key was left out."
           : s->ring.n  ? "The passphrase is right."
                        : "The cluster key is in it, wrapped with a passphrase.");
    fflush(stdout);
}

/* ---- the new cluster ---- */

struct making {
    const struct source *source;
    struct backup_restored restored;
};

static int make_state(void *user, const struct enrol_first *first, const struct datadir *d,
                      struct err_ctx *err)
{
    struct making *m = user;
    struct buf conf = {0};
    char *dir = mem_printf("%s/" REPLICA_NEW_STORE, d->path);
    Imp__NodeRow node = *first->node;
    node.joined_index = m->source->index + 1;
    replica_configuration_alone(&conf, node.id);
    struct backup_restore r = {.path = m->source->path,
                               .store_dir = dir,
                               .old_ring = m->source->ring.n ? &m->source->ring : NULL,
                               .ring = first->ring,
                               .cluster_id = first->cluster_id,
                               .node = &node,
                               .ca = first->ca,
                               .now_ms = clock_wall_ms(),
                               .os_uid = geteuid(),
                               .conf = conf.data,
                               .n_conf = (uint32_t)conf.n};
    int rc = backup_restore(&m->restored, &r, err);
    struct store_position p = {.applied_index = m->restored.index,
                               .applied_term = m->restored.term,
                               .conf_index = m->restored.index,
                               .conf = conf.data,
                               .n_conf = (uint32_t)conf.n};
    if (!rc)
        rc = replica_adopt_store(d->path, &p, err);
    buf_fini(&conf);
    mem_free(dir);
    return rc;
}

static void print_result(const struct options *o, const struct enrol_new_cluster *n, const struct making *m)
{
    const struct backup_restored *r = &m->restored;
    char id[33];
    datadir_hex(id, n->cluster_id, 16);
    printf("\nMade cluster %s of it: %" PRIu64 " users, %" PRIu64
           " stored messages; this node is %s, its only member and "
           "publisher.\n",
           id, r->n_users, r->n_messages, o->config.name);
    if (r->n_secrets)
        printf("%u secrets are sealed with the new cluster's key.\n", r->n_secrets);
    if (r->lost_secrets.n)
        printf("Without the old cluster's key these secrets are lost and must be entered again: %s\n",
               r->lost_secrets.data);
    printf("\nNext:\n  impnode run --data %s                     run it\n", o->data);
    printf("  impcli --data %s node token               make a token for each other node, which joins anew "
           "with an\n"
           "                                            empty directory\n",
           o->data);
    printf("The old cluster's nodes cannot speak to this one; they must not serve clients beside it.\n");
}

static int restore(struct options *o, const struct source *s)
{
    struct err_ctx err = {0};
    struct datadir d;
    if (datadir_create(&d, o->data, NULL, &err))
        return verb_fail("%s", err.text);
    printf("Checking it...\n");
    fflush(stdout);
    int rc = backup_verify(s->path, &err);
    if (rc) {
        datadir_close(&d);
        return verb_fail("%s", err.text);
    }
    printf("It is whole. Writing the store...\n");
    fflush(stdout);
    struct making m = {.source = s};
    struct enrol_new_cluster n = {
        .config = &o->config, .domain = s->domain, .make_state = make_state, .user = &m};
    rc = enrol_new_cluster(&n, &d, &err);
    datadir_close(&d);
    if (rc)
        rc = verb_fail("%s (remove %s before you try again)", err.text, d.path);
    else
        print_result(o, &n, &m);
    buf_fini(&m.restored.lost_secrets);
    return rc;
}

static int check_only(const struct source *s)
{
    struct err_ctx err = {0};
    if (backup_verify(s->path, &err))
        return verb_fail("%s", err.text);
    printf("It is whole, and this release can restore it.\n");
    return 0;
}

int verb_restore(struct options *o)
{
    struct err_ctx err = {0};
    struct source s;
    if (!o->dry_run && config_check(&o->config, &err))
        return verb_fail("%s", err.text);
    if (o->config.witness)
        return verb_fail("the first node cannot be a witness");
    int rc = read_source(&s, o, &err);
    if (rc) {
        rc = verb_fail("%s", err.text);
    } else {
        print_source(&s);
        rc = o->dry_run ? check_only(&s) : restore(o, &s);
    }
    seal_ring_wipe(&s.ring);
    return rc;
}
