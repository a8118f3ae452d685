# Flags, library look-up and the helpers that every folder uses.
include(GNUInstallDirs)
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)

add_compile_options(-Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla
                    -Wformat=2 -Wundef -Wwrite-strings -Wno-unused-parameter $<$<C_COMPILER_ID:GNU>:-Wno-format-truncation>
                    $<$<C_COMPILER_ID:Clang>:-Wno-format-nonliteral> -fno-common)
add_compile_definitions(_GNU_SOURCE)
# Asserts stay on in every build: a broken invariant must end the process, not continue.
foreach(config RELEASE RELWITHDEBINFO MINSIZEREL)
  string(REPLACE "-DNDEBUG" "" CMAKE_C_FLAGS_${config} "${CMAKE_C_FLAGS_${config}}")
endforeach()
if(IMP_WERROR)
  add_compile_options(-Werror)
endif()
if(IMP_SANITIZE)
  add_compile_options(-fsanitize=${IMP_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${IMP_SANITIZE})
  if(IMP_SANITIZE MATCHES "undefined")
    add_compile_options(-fno-sanitize-recover=undefined)
  endif()
endif()
if(IMP_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
if(IMP_HARDEN)
  add_compile_options(-D_FORTIFY_SOURCE=2 -fstack-protector-strong -fstack-clash-protection -fcf-protection -fPIE)
  add_link_options($<$<STREQUAL:$<TARGET_PROPERTY:TYPE>,EXECUTABLE>:-pie> -Wl,-z,relro,-z,now,-z,noexecstack)
endif()

foreach(pair "UV;libuv" "LMDB;lmdb" "PROTOBUF_C;libprotobuf-c" "SSL;openssl" "EXPAT;expat" "XXHASH;libxxhash"
             "JANSSON;jansson" "CURL;libcurl" "LWS;libwebsockets" "ICU;icu-uc" "IDN2;libidn2" "ZSTD;libzstd" "EDIT;libedit")
  list(GET pair 0 var)
  list(GET pair 1 module)
  pkg_check_modules(${var} REQUIRED IMPORTED_TARGET ${module})
endforeach()
pkg_check_modules(CMOCKA IMPORTED_TARGET cmocka)
pkg_check_modules(STROPHE IMPORTED_TARGET libstrophe)
pkg_check_modules(LIBXML2 IMPORTED_TARGET libxml-2.0)
find_program(PROTOC_C protoc-c REQUIRED)

# imp_library(base SOURCES a.c b.c LINK PkgConfig::UV ...)
# A static library imp_<name> of the folder <name>. Its headers are seen as "<name>/x.h" only by targets that link
# it: each folder is reached through an include directory of its own that holds one link, so an arrow upwards in
# the layers does not compile.
function(imp_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK;PRIVATE_LINK;PROTO" ${ARGN})
  string(REPLACE "/" "_" target imp_${name})
  set(see ${CMAKE_BINARY_DIR}/see/${target})
  get_filename_component(parent ${see}/${name} DIRECTORY)
  file(MAKE_DIRECTORY ${parent})
  file(CREATE_LINK ${CMAKE_CURRENT_SOURCE_DIR} ${see}/${name} SYMBOLIC)
  add_library(${target} STATIC ${ARG_SOURCES})
  target_include_directories(${target} PUBLIC ${see})
  target_link_libraries(${target} PUBLIC ${ARG_LINK} PRIVATE ${ARG_PRIVATE_LINK})
  foreach(proto ${ARG_PROTO})
    imp_proto(${target} ${name} ${proto})
  endforeach()
endfunction()

# Generated code of <proto>; included as "<name>/<proto>.pb-c.h" would collide with the link above, so it is
# included as "<proto>.pb-c.h".
function(imp_proto target name proto)
  set(out ${CMAKE_BINARY_DIR}/gen/${target})
  file(MAKE_DIRECTORY ${out})
  add_custom_command(
    OUTPUT ${out}/${proto}.pb-c.c ${out}/${proto}.pb-c.h
    COMMAND ${PROTOC_C} --proto_path=${CMAKE_CURRENT_SOURCE_DIR} --proto_path=${CMAKE_SOURCE_DIR}/storage
            --c_out=${out} ${CMAKE_CURRENT_SOURCE_DIR}/${proto}.proto
    DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${proto}.proto VERBATIM)
  set_source_files_properties(${out}/${proto}.pb-c.c PROPERTIES COMPILE_OPTIONS "-Wno-error;-Wno-shadow")
  target_sources(${target} PRIVATE ${out}/${proto}.pb-c.c PUBLIC FILE_SET HEADERS BASE_DIRS ${out} FILES ${out}/${proto}.pb-c.h)
  target_link_libraries(${target} PUBLIC PkgConfig::PROTOBUF_C)
endfunction()
