foreach(name im_home im_cluster)
  imp_unit_test(${name} SOURCES im_fixture.c LINK imp_protocols_xmpp imp_im imp_cluster imp_replication imp_fsm imp_storage imp_base)
endforeach()
