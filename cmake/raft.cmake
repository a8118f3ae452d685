# raft_core: the core of libraft 0.22.1 (raft_step), compiled with our own flags and sanitizers, asserts on. The rest of
# the library (libuv back end, the old API) is left out. Debian 12 has 0.15.0, which loses acknowledged writes; the
# source is Debian 13's (see docs/adr). Header and library must match: never mix with a packaged libraft.
set(IMP_RAFT_SOURCE "" CACHE PATH "unpacked source of libraft 0.22.1; empty: fetched from the Debian mirror")
set(raft_source "${IMP_RAFT_SOURCE}")
if(NOT raft_source)
  set(raft_source ${CMAKE_SOURCE_DIR}/build/raft-0.22.1)
  if(NOT EXISTS ${raft_source}/.complete)
    message(STATUS "Fetching the source of libraft 0.22.1")
    execute_process(COMMAND ${CMAKE_SOURCE_DIR}/cmake/fetch-raft ${CMAKE_SOURCE_DIR}/build RESULT_VARIABLE failed)
    if(failed)
      message(FATAL_ERROR "libraft's source is missing, see above")
    endif()
  endif()
endif()
if(NOT EXISTS ${raft_source}/include/raft.h.in)
  message(FATAL_ERROR "${raft_source} is not the source of libraft 0.22.1")
endif()

set(raft_build ${CMAKE_BINARY_DIR}/raft_core)
set(enable_v0 no) # without the old API: struct raft has another size with it
configure_file(${raft_source}/include/raft.h.in ${raft_build}/include/raft.h @ONLY)

# The sources include "../include/raft.h", which the tree has only as raft.h.in: compile copies beside the made header.
set(raft_files byte client compress configuration convert election entry err heap membership message progress raft
               random recv recv_append_entries recv_append_entries_result recv_install_snapshot recv_request_vote
               recv_request_vote_result recv_timeout_now replication restore state syscall timeout tracing trail)
set(raft_sources)
foreach(file ${raft_files})
  configure_file(${raft_source}/src/${file}.c ${raft_build}/src/${file}.c COPYONLY)
  list(APPEND raft_sources ${raft_build}/src/${file}.c)
endforeach()
file(GLOB raft_headers ${raft_source}/src/*.h)
file(COPY ${raft_headers} DESTINATION ${raft_build}/src)

add_library(raft_core STATIC ${raft_sources})
target_include_directories(raft_core SYSTEM PUBLIC ${raft_build}/include)
target_compile_options(raft_core PRIVATE -w -fvisibility=hidden)
