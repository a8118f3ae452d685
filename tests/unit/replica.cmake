set(replica_fixture replica_fixture.c replica_fsm.c test_certs.c)
set(replica_link imp_replication PkgConfig::SSL)
imp_unit_test(replica_single SOURCES ${replica_fixture} LINK ${replica_link})
imp_unit_test(replica_three SOURCES ${replica_fixture} LINK ${replica_link})
