# cmake --install: the library, its headers and the base headers that they include (under
# include/caisson/base, so that nothing called "base" lies in a system directory), for pkg-config
# and for find_package(caisson_sys).
include(GNUInstallDirs)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/caisson_sys)

install(TARGETS caisson_sys caisson_base EXPORT caisson_sys
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT caisson_sys)
install(EXPORT caisson_sys FILE caisson_sysConfig.cmake NAMESPACE caisson::
  DESTINATION ${package_dir} COMPONENT caisson_sys)
install(FILES ${CMAKE_SOURCE_DIR}/include/caisson/sys.h
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/caisson COMPONENT caisson_sys)
install(DIRECTORY ${CMAKE_SOURCE_DIR}/include/caisson/sys
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/caisson COMPONENT caisson_sys)
set(base_headers check errno error lock_rank mutex result thread_annotations unique_fd)
list(TRANSFORM base_headers REPLACE "(.+)" "${CMAKE_SOURCE_DIR}/base/\\1.h")
install(FILES ${base_headers}
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/caisson/base COMPONENT caisson_sys)
configure_file(caisson_sys.pc.in caisson_sys.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/caisson_sys.pc
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT caisson_sys)
