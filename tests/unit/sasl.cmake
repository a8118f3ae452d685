imp_unit_test(xmpp_sasl LINK imp_protocols_xmpp)
# GNU SASL as the client, where it is installed.
pkg_check_modules(GSASL IMPORTED_TARGET libgsasl)
if(GSASL_FOUND)
  target_link_libraries(unit_xmpp_sasl PRIVATE PkgConfig::GSASL)
  target_compile_definitions(unit_xmpp_sasl PRIVATE IMP_HAVE_GSASL=1)
endif()
