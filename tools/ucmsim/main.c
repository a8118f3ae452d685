/* ucmsim: a simulated call manager with an AXL interface, for tests and demonstrations. */
#include "base/mem.h"
#include "cert.h"
#include "control.h"
#include "sim.h"
#include "web.h"
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

enum { EXIT_USAGE = 2 };

struct address {
    char host[256];
    unsigned port;
};

struct options {
    struct address axl, control;
    bool with_control, plain, end_with_parent;
    unsigned n_users, n_without_im, n_other_cluster;
    const char *csv, *cert_out, *key_out, *cert, *key, *domain, *queue, *versions, *release;
    const char *axl_user, *axl_password;
    size_t max_rows, change_cache;
    unsigned lock_after;
};

static const char usage[] =
    "Usage: ucmsim [OPTIONS]\n"
    "A simulated call manager: users over AXL (SOAP), with a change queue and faults to order.\n"
    "Runs in the foreground; SIGTERM or ^C ends it. Prints one line when it listens.\n"
    "\n"
    "  --axl HOST:PORT        where AXL is served, path /axl/ (default 127.0.0.1:8444; port 0: any)\n"
    "  --http                 plain HTTP instead of HTTPS\n"
    "  --cert-out FILE        write the self-signed certificate, made at start, for the client to trust;\n"
    "                         written once ucmsim listens\n"
    "  --key-out FILE         write its key, too, to use both at the next start\n"
    "  --cert FILE --key FILE use these instead\n"
    "  --control HOST:PORT    where the control interface is served (default: not at all)\n"
    "  --users N              user0001 to userN, password pw-<userid> (default 30)\n"
    "  --csv FILE             users from a file instead: userid, firstName, lastName, mailid, directoryUri,\n"
    "                         imAndPresenceEnable, homeCluster, password, displayName; the first line may\n"
    "                         name other columns by their AXL tags\n"
    "  --without-im N         the last N of --users have imAndPresenceEnable false\n"
    "  --other-cluster N      the N before those have homeCluster false\n"
    "  --domain NAME          of mail addresses and directory URIs (default example.com)\n"
    "  --axl-user NAME        account that may use AXL (default axluser)\n"
    "  --axl-password WORD    (default axlpassword)\n"
    "  --versions LIST        schema versions served (default 11.5,12.5,14.0); others get HTTP 599\n"
    "  --release TEXT         what getCCMVersion says\n"
    "  --max-rows N           refuse longer lists: \"Query request too large\" (always above 8 MB)\n"
    "  --change-cache N       changes kept for listChange (default 10000)\n"
    "  --queue-id TEXT        of the change queue (default: random)\n"
    "  --lock-after N         lock a user after N wrong passwords (default: never)\n"
    "  --end-with-parent      end when the process that started it ends\n"
    "  --help                 this text\n"
    "\n";

static int parse_address(struct address *out, const char *text)
{
    const char *colon = strrchr(text, ':');
    char *end;
    if (!colon || (size_t)(colon - text) >= sizeof out->host)
        return ERR_INVALID;
    unsigned long port = strtoul(colon + 1, &end, 10);
    if (!colon[1] || *end || port > 65535)
        return ERR_INVALID;
    if (text[0] == '[' && colon > text + 1 && colon[-1] == ']')
        snprintf(out->host, sizeof out->host, "%.*s", (int)(colon - text - 2), text + 1);
    else
        snprintf(out->host, sizeof out->host, "%.*s", (int)(colon - text), text);
    out->port = (unsigned)port;
    return 0;
}

static int parse_number(unsigned long *out, const char *text, unsigned long max)
{
    char *end;
    errno = 0;
    *out = strtoul(text, &end, 10);
    return text[0] < '0' || text[0] > '9' || *end || errno || *out > max ? ERR_INVALID : 0;
}

enum {
    OPT_AXL = 256,
    OPT_HTTP,
    OPT_CERT_OUT,
    OPT_KEY_OUT,
    OPT_CERT,
    OPT_KEY,
    OPT_CONTROL,
    OPT_USERS,
    OPT_CSV,
    OPT_WITHOUT_IM,
    OPT_OTHER_CLUSTER,
    OPT_DOMAIN,
    OPT_AXL_USER,
    OPT_AXL_PASSWORD,
    OPT_VERSIONS,
    OPT_RELEASE,
    OPT_MAX_ROWS,
    OPT_CHANGE_CACHE,
    OPT_QUEUE_ID,
    OPT_LOCK_AFTER,
    OPT_END_WITH_PARENT,
    OPT_HELP,
};

