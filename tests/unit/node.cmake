imp_unit_test(node_watcher LINK imp_node)
