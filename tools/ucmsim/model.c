#include "model.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/xml.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *tag;
    bool listed;
} fields[N_FIELDS] = {
#define X(id, tag_, listed_) [FIELD_##id] = {tag_, listed_},
#include "fields.def"
#undef X
};

static const char *const first_names[] = {
    "Aiko",  "Amir",   "Anna",  "Arno",   "Bela",  "Bruno",  "Carla", "Cem",   "Chloe", "Dana",  "David",
    "Elena", "Emil",   "Esra",  "Farid",  "Fiona", "Gabor",  "Greta", "Hana",  "Hugo",  "Ida",   "Igor",
    "Ines",  "Ivan",   "Jana",  "Jonas",  "Julia", "Kaito",  "Karim", "Klara", "Lea",   "Leon",  "Lina",
    "Luca",  "Maja",   "Marco", "Maria",  "Mats",  "Mila",   "Nadia", "Nils",  "Nora",  "Olga",  "Oscar",
    "Paula", "Pavel",  "Petra", "Quinn",  "Rania", "Robert", "Rosa",  "Samir", "Sara",  "Sofia", "Tariq",
    "Tomas", "Ursula", "Vera",  "Viktor", "Wanda", "Yara",
};
static const char *const last_names[] = {
    "Adler",  "Bauer",   "Becker",  "Berg",    "Bianchi", "Blum",   "Brandt",  "Castro",  "Cohen",  "Costa",
    "Dahl",   "Diaz",    "Dubois",  "Ebert",   "Eriksen", "Fabre",  "Fischer", "Fontana", "Garcia", "Gomez",
    "Haas",   "Hansen",  "Horvath", "Ito",     "Jansen",  "Jensen", "Kaya",    "Keller",  "Khan",   "Kovacs",
    "Larsen", "Laurent", "Lehmann", "Lopez",   "Marin",   "Meier",  "Mori",    "Moreau",  "Novak",  "Nguyen",
    "Olsen",  "Ortega",  "Papas",   "Pereira", "Petrov",  "Quist",  "Ricci",   "Rossi",   "Sato",   "Schmid",
    "Silva",  "Stein",   "Tanaka",  "Toth",    "Ulrich",  "Varga",  "Vogel",   "Weber",   "Yilmaz",
};

const char *field_tag(enum field f)
{
    return fields[f].tag;
}

bool field_is_listed(enum field f)
{
    return fields[f].listed;
}

bool field_is_bool(enum field f)
{
    return f == FIELD_HOME_CLUSTER || f == FIELD_IM_ENABLE;
}

int field_find(const char *tag)
{
    for (int f = 0; f < N_FIELDS; f++)
        if (!strcmp(fields[f].tag, tag))
            return f;
    return ERR_NOTFOUND;
}

static bool has_userid(const struct hnode *node, const void *key, size_t n_bytes)
{
    const struct ucm_user *user = container_of(node, struct ucm_user, by_userid);
    return strlen(user->value[FIELD_USERID]) == n_bytes && !memcmp(user->value[FIELD_USERID], key, n_bytes);
}

static bool has_uuid(const struct hnode *node, const void *key, size_t n_bytes)
{
    return n_bytes == 36 && !memcmp(container_of(node, struct ucm_user, by_uuid)->uuid, key, 36);
}

void ucm_init(struct ucm *u, const char *domain, size_t cap_changes)
{
    *u = (struct ucm){.cap_changes = cap_changes ? cap_changes : 1};
    snprintf(u->domain, sizeof u->domain, "%s", domain);
    htab_init(&u->by_userid, has_userid);
    htab_init(&u->by_uuid, has_uuid);
    u->changes = mem_calloc(u->cap_changes, sizeof *u->changes);
    ucm_new_queue(u, NULL);
}

static void user_free(struct ucm_user *user)
{
    for (int f = 0; f < N_FIELDS; f++)
        mem_free(user->value[f]);
    mem_free(user->password);
    mem_free(user);
}

