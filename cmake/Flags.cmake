# Flags of our own targets (third-party targets keep theirs): interface library `unbend_flags`.
find_program(CCACHE ccache)
if(CCACHE)
  # Precompiled headers are only cacheable with these; see ccache's manual, "Precompiled headers".
  set(launcher ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${launcher})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${launcher})
endif()

add_library(unbend_flags INTERFACE)
target_compile_features(unbend_flags INTERFACE cxx_std_20)
target_include_directories(unbend_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(unbend_flags INTERFACE -Wall -Wextra -Wno-unused-parameter -fno-math-errno)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(unbend_flags INTERFACE -fpch-preprocess -Wno-psabi)
endif()
if(UNBEND_NATIVE)
  target_compile_options(unbend_flags INTERFACE -march=native)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  # What llama.cpp asks for too; Highway's AVX2 wants the last two.
  target_compile_options(unbend_flags INTERFACE -march=x86-64-v3 -maes -mpclmul)
endif()
if(UNBEND_SANITIZE)
  add_compile_options(-fsanitize=${UNBEND_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${UNBEND_SANITIZE})
  target_compile_options(unbend_flags INTERFACE -fno-sanitize-recover=all)  # a finding fails the test
endif()
