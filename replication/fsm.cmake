# The state machine and what it needs of replication/: a library of its own, so that tests and tools can apply commands
# without Raft.
set(see ${CMAKE_BINARY_DIR}/see/imp_replication)
file(MAKE_DIRECTORY ${see})
file(CREATE_LINK ${CMAKE_CURRENT_SOURCE_DIR} ${see}/replication SYMBOLIC)
add_library(imp_fsm STATIC
  home.c levels.c pep.c settings.c fsm/fsm.c fsm/fsm_alarm.c fsm/fsm_archive.c fsm/fsm_assign.c fsm/fsm_audit.c fsm/fsm_cluster.c fsm/fsm_message.c fsm/fsm_message_repeat.c
  fsm/fsm_keys.c fsm/fsm_node.c fsm/fsm_pep.c fsm/fsm_pep_node.c fsm/fsm_purge.c fsm/fsm_resume.c fsm/fsm_roster.c fsm/fsm_row.c fsm/fsm_session.c fsm/fsm_setting.c
  fsm/fsm_subscribe.c fsm/fsm_sync.c fsm/fsm_user.c
  fsm/fsm_block.c fsm/fsm_login.c fsm/fsm_push.c)
target_include_directories(imp_fsm PUBLIC ${see})
imp_proto(imp_fsm replication command)
target_link_libraries(imp_fsm PUBLIC imp_storage)
