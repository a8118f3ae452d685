/* The backup that is being made on this node, if one is. Control loop. */
#ifndef NODE_ADMIN_BACKUP_H
#define NODE_ADMIN_BACKUP_H

struct admin_backups;

struct admin_backups *admin_backups_new(void);
/* Cancels a backup under way and waits for its thread, before the store is closed; its call is not answered.
 * May be NULL. */
void admin_backups_free(struct admin_backups *all);

#endif
