imp_unit_test(command LINK imp_node_rpc)
imp_unit_test(impcli LINK imp_cli imp_node_rpc)
target_compile_definitions(unit_impcli PRIVATE IMPCLI="$<TARGET_FILE:impcli>")
add_dependencies(unit_impcli impcli)
