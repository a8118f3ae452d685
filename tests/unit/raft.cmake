imp_unit_test(rlog LINK imp_replication sim_disk)
