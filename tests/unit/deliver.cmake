imp_unit_test(im_deliver SOURCES im_fixture.c
  LINK imp_protocols_xmpp imp_im imp_cluster imp_replication imp_fsm imp_storage imp_base)
imp_unit_test(im_payload LINK imp_im imp_base)
imp_unit_test(im_pbkdf2 LINK imp_im imp_base PkgConfig::SSL)
imp_unit_test(fsm_push SOURCES fsm_fixture.c LINK imp_fsm imp_storage imp_base)
imp_unit_test(im_repeats LINK imp_im imp_cluster imp_replication imp_fsm imp_storage imp_base)
