# LibTorch from the torch wheel, and one precompiled header for everything that uses it.
execute_process(
  COMMAND ${UNBEND_PYTHON} -c "import torch; print(torch.utils.cmake_prefix_path)"
  OUTPUT_VARIABLE torch_prefix OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE torch_missing)
if(torch_missing)
  message(FATAL_ERROR "torch not found by ${UNBEND_PYTHON}: run tools/setup.sh torch")
endif()
list(APPEND CMAKE_PREFIX_PATH ${torch_prefix})
set(cuda_flags "${CMAKE_CUDA_FLAGS}")
find_package(Torch REQUIRED)
set(CMAKE_CUDA_FLAGS "${cuda_flags}")  # a LibTorch with CUDA adds all processors that it knows

file(WRITE ${CMAKE_BINARY_DIR}/pch.cc "")
add_library(unbend_pch STATIC ${CMAKE_BINARY_DIR}/pch.cc)
# Some wheels (2.11 with CUDA) hand out their own std::filesystem, which crashes in remove_all: ours comes first.
target_link_libraries(unbend_pch PUBLIC unbend_flags $<$<CXX_COMPILER_ID:GNU>:stdc++> fmt::fmt
  nlohmann_json::nlohmann_json ${TORCH_LIBRARIES})
target_compile_options(unbend_pch PUBLIC ${TORCH_CXX_FLAGS})
# at::parallel_for is a template: it runs on LibTorch's threads only where the code that calls it is compiled with OpenMP,
# and silently on one thread otherwise. The runtime must be the wheel's own, which LibTorch uses: not the compiler's.
file(GLOB torch_openmp ${TORCH_INSTALL_PREFIX}/lib/libgomp*.so*)
if(NOT torch_openmp)
  message(FATAL_ERROR "the OpenMP runtime of torch was not found in ${TORCH_INSTALL_PREFIX}/lib")
endif()
target_compile_options(unbend_pch PUBLIC $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fopenmp>)
target_link_libraries(unbend_pch PUBLIC ${torch_openmp})
# The wheel carries the headers of another fmt (another inline namespace) than the system library, and no library.
target_compile_definitions(unbend_pch PUBLIC FMT_HEADER_ONLY=1)
target_precompile_headers(unbend_pch PRIVATE
  <torch/types.h> <torch/csrc/autograd/autograd.h> <torch/csrc/autograd/custom_function.h>
  <fmt/format.h> <fmt/ranges.h> <algorithm> <functional> <map> <memory> <optional> <string> <vector>)

# unbend_torch_target(NAME): links LibTorch and takes the shared precompiled header.
function(unbend_torch_target name)
  target_link_libraries(${name} PUBLIC unbend_pch)
  target_precompile_headers(${name} REUSE_FROM unbend_pch)
  # The precompiled header is -fPIC; an executable must not be compiled with CMake's -fPIE instead.
  set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(${name} PRIVATE -fPIC)
  get_target_property(type ${name} TYPE)
  if(type STREQUAL "EXECUTABLE")
    target_sources(${name} PRIVATE ${CMAKE_SOURCE_DIR}/cmake/mkl_on_amd.cc)
  endif()
endfunction()
