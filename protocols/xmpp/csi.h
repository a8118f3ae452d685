/* XEP-0352 for others than its own file. */
#ifndef XMPP_CSI_H
#define XMPP_CSI_H

#include "protocols/xmpp/home.h"

bool csi_is_inactive(struct c2s_home *h);
/* What is held goes out, and the client counts as active: when it says so, and when its stream was resumed (§5.2). */
void csi_set_active(struct c2s_home *h);

#endif
