#include "cluster/datadir.h"
#include "im/address.h"
#include "node/enrol.h"
#include "node/verbs.h"
#include <stdio.h>
#include <string.h>

int verb_init(struct options *o)
{
    struct err_ctx err = {0};
    char domain[JID_PART_MAX + 1];
    if (config_check(&o->config, &err))
        return verb_fail("%s", err.text);
    if (o->config.witness)
        return verb_fail("the first node cannot be a witness");
    if (address_prep_domain(domain, o->domain, strlen(o->domain), &err) || strlen(domain) > 253)
        return verb_fail("--domain: '%s' is not a domain name", o->domain);
    struct datadir d;
    if (datadir_create(&d, o->data, NULL, &err))
        return verb_fail("%s", err.text);
    struct enrol_new_cluster n = {.config = &o->config, .domain = domain};
    int rc = enrol_new_cluster(&n, &d, &err);
    datadir_close(&d);
    if (rc)
        return verb_fail("%s (remove %s before you try again)", err.text, d.path);
    char id[33];
    datadir_hex(id, n.cluster_id, 16);
    printf("Made cluster %s for domain %s; this node is %s, its publisher.\n\nNext:\n", id, domain,
           o->config.name);
    printf("  impnode run --data %s                     run it\n", o->data);
    printf("  impcli --data %s node token               make a token for another node, then there:\n",
           o->data);
    printf("  impnode join %s%s --token TOKEN --data DIR --name NAME --address ADDR\n", o->config.address,
           o->config.listen_cluster.port == 7800 ? "" : ":PORT");
    printf("\nOne node has no redundancy; two cannot lose any: add a third, or a witness (--witness).\n");
    printf("A copy of %s cannot be used: a copied node is refused.\n", o->data);
    return 0;
}
