# imp_ucmsim_test(axl LINK ...): an imp_unit_test that starts the ucmsim of this build.
function(imp_ucmsim_test name)
  imp_unit_test(${name} SOURCES ucmsim_process.c ${ARGN})
  target_compile_definitions(unit_${name} PRIVATE UCMSIM_PATH="$<TARGET_FILE:ucmsim>")
  add_dependencies(unit_${name} ucmsim)
endfunction()
imp_ucmsim_test(axl LINK imp_protocols_axl imp_base)
