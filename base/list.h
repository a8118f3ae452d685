/* Intrusive doubly linked list. */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include "base/mem.h"
#include <stdbool.h>

struct list {
    struct list *next, *prev;
};

static inline void list_init(struct list *l)
{
    l->next = l->prev = l;
}
static inline bool list_is_empty(const struct list *l)
{
    return l->next == l;
}
static inline void list_insert_before(struct list *at, struct list *item)
{
    item->next = at;
    item->prev = at->prev;
    at->prev->next = item;
    at->prev = item;
}
static inline void list_append(struct list *l, struct list *item)
{
    list_insert_before(l, item);
}
static inline void list_prepend(struct list *l, struct list *item)
{
    list_insert_before(l->next, item);
}
/* The item may be removed again, or asked list_is_empty() "is it in a list?". */
static inline void list_remove(struct list *item)
{
    item->prev->next = item->next;
    item->next->prev = item->prev;
    list_init(item);
}
static inline struct list *list_first(const struct list *l)
{
    return l->next == l ? NULL : l->next;
}

#define list_entry(ptr, type, member) container_of(ptr, type, member)
/* The body may remove ITEM. */
#define list_for_each(item, head, type, member)                                                                \
    for (struct list *it_##item = (head)->next, *nx_##item = it_##item->next;                                  \
         it_##item != (head) && ((item) = list_entry(it_##item, type, member), true);                          \
         it_##item = nx_##item, nx_##item = it_##item->next)

#endif