void ucm_fini(struct ucm *u)
{
    ucm_forget_changes(u, 0);
    for (size_t i = 0; i < u->n_users; i++)
        user_free(u->users[i]);
    htab_fini(&u->by_userid);
    htab_fini(&u->by_uuid);
    mem_free(u->users);
    mem_free(u->changes);
}

const char *ucm_user_value(const struct ucm_user *user, enum field f, struct buf *scratch)
{
    if (f == FIELD_DISPLAY_NAME && !user->value[f]) {
        const char *first = user->value[FIELD_FIRST_NAME], *last = user->value[FIELD_LAST_NAME];
        buf_reset(scratch);
        buf_addf(scratch, "%s%s%s", first ? first : "", first && last ? " " : "", last ? last : "");
        return scratch->data;
    }
    return user->value[f] ? user->value[f] : "";
}

struct ucm_user *ucm_find(const struct ucm *u, const char *userid)
{
    struct hnode *node = htab_find(&u->by_userid, userid, strlen(userid));
    return node ? container_of(node, struct ucm_user, by_userid) : NULL;
}

struct ucm_user *ucm_find_uuid(const struct ucm *u, const char *uuid)
{
    char key[37];
    size_t n = strlen(uuid);
    if (n == 38 && uuid[0] == '{' && uuid[37] == '}') {
        uuid++;
        n = 36;
    }
    if (n != 36)
        return NULL;
    for (size_t i = 0; i < 36; i++)
        key[i] = (char)toupper((unsigned char)uuid[i]);
    struct hnode *node = htab_find(&u->by_uuid, key, 36);
    return node ? container_of(node, struct ucm_user, by_uuid) : NULL;
}

/* The same userid gets the same uuid in every run; one that was removed and made again gets another. */
static void make_uuid(char out[37], const char *userid, uint64_t generation)
{
    const uint64_t seed_a[2] = {0x75636d73696d0001, generation}, seed_b[2] = {0x75636d73696d0002, generation};
    uint64_t a = hash_siphash(seed_a, userid, strlen(userid)),
             b = hash_siphash(seed_b, userid, strlen(userid));
    snprintf(out, 37, "%08X-%04X-4%03X-%04X-%04X%08X", (unsigned)(a >> 32), (unsigned)(a >> 16) & 0xffff,
             (unsigned)a & 0xfff, 0x8000 | ((unsigned)(b >> 48) & 0x3fff), (unsigned)(b >> 32) & 0xffff,
             (unsigned)b);
}

static void replace(char **slot, const char *value)
{
    char *copy = value && value[0] ? mem_strdup(value) : NULL;
    mem_free(*slot);
    *slot = copy;
}

int ucm_add(struct ucm *u, struct ucm_user **out, const char *userid, struct err_ctx *err)
{
    if (!userid[0] || strlen(userid) > 128)
        return err_set(err, ERR_INVALID, "a userid has 1 to 128 bytes");
    if (ucm_find(u, userid))
        return err_set(err, ERR_EXISTS, "user %s exists", userid);
    struct ucm_user *user = mem_new(struct ucm_user);
    uint64_t generation = u->n_removed;
    do
        make_uuid(user->uuid, userid, generation++);
    while (htab_find(&u->by_uuid, user->uuid, 36));
    user->value[FIELD_USERID] = mem_strdup(userid);
    user->value[FIELD_MAILID] = mem_printf("%s@%s", userid, u->domain);
    user->value[FIELD_DIRECTORY_URI] = mem_printf("%s@%s", userid, u->domain);
    user->value[FIELD_STATUS] = mem_strdup("1");
    user->value[FIELD_HOME_CLUSTER] = mem_strdup("true");
    user->value[FIELD_IM_ENABLE] = mem_strdup("true");
    user->password = mem_printf("pw-%s", userid);
    if (u->n_users == u->cap_users) {
        u->cap_users = u->cap_users ? u->cap_users * 2 : 256;
        u->users = mem_realloc(u->users, u->cap_users * sizeof *u->users);
    }
    user->at = u->n_users;
    u->users[u->n_users++] = user;
    htab_add(&u->by_userid, &user->by_userid, userid, strlen(userid));
    htab_add(&u->by_uuid, &user->by_uuid, user->uuid, 36);
    if (out)
        *out = user;
    return 0;
}

