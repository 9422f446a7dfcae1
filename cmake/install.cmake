# cmake --install: the program, and what a program of somebody else's needs to use caisson::sys: library,
# public headers, the base headers that those include, a CMake package and a pkg-config file. psx
# installs itself (psx/CMakeLists.txt).
include(GNUInstallDirs)

if(TARGET caisson)
  install(TARGETS caisson RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

if(TARGET caisson_sys)
  # Headers say "base/result.h": the folder include/caisson is on the path too.
  target_include_directories(caisson_base INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/caisson>)
  set_target_properties(caisson_base PROPERTIES EXPORT_NAME base)
  set_target_properties(caisson_sys PROPERTIES EXPORT_NAME sys)
  target_compile_features(caisson_base INTERFACE cxx_std_20)
  install(TARGETS caisson_base caisson_sys EXPORT caisson ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(DIRECTORY ${CMAKE_SOURCE_DIR}/include/caisson DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(DIRECTORY ${CMAKE_SOURCE_DIR}/base DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/caisson
          FILES_MATCHING PATTERN "*.h")
  install(EXPORT caisson NAMESPACE caisson:: FILE caisson-config.cmake
          DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/caisson)
  # Relative, so that `cmake --install --prefix` and moved trees work.
  file(RELATIVE_PATH SYS_PREFIX_FROM_PC /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
  configure_file(${CMAKE_SOURCE_DIR}/cmake/caisson-sys.pc.in ${CMAKE_BINARY_DIR}/caisson-sys.pc @ONLY)
  install(FILES ${CMAKE_BINARY_DIR}/caisson-sys.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endif()

# Only where everything is built: the whole of the tree is installed.
if(NOT CAISSON_SANITIZE AND TARGET caisson_sys)
  add_test(NAME install_test COMMAND ${CMAKE_SOURCE_DIR}/tools/install_test/run.sh ${CMAKE_BINARY_DIR}
           ${CMAKE_CXX_COMPILER} $<IF:$<TARGET_EXISTS:caisson>,yes,no>)
  set_tests_properties(install_test PROPERTIES LABELS lint TIMEOUT 120)
endif()
