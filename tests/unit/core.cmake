if(LIBXML2_FOUND)
  imp_unit_test(xml_differ LINK imp_base PkgConfig::LIBXML2)
endif()
imp_unit_test(xmpp_attack SOURCES im_fixture.c LINK imp_protocols_xmpp imp_im imp_cluster imp_replication imp_fsm imp_storage imp_base)