void ucm_make_users(struct ucm *u, unsigned from, unsigned to, bool log_changes)
{
    for (unsigned i = from; i <= to; i++) {
        char userid[32];
        struct ucm_user *user;
        snprintf(userid, sizeof userid, "user%04u", i);
        if (ucm_add(u, &user, userid, NULL))
            continue;
        replace(&user->value[FIELD_FIRST_NAME], first_names[i % n_elements(first_names)]);
        replace(&user->value[FIELD_LAST_NAME], last_names[i / 7 % n_elements(last_names)]);
        if (log_changes)
            ucm_log_add(u, user);
    }
}

static void log_change(struct ucm *u, const char *uuid, char action, bool do_get, char *xml)
{
    if (u->next_change - u->first_change == u->cap_changes)
        ucm_forget_changes(u, u->cap_changes - 1);
    struct ucm_change *c = &u->changes[u->next_change % u->cap_changes];
    *c = (struct ucm_change){.id = u->next_change++, .action = action, .do_get = do_get, .xml = xml};
    memcpy(c->uuid, uuid, sizeof c->uuid);
}

void ucm_log_add(struct ucm *u, const struct ucm_user *user)
{
    log_change(u, user->uuid, 'a', true, NULL);
}

int ucm_set(struct ucm *u, struct ucm_user *user, enum field f, const char *value, struct buf *tags,
            struct err_ctx *err)
{
    if (field_is_bool(f) && strcmp(value, "true") && strcmp(value, "false"))
        return err_set(err, ERR_INVALID, "%s is true or false", field_tag(f));
    if (f == FIELD_USERID && strcmp(user->value[f], value)) {
        if (!value[0] || strlen(value) > 128)
            return err_set(err, ERR_INVALID, "a userid has 1 to 128 bytes");
        if (ucm_find(u, value))
            return err_set(err, ERR_EXISTS, "user %s exists", value);
        htab_remove(&u->by_userid, &user->by_userid);
        replace(&user->value[f], value);
        htab_add(&u->by_userid, &user->by_userid, value, strlen(value));
    } else {
        replace(&user->value[f], value);
    }
    if (tags) {
        buf_addf(tags, "<changedTag name=\"%s\">", field_tag(f));
        xml_escape(tags, value, strlen(value));
        buf_adds(tags, "</changedTag>");
    }
    return 0;
}

void ucm_set_password(struct ucm_user *user, const char *password)
{
    mem_free(user->password);
    user->password = mem_strdup(password);
    user->n_failures = 0;
}

void ucm_log_update(struct ucm *u, const struct ucm_user *user, struct buf *tags)
{
    if (tags->n)
        log_change(u, user->uuid, 'u', false, buf_steal(tags));
}

void ucm_remove(struct ucm *u, struct ucm_user *user)
{
    log_change(u, user->uuid, 'r', false, NULL);
    htab_remove(&u->by_userid, &user->by_userid);
    htab_remove(&u->by_uuid, &user->by_uuid);
    memmove(&u->users[user->at], &u->users[user->at + 1], (u->n_users - user->at - 1) * sizeof *u->users);
    u->n_users--;
    u->n_removed++;
    for (size_t i = user->at; i < u->n_users; i++)
        u->users[i]->at = i;
    user_free(user);
}

void ucm_new_queue(struct ucm *u, const char *id)
{
    ucm_forget_changes(u, 0);
    u->first_change = u->next_change = 1;
    if (id)
        snprintf(u->queue_id, sizeof u->queue_id, "%s", id);
    else
        random_hex(u->queue_id, 4);
}

void ucm_forget_changes(struct ucm *u, uint64_t keep)
{
    while (u->next_change - u->first_change > keep) {
        struct ucm_change *c = &u->changes[u->first_change++ % u->cap_changes];
        mem_free(c->xml);
        c->xml = NULL;
    }
}