static const struct option long_options[] = {
    {"axl", required_argument, NULL, OPT_AXL},
    {"http", no_argument, NULL, OPT_HTTP},
    {"cert-out", required_argument, NULL, OPT_CERT_OUT},
    {"key-out", required_argument, NULL, OPT_KEY_OUT},
    {"cert", required_argument, NULL, OPT_CERT},
    {"key", required_argument, NULL, OPT_KEY},
    {"control", required_argument, NULL, OPT_CONTROL},
    {"users", required_argument, NULL, OPT_USERS},
    {"csv", required_argument, NULL, OPT_CSV},
    {"without-im", required_argument, NULL, OPT_WITHOUT_IM},
    {"other-cluster", required_argument, NULL, OPT_OTHER_CLUSTER},
    {"domain", required_argument, NULL, OPT_DOMAIN},
    {"axl-user", required_argument, NULL, OPT_AXL_USER},
    {"axl-password", required_argument, NULL, OPT_AXL_PASSWORD},
    {"versions", required_argument, NULL, OPT_VERSIONS},
    {"release", required_argument, NULL, OPT_RELEASE},
    {"max-rows", required_argument, NULL, OPT_MAX_ROWS},
    {"change-cache", required_argument, NULL, OPT_CHANGE_CACHE},
    {"queue-id", required_argument, NULL, OPT_QUEUE_ID},
    {"lock-after", required_argument, NULL, OPT_LOCK_AFTER},
    {"end-with-parent", no_argument, NULL, OPT_END_WITH_PARENT},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

/* Options whose value is a number: true and *out is set. ERR in *code when the text is none. */
static bool parse_number_option(struct options *o, int option, const char *text, int *code)
{
    static const unsigned long max = 10000000;
    unsigned long n = 0;
    *code = 0;
    switch (option) {
    case OPT_USERS:
        *code = parse_number(&n, text, max);
        o->n_users = (unsigned)n;
        return true;
    case OPT_WITHOUT_IM:
        *code = parse_number(&n, text, max);
        o->n_without_im = (unsigned)n;
        return true;
    case OPT_OTHER_CLUSTER:
        *code = parse_number(&n, text, max);
        o->n_other_cluster = (unsigned)n;
        return true;
    case OPT_MAX_ROWS:
        *code = parse_number(&n, text, max);
        o->max_rows = n;
        return true;
    case OPT_CHANGE_CACHE:
        *code = parse_number(&n, text, max);
        o->change_cache = n;
        return true;
    case OPT_LOCK_AFTER:
        *code = parse_number(&n, text, max);
        o->lock_after = (unsigned)n;
        return true;
    default:
        return false;
    }
}

static int parse_option(struct options *o, int option, const char *text)
{
    int code;
    if (parse_number_option(o, option, text ? text : "", &code))
        return code;
    switch (option) {
    case OPT_AXL:
        return parse_address(&o->axl, text);
    case OPT_CONTROL:
        o->with_control = true;
        return parse_address(&o->control, text);
    case OPT_HTTP:
        o->plain = true;
        return 0;
    case OPT_END_WITH_PARENT:
        o->end_with_parent = true;
        return 0;
#define TEXT_OPTION(id, member)                                                                              \
    case OPT_##id:                                                                                           \
        o->member = text;                                                                                    \
        return 0;
        TEXT_OPTION(CERT_OUT, cert_out)
        TEXT_OPTION(KEY_OUT, key_out)
        TEXT_OPTION(CERT, cert)
        TEXT_OPTION(KEY, key)
        TEXT_OPTION(CSV, csv)
        TEXT_OPTION(DOMAIN, domain)
        TEXT_OPTION(AXL_USER, axl_user)
        TEXT_OPTION(AXL_PASSWORD, axl_password)
        TEXT_OPTION(VERSIONS, versions)
        TEXT_OPTION(RELEASE, release)
        TEXT_OPTION(QUEUE_ID, queue)
#undef TEXT_OPTION
    default:
        return ERR_INVALID;
    }
}

/* Returns the exit status to end with, or -1 to go on. */
static int parse_options(struct options *o, int argc, char **argv)
{
    int option;
    *o = (struct options){.axl = {"127.0.0.1", 8444},
                          .n_users = 30,
                          .domain = "example.com",
                          .axl_user = "axluser",
                          .axl_password = "axlpassword",
                          .change_cache = 10000};
    while ((option = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
        if (option == OPT_HELP || option == 'h') {
            printf("%s%s", usage, control_help);
            return 0;
        }
        if (option == '?')
            return EXIT_USAGE;
        if (parse_option(o, option, optarg)) {
            fprintf(stderr, "ucmsim: bad value: %s\n", optarg);
            return EXIT_USAGE;
        }
    }
    if (optind < argc || !o->cert != !o->key || (o->cert && o->plain)) {
        fprintf(stderr, "ucmsim: see --help\n");
        return EXIT_USAGE;
    }
    return -1;
}

static int read_file(char **out, const char *path, struct err_ctx *err)
{
    struct buf data = {0};
    FILE *file = fopen(path, "r");
    size_t n;
    if (!file)
        return err_set(err, ERR_SYSTEM, "%s: %m", path);
    while ((n = fread(buf_reserve(&data, 4096), 1, 4096, file)) > 0)
        data.n += n;
    fclose(file);
    buf_addc(&data, 0);
    *out = buf_steal(&data);
    return 0;
}

static int write_file(const char *path, const char *text, mode_t mode, struct err_ctx *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
    if (!file)
        return err_set(err, ERR_SYSTEM, "%s: %m", path);
    bool failed = fputs(text, file) < 0;
    failed |= fclose(file) != 0;
    return failed ? err_set(err, ERR_SYSTEM, "%s: cannot write", path) : 0;
}

static int make_tls(char **cert, char **key, const struct options *o, struct err_ctx *err)
{
    int code = 0;
    if (o->plain)
        return 0;
    if (o->cert) {
        code = read_file(cert, o->cert, err);
        if (!code)
            code = read_file(key, o->key, err);
    } else {
        code = cert_make(cert, key, o->axl.host, err);
    }
    return code;
}

static void sim_init(struct sim *sim, const struct options *o)
{
    pthread_condattr_t attr;
    pthread_mutex_init(&sim->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&sim->stopped, &attr);
    pthread_condattr_destroy(&attr);
    ucm_init(&sim->ucm, o->domain, o->change_cache);
    if (o->queue)
        ucm_new_queue(&sim->ucm, o->queue);
    soap_init(&sim->soap, &sim->ucm, &sim->faults);
    sim->soap.max_rows = o->max_rows;
    sim->soap.lock_after = o->lock_after;
    if (o->release)
        snprintf(sim->soap.release, sizeof sim->soap.release, "%s", o->release);
    snprintf(sim->axl_user, sizeof sim->axl_user, "%s", o->axl_user);
    snprintf(sim->axl_password, sizeof sim->axl_password, "%s", o->axl_password);
}

static int load_users(struct sim *sim, const struct options *o, struct err_ctx *err)
{
    struct ucm *u = &sim->ucm;
    if (o->versions && soap_set_versions(&sim->soap, o->versions))
        return err_set(err, ERR_INVALID, "--versions: like 11.5,12.5,14.0");
    if (o->csv)
        return ucm_load_csv(u, o->csv, err);
    ucm_make_users(u, 1, o->n_users, false);
    for (size_t i = 0; i < u->n_users; i++) {
        size_t from_end = u->n_users - i;
        if (from_end <= o->n_without_im)
            ucm_set(u, u->users[i], FIELD_IM_ENABLE, "false", NULL, NULL);
        else if (from_end <= (size_t)o->n_without_im + o->n_other_cluster)
            ucm_set(u, u->users[i], FIELD_HOME_CLUSTER, "false", NULL, NULL);
    }
    return 0;
}

static void say_ready(const struct options *o, const struct web *axl, const struct web *control,
                      size_t n_users)
{
    bool v6 = strchr(o->axl.host, ':') != NULL;
    printf("ucmsim: axl %s://%s%s%s:%u/axl/", o->plain ? "http" : "https", v6 ? "[" : "", o->axl.host,
           v6 ? "]" : "", web_port(axl));
    if (control)
        printf(" control http://%s:%u", o->control.host, web_port(control));
    printf(" users %zu\n", n_users);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct options o;
    struct err_ctx err = {0};
    struct sim *sim = mem_new(struct sim);
    struct web *axl = NULL, *control = NULL;
    char *cert = NULL, *key = NULL;
    sigset_t ends;
    int got, status = parse_options(&o, argc, argv);
    if (status >= 0) {
        mem_free(sim);
        return status;
    }
    /* Before any thread is made, so that all of them leave the signals to sigwait below. */
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    pthread_sigmask(SIG_BLOCK, &ends, NULL);
    signal(SIGPIPE, SIG_IGN);
    if (o.end_with_parent)
        prctl(PR_SET_PDEATHSIG, SIGTERM);
    sim_init(sim, &o);
    int code = load_users(sim, &o, &err);
    if (!code)
        code = make_tls(&cert, &key, &o, &err);
    size_t n_users = sim->ucm.n_users; /* read before other threads may change it */
    if (!code)
        code = web_open_axl(&axl, sim, o.axl.host, o.axl.port, cert, key, &err);
    if (!code && o.with_control)
        code = web_open_control(&control, sim, o.control.host, o.control.port, &err);
    /* After that, so that scripts may wait for the file. */
    if (!code && cert && o.cert_out)
        code = write_file(o.cert_out, cert, 0644, &err);
    if (!code && key && o.key_out)
        code = write_file(o.key_out, key, 0600, &err);
    if (code) {
        fprintf(stderr, "ucmsim: %s\n", err.text);
    } else {
        say_ready(&o, axl, control, n_users);
        sigwait(&ends, &got);
    }
    web_close(axl);
    web_close(control);
    ucm_fini(&sim->ucm);
    mem_free(cert);
    mem_free(key);
    mem_free(sim);
    return code ? 1 : 0;
}
