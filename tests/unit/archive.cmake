imp_unit_test(rsm LINK imp_protocols_xmpp imp_base)
