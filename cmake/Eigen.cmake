# Eigen, only in the source files that use it: other files' commands stay as they are.
find_package(Eigen3 REQUIRED NO_MODULE)
get_target_property(eigen_include Eigen3::Eigen INTERFACE_INCLUDE_DIRECTORIES)
# One program, one thread pool: LibTorch's. And g++ 12 finds uninitialised values in its own AVX-512 headers.
set(eigen_options -isystem ${eigen_include} -DEIGEN_DONT_PARALLELIZE)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(APPEND eigen_options -Wno-array-bounds -Wno-maybe-uninitialized -Wno-uninitialized)
endif()

# unbend_uses_eigen(FILE...): source files of the current folder.
function(unbend_uses_eigen)
  set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS "${eigen_options}")
endfunction()
# unbend_target_uses_eigen(TARGET): all of a target's.
function(unbend_target_uses_eigen target)
  target_compile_options(${target} PRIVATE ${eigen_options})
endfunction()
