/* What protocols/xmpp needs of the node: administration by XMPP (XEP-0133), and secrets that lie sealed in
 * the settings. */
#ifndef NODE_XMPP_GLUE_H
#define NODE_XMPP_GLUE_H

#include "protocols/xmpp/xmpp.h"

struct node;

/* admin of struct xmpp_options; USER is the struct node. Any thread. */
void xmpp_glue_admin(void *user, const struct xmpp_admin_request *r);
/* The settings, or the keys they are sealed with, have changed: control loop. */
void xmpp_glue_settings_changed(struct node *n);

#endif
