# SCS, a solver of cone programs: from the sources inside its PyPI sdist, static, without BLAS (only semidefinite cones
# need it).
set(UNBEND_SCS_SOURCE "${CMAKE_SOURCE_DIR}/build/third_party/scs" CACHE PATH "SCS sources (tools/setup.sh puts them there)")
if(NOT EXISTS ${UNBEND_SCS_SOURCE}/include/scs.h)
  message(FATAL_ERROR "SCS sources not found in ${UNBEND_SCS_SOURCE}: run tools/setup.sh scs")
endif()
file(GLOB scs_sources ${UNBEND_SCS_SOURCE}/src/*.c ${UNBEND_SCS_SOURCE}/linsys/*.c ${UNBEND_SCS_SOURCE}/linsys/cpu/direct/*.c
  ${UNBEND_SCS_SOURCE}/linsys/external/amd/*.c ${UNBEND_SCS_SOURCE}/linsys/external/qdldl/*.c)
add_library(unbend_scs STATIC EXCLUDE_FROM_ALL ${scs_sources})
target_include_directories(unbend_scs SYSTEM PUBLIC ${UNBEND_SCS_SOURCE}/include
  PRIVATE ${UNBEND_SCS_SOURCE}/linsys ${UNBEND_SCS_SOURCE}/linsys/cpu/direct ${UNBEND_SCS_SOURCE}/linsys/external/amd
  ${UNBEND_SCS_SOURCE}/linsys/external/qdldl)
target_compile_definitions(unbend_scs PRIVATE NO_PRINTING=1 NO_READ_WRITE=1 _POSIX_C_SOURCE=200809L)
target_compile_options(unbend_scs PRIVATE -w)
target_link_libraries(unbend_scs PUBLIC m)
