# imp_ucmsim_test(axl LINK ...): an imp_unit_test that starts the ucmsim of this build.
function(imp_ucmsim_test name)
  cmake_parse_arguments(SIM "" "" "SOURCES;LINK" ${ARGN})
  imp_unit_test(${name} SOURCES ucmsim_process.c ${SIM_SOURCES} LINK ${SIM_LINK})
  target_compile_definitions(unit_${name} PRIVATE UCMSIM_PATH="$<TARGET_FILE:ucmsim>")
  add_dependencies(unit_${name} ucmsim)
endfunction()
imp_ucmsim_test(axl LINK imp_protocols_axl imp_base)
imp_ucmsim_test(sync_agent SOURCES sync_store.c LINK imp_node_sync imp_base)
