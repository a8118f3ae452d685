imp_unit_test(fsm_pep SOURCES fsm_fixture.c LINK imp_fsm)
imp_unit_test(xmpp_caps LINK imp_protocols_xmpp imp_im imp_cluster imp_replication imp_fsm imp_storage imp_base)
