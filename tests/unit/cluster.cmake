imp_unit_test(cluster_identity LINK imp_cluster)
imp_unit_test(cluster_link LINK imp_cluster)
imp_unit_test(cluster_policy LINK imp_cluster)
