#include "protocols/xmpp/rsm.h"
#include "base/err.h"
#include <inttypes.h>
#include <string.h>

/* A number of type xs:int that is not negative; what is too large is the largest. */
static int read_number(const char *text, uint64_t *out)
{
    const char *p = text + strspn(text, " \t\r\n");
    size_t n = strspn(p, "0123456789");
    if (!n || p[n + strspn(p + n, " \t\r\n")])
        return ERR_INVALID;
    *out = 0;
    for (size_t i = 0; i < n; i++)
        *out = *out > UINT32_MAX ? *out : *out * 10 + (uint64_t)(p[i] - '0');
    return 0;
}

int rsm_read(struct rsm *out, const struct xml *parent, size_t max, struct arena *a)
{
    *out = (struct rsm){.max = max};
    const struct xml *set = xml_child(parent, "set", NS_RSM);
    if (!set)
        return 0;
    out->is_asked = true;
    const char *number = xml_child_text(set, "max", NS_RSM, a);
    uint64_t asked;
    if (number && read_number(number, &asked) < 0)
        return ERR_INVALID;
    if (number && asked < max)
        out->max = (size_t)asked;
    number = xml_child_text(set, "index", NS_RSM, a);
    out->has_index = number != NULL;
    if (number && read_number(number, &out->index) < 0)
        return ERR_INVALID;
    out->after = xml_child_text(set, "after", NS_RSM, a);
    out->before = xml_child_text(set, "before", NS_RSM, a);
    /* Some clients send an empty <after/> for "from the beginning": it names no item. */
    if (out->after && !*out->after)
        out->after = NULL;
    return out->has_index && (out->after || out->before) ? ERR_INVALID : 0;
}

int rsm_pick(const struct rsm *r, size_t total, rsm_find_fn *find, void *user, struct rsm_page *out)
{
    size_t from = 0, to = total;
    long at;
    *out = (struct rsm_page){.total = total};
    if (r->has_index)
        from = r->index < total ? (size_t)r->index : total;
    if (r->after) {
        if ((at = find(user, r->after)) < 0)
            return ERR_NOTFOUND;
        from = (size_t)at + 1;
    }
    if (r->before && *r->before) {
        if ((at = find(user, r->before)) < 0)
            return ERR_NOTFOUND;
        to = (size_t)at > from ? (size_t)at : from;
    }
    if (r->before && to - from > r->max)
        from = to - r->max;
    out->first = from;
    out->n = to - from < r->max ? to - from : r->max;
    return 0;
}

void rsm_write(struct buf *out, const char *first, const char *last, int64_t index, int64_t count)
{
    buf_adds(out, "<set xmlns='" NS_RSM "'>");
    if (first && last) {
        buf_adds(out, "<first");
        if (index >= 0)
            buf_addf(out, " index='%" PRId64 "'", index);
        buf_addc(out, '>');
        xml_escape(out, first, strlen(first));
        buf_adds(out, "</first><last>");
        xml_escape(out, last, strlen(last));
        buf_adds(out, "</last>");
    }
    if (count >= 0)
        buf_addf(out, "<count>%" PRId64 "</count>", count);
    buf_adds(out, "</set>");
}
