# imp_ucmsim_test(axl LINK ...): an imp_unit_test that starts the ucmsim of this build.
function(imp_ucmsim_test name)
  cmake_parse_arguments(SIM "" "" "SOURCES;LINK" ${ARGN})
  imp_unit_test(${name} SOURCES ucmsim_process.c ${SIM_SOURCES} LINK ${SIM_LINK})
  target_compile_definitions(unit_${name} PRIVATE UCMSIM_PATH="$<TARGET_FILE:ucmsim>")
  add_dependencies(unit_${name} ucmsim)
endfunction()
imp_ucmsim_test(axl LINK imp_protocols_axl imp_base)
imp_ucmsim_test(sync_agent SOURCES sync_store.c LINK imp_node_sync imp_base)

imp_unit_test(http_client LINK imp_protocols_http imp_base)

# The schema is not ours to ship; where a copy lies in a folder beside the project, the messages are held against it.
imp_ucmsim_test(axl_schema LINK imp_protocols_axl imp_base)
file(GLOB axl_schema ${CMAKE_SOURCE_DIR}/../*/axl/AXLSoap.xsd)
list(APPEND axl_schema "none")
list(GET axl_schema 0 axl_schema)
target_compile_definitions(unit_axl_schema PRIVATE AXL_SCHEMA="${axl_schema}")

imp_unit_test(ucmsim_model SOURCES ${CMAKE_SOURCE_DIR}/tools/ucmsim/model.c LINK imp_base)
target_include_directories(unit_ucmsim_model PRIVATE ${CMAKE_SOURCE_DIR}/tools/ucmsim)
