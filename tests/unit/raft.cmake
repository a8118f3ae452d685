imp_unit_test(driver LINK imp_replication sim_disk)
imp_unit_test(raft_message LINK imp_replication)
imp_unit_test(rlog LINK imp_replication sim_disk)
imp_unit_test(vote LINK imp_replication sim_disk)
