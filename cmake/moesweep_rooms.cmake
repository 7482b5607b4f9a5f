# A room is one library target, moesweep::NAME, whose public headers are include/moesweep/NAME.
#   moesweep_room(NAME SOURCES a.cpp ... USES targets PRIVATE_USES targets [TORCH])
# With MOESWEEP_FUZZ only rooms without torch are targets. TORCH compiles with the shared precompiled header of torch.
function(moesweep_room name)
  cmake_parse_arguments(ARG "TORCH" "" "SOURCES;USES;PRIVATE_USES" ${ARGN})
  if(MOESWEEP_FUZZ AND ARG_TORCH)
    return()
  endif()
  set(target moesweep_${name})
  add_library(${target} STATIC ${ARG_SOURCES})
  add_library(moesweep::${name} ALIAS ${target})
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include> PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_link_libraries(${target} PUBLIC ${ARG_USES} PRIVATE ${ARG_PRIVATE_USES} moesweep_warnings)
  if(ARG_TORCH)
    target_link_libraries(${target} PUBLIC moesweep_torch)
    moesweep_use_torch_pch(${target})
  endif()
endfunction()

# One precompiled torch header for all who use torch (it is some 700 MB on disk). It was made with -fPIC, so executables use that
# in place of CMake's -fPIE.
function(moesweep_use_torch_pch target)
  get_target_property(type ${target} TYPE)
  if(type STREQUAL EXECUTABLE)
    set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
    target_compile_options(${target} PRIVATE -fPIC)
  endif()
  target_precompile_headers(${target} REUSE_FROM moesweep_torch_pch)
endfunction()
