# find_package(moe_runtime) gives the target moe::runtime. Installed as PREFIX/lib/cmake/moe_runtime/moe_runtime-config.cmake.
get_filename_component(_moe_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT TARGET moe::runtime)
  add_library(moe::runtime SHARED IMPORTED)
  set_target_properties(moe::runtime PROPERTIES
    IMPORTED_LOCATION "${_moe_prefix}/lib/libmoe_capi.so"
    IMPORTED_NO_SONAME TRUE
    INTERFACE_INCLUDE_DIRECTORIES "${_moe_prefix}/include")
endif()
unset(_moe_prefix)