const struct ucm_change *ucm_change(const struct ucm *u, uint64_t id)
{
    return id >= u->first_change && id < u->next_change ? &u->changes[id % u->cap_changes] : NULL;
}

bool ucm_like(const char *text, const char *pattern)
{
    /* Greedy with one level of back-tracking: only the last % can need another try. */
    const char *star = NULL, *resume = NULL;
    while (*text) {
        if (*pattern == '%') {
            star = ++pattern;
            resume = text;
        } else if (tolower((unsigned char)*pattern) == tolower((unsigned char)*text)) {
            pattern++;
            text++;
        } else if (star) {
            pattern = star;
            text = ++resume;
        } else {
            return false;
        }
    }
    while (*pattern == '%')
        pattern++;
    return !*pattern;
}

/* ---- CSV ---- */

enum { MAX_COLUMNS = 32, COLUMN_PASSWORD = N_FIELDS, COLUMN_NONE };

/* Splits one line in place; "..." with "" inside is understood (RFC 4180 §2). Returns the number of cells. */
static int csv_split(char *line, char *cells[MAX_COLUMNS])
{
    int n = 0;
    char *p = line;
    for (;;) {
        char *out = p;
        bool quoted = *p == '"', more;
        if (n < MAX_COLUMNS)
            cells[n++] = p;
        if (quoted)
            p++;
        for (; *p && (quoted || *p != ','); p++) {
            if (quoted && *p == '"') {
                if (p[1] != '"') {
                    quoted = false;
                    continue;
                }
                p++;
            }
            *out++ = *p;
        }
        more = *p == ',';
        if (more)
            p++;
        *out = 0;
        if (!more)
            return n;
    }
}

static int column_of(const char *name)
{
    int f = field_find(name);
    return f >= 0 ? f : !strcmp(name, "password") ? COLUMN_PASSWORD : COLUMN_NONE;
}

int ucm_load_csv(struct ucm *u, const char *path, struct err_ctx *err)
{
    int columns[MAX_COLUMNS] = {FIELD_USERID,       FIELD_FIRST_NAME,    FIELD_LAST_NAME,
                                FIELD_MAILID,       FIELD_DIRECTORY_URI, FIELD_IM_ENABLE,
                                FIELD_HOME_CLUSTER, COLUMN_PASSWORD,     FIELD_DISPLAY_NAME};
    int n_columns = 9, code = 0;
    char *line = NULL;
    size_t cap = 0;
    FILE *file = fopen(path, "r");
    if (!file)
        return err_set(err, ERR_SYSTEM, "%s: %m", path);
    for (unsigned no = 1; !code && getline(&line, &cap, file) >= 0; no++) {
        char *cells[MAX_COLUMNS];
        struct ucm_user *user = NULL;
        line[strcspn(line, "\r\n")] = 0;
        if (!line[0] || line[0] == '#')
            continue;
        int n = csv_split(line, cells);
        if (no == 1 && (column_of(cells[0]) != COLUMN_NONE)) {
            for (n_columns = 0; n_columns < n; n_columns++)
                columns[n_columns] = column_of(cells[n_columns]);
            continue;
        }
        for (int i = 0; i < n && i < n_columns; i++)
            if (columns[i] == FIELD_USERID)
                code = ucm_add(u, &user, cells[i], err);
        if (!code && !user)
            code = err_set(err, ERR_INVALID, "no userid");
        for (int i = 0; !code && i < n && i < n_columns; i++) {
            if (columns[i] == COLUMN_PASSWORD && cells[i][0])
                ucm_set_password(user, cells[i]);
            else if (columns[i] < N_FIELDS && columns[i] != FIELD_USERID && cells[i][0])
                code = ucm_set(u, user, (enum field)columns[i], cells[i], NULL, err);
        }
        if (code)
            err_prefix(err, code, "%s:%u", path, no);
    }
    free(line);
    fclose(file);
    return code;
}
