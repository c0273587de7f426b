# The installed package: what a program needs to embed the engine, `find_package(unbend)` (docs/embedding.md). What stands
# on LibTorch is not part of it. llama.cpp's own install rules stay out, so that no other llama.cpp of the system is
# overwritten: its headers and libraries go into folders of ours.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(package_libraries ${CMAKE_INSTALL_LIBDIR}/unbend)
set(package_cmake ${CMAKE_INSTALL_LIBDIR}/cmake/unbend)
set(package_llama ${CMAKE_INSTALL_INCLUDEDIR}/unbend/llama.cpp)

set_target_properties(unbend_base PROPERTIES EXPORT_NAME base)
set_target_properties(unbend_engine PROPERTIES EXPORT_NAME engine)
set_target_properties(unbend_capi PROPERTIES EXPORT_NAME c)
set(package_targets unbend_base unbend_engine unbend_capi)
set(llama_targets llama ggml ggml-base ggml-cpu)
get_target_property(llama_headers llama INTERFACE_INCLUDE_DIRECTORIES)
set_target_properties(llama PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "$<BUILD_INTERFACE:${llama_headers}>")
foreach(target ${llama_targets})
  set_target_properties(${target} PROPERTIES PUBLIC_HEADER "")  # installed below
  target_include_directories(${target} INTERFACE $<INSTALL_INTERFACE:${package_llama}>)
endforeach()

install(TARGETS ${package_targets} EXPORT unbend ARCHIVE DESTINATION ${package_libraries} COMPONENT unbend
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS ${llama_targets} EXPORT unbend ARCHIVE DESTINATION ${package_libraries} COMPONENT unbend)
install(EXPORT unbend NAMESPACE unbend:: FILE unbendTargets.cmake DESTINATION ${package_cmake} COMPONENT unbend)

foreach(folder base engine capi)
  install(DIRECTORY ${CMAKE_SOURCE_DIR}/unbend/${folder} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/unbend COMPONENT unbend
    FILES_MATCHING PATTERN "*.h")
endforeach()
install(DIRECTORY ${UNBEND_LLAMA_SOURCE}/include/ ${UNBEND_LLAMA_SOURCE}/ggml/include/ DESTINATION ${package_llama}
  COMPONENT unbend FILES_MATCHING PATTERN "*.h")
install(FILES ${CMAKE_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT unbend)
install(FILES ${UNBEND_LLAMA_SOURCE}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} RENAME LICENSE.llama.cpp
  COMPONENT unbend)

configure_package_config_file(${CMAKE_SOURCE_DIR}/cmake/unbendConfig.cmake.in ${CMAKE_BINARY_DIR}/unbendConfig.cmake
  INSTALL_DESTINATION ${package_cmake})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/unbendConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/unbendConfig.cmake ${CMAKE_BINARY_DIR}/unbendConfigVersion.cmake
  DESTINATION ${package_cmake} COMPONENT unbend)
