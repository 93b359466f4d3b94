# What is installed: headers, the static C++ layers, the C library, its pkg-config file and the CMake package.
#
# The package has one component per layer, named as the target (base, attention, index, ..., engine), and `c`. The two kinds
# are separate export sets, so that `c` needs nothing but the shared library.
include(CMakePackageConfigHelpers)

# What the static layers need from outside; swell-config.cmake finds them for its C++ components.
set(SWELL_DEPENDENCIES Threads TBB absl hwy)

get_property(SWELL_LAYERS GLOBAL PROPERTY SWELL_LAYERS)
set(SWELL_COMPONENTS)
foreach(layer IN LISTS SWELL_LAYERS)
  get_target_property(component ${layer} EXPORT_NAME)
  list(APPEND SWELL_COMPONENTS ${component})
endforeach()
set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/swell)

# --- C++ layers -------------------------------------------------------------------------------------------------------
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/swell DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT Development
  FILES_MATCHING PATTERN "*.h" PATTERN faiss_index.h EXCLUDE)
install(TARGETS ${SWELL_LAYERS} EXPORT swell-cpp-targets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT Development)
install(EXPORT swell-cpp-targets NAMESPACE swell:: DESTINATION ${package_folder} COMPONENT Development)

# --- C library --------------------------------------------------------------------------------------------------------
if(TARGET swell_c)
  install(FILES ${PROJECT_SOURCE_DIR}/capi/include/swell/swell.h ${PROJECT_SOURCE_DIR}/capi/include/swell/gpu.h
    ${PROJECT_BINARY_DIR}/include/swell/version.h
    DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/swell COMPONENT Development)
  install(TARGETS swell_c EXPORT swell-c-targets
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT Runtime NAMELINK_COMPONENT Development)
  install(EXPORT swell-c-targets NAMESPACE swell:: DESTINATION ${package_folder} COMPONENT Development)

  # Relative to where the file lies, so that an installed tree may be moved.
  if(IS_ABSOLUTE ${CMAKE_INSTALL_LIBDIR} OR IS_ABSOLUTE ${CMAKE_INSTALL_INCLUDEDIR})
    set(SWELL_PC_PREFIX ${CMAKE_INSTALL_PREFIX})
    set(SWELL_PC_LIBDIR ${CMAKE_INSTALL_FULL_LIBDIR})
    set(SWELL_PC_INCLUDEDIR ${CMAKE_INSTALL_FULL_INCLUDEDIR})
  else()
    file(RELATIVE_PATH up "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
    string(REGEX REPLACE "/$" "" up "${up}")
    set(SWELL_PC_PREFIX "\${pcfiledir}/${up}")
    set(SWELL_PC_LIBDIR "\${prefix}/${CMAKE_INSTALL_LIBDIR}")
    set(SWELL_PC_INCLUDEDIR "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
  endif()
  set(SWELL_PC_CFLAGS "")
  configure_file(${CMAKE_CURRENT_LIST_DIR}/swell.pc.in ${PROJECT_BINARY_DIR}/package/swell.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/package/swell.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig
    COMPONENT Development)
endif()

# --- package ----------------------------------------------------------------------------------------------------------
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/swell-config.cmake.in
  ${PROJECT_BINARY_DIR}/package/swell-config.cmake INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/package/swell-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/package/swell-config.cmake ${PROJECT_BINARY_DIR}/package/swell-config-version.cmake
  DESTINATION ${package_folder} COMPONENT Development)
