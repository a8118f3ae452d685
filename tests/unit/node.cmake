imp_unit_test(node_watcher LINK imp_node)
imp_unit_test(node_alarm LINK imp_node)
imp_unit_test(node_config LINK imp_node)
imp_unit_test(node_join LINK imp_node)
