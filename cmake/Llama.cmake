# ggml and libllama, static, with their own threads (no OpenMP: LibTorch brings its own runtime).
if(NOT EXISTS ${UNBEND_LLAMA_SOURCE}/CMakeLists.txt)
  message(FATAL_ERROR "llama.cpp sources not found in ${UNBEND_LLAMA_SOURCE}: run tools/setup.sh llama")
endif()
set(BUILD_SHARED_LIBS OFF)
set(GGML_OPENMP OFF CACHE BOOL "")
set(GGML_NATIVE ${UNBEND_NATIVE} CACHE BOOL "")
set(GGML_LLAMAFILE ON CACHE BOOL "")
set(GGML_CCACHE OFF CACHE BOOL "")
set(LLAMA_BUILD_COMMON OFF CACHE BOOL "")
set(LLAMA_BUILD_TESTS OFF CACHE BOOL "")
set(LLAMA_BUILD_TOOLS OFF CACHE BOOL "")
set(LLAMA_BUILD_EXAMPLES OFF CACHE BOOL "")
set(LLAMA_BUILD_SERVER OFF CACHE BOOL "")
set(LLAMA_CURL OFF CACHE BOOL "")
# Two parts that llama.cpp keeps for its own programs: the HTTP library, and the converter of JSON schemas to grammars
# (without the rest of its common library).
set(vendor ${UNBEND_LLAMA_SOURCE}/vendor)
add_library(unbend_httplib STATIC EXCLUDE_FROM_ALL ${vendor}/cpp-httplib/httplib.cpp)
target_include_directories(unbend_httplib SYSTEM PUBLIC ${vendor}/cpp-httplib)
target_compile_definitions(unbend_httplib PUBLIC CPPHTTPLIB_LISTEN_BACKLOG=512)
target_compile_options(unbend_httplib PRIVATE -w)
find_package(Threads REQUIRED)
target_link_libraries(unbend_httplib PUBLIC Threads::Threads)

set(common ${UNBEND_LLAMA_SOURCE}/common)
add_library(unbend_schema_grammar STATIC EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/cmake/llama_strings.cc
  ${common}/json-schema-to-grammar.cpp ${common}/json-schema.cpp ${common}/json.cpp ${common}/trie.cpp ${common}/unicode.cpp)
target_include_directories(unbend_schema_grammar SYSTEM PUBLIC ${common} PRIVATE ${vendor}
  ${UNBEND_LLAMA_SOURCE}/include)
target_compile_options(unbend_schema_grammar PRIVATE -w)
target_link_libraries(unbend_schema_grammar PUBLIC ggml-base)

add_subdirectory(${UNBEND_LLAMA_SOURCE} ${CMAKE_BINARY_DIR}/llama.cpp EXCLUDE_FROM_ALL SYSTEM)
# With AVX512-FP16, ggml's loops over float16 take 128 numbers at a time and the rest one by one in software: for heads of
# width 64 that is all of them. Its other AVX-512 path takes 64, and adds up in float32.
target_compile_options(ggml-cpu PRIVATE -U__AVX512FP16__)
