imp_unit_test(command LINK imp_node_rpc)
imp_unit_test(impcli LINK imp_cli imp_node_rpc)
target_compile_definitions(unit_impcli PRIVATE IMPCLI="$<TARGET_FILE:impcli>")
add_dependencies(unit_impcli impcli)

# The documents against the tables and programs: settings reference, man pages, completion, alarms, links.
add_test(NAME unit_docs COMMAND /usr/bin/python3 ${CMAKE_CURRENT_SOURCE_DIR}/docs_test.py
  --root ${CMAKE_SOURCE_DIR} --built ${CMAKE_BINARY_DIR}/docs --impcli $<TARGET_FILE:impcli>)
set_tests_properties(unit_docs PROPERTIES LABELS unit TIMEOUT 60)
imp_unit_test(admin LINK imp_node)
