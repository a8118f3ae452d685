imp_unit_test(rsm LINK imp_protocols_xmpp imp_base)
imp_unit_test(archive_rules LINK imp_im imp_base)
imp_unit_test(fsm_archive SOURCES fsm_fixture.c LINK imp_fsm imp_storage imp_base)
imp_unit_test(archive_walk SOURCES fsm_fixture.c LINK imp_im imp_fsm imp_storage imp_base)
