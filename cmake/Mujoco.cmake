# MuJoCo's library and headers, as tools/setup.sh takes them from the PyPI wheel.
set(UNBEND_MUJOCO "${CMAKE_SOURCE_DIR}/build/third_party/mujoco" CACHE PATH "MuJoCo (tools/setup.sh puts it there)")
if(NOT EXISTS ${UNBEND_MUJOCO}/lib/libmujoco.so)
  message(FATAL_ERROR "MuJoCo not found in ${UNBEND_MUJOCO}: run tools/setup.sh mujoco")
endif()
add_library(unbend_mujoco SHARED IMPORTED GLOBAL)
set_target_properties(unbend_mujoco PROPERTIES IMPORTED_LOCATION ${UNBEND_MUJOCO}/lib/libmujoco.so)
target_include_directories(unbend_mujoco SYSTEM INTERFACE ${UNBEND_MUJOCO}/include)
