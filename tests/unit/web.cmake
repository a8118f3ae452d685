imp_unit_test(bosh LINK imp_protocols_xmpp)
imp_unit_test(web_text LINK imp_protocols_xmpp)
imp_unit_test(tunnel LINK imp_base)
imp_unit_test(admission LINK imp_base)
