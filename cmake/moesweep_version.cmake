# The version from git, baked in at build time: the header changes only when `git describe` does.
set(MOESWEEP_VERSION_HEADER ${CMAKE_BINARY_DIR}/generated/moesweep_git_version.hpp)
add_custom_target(moesweep_git_version
  COMMAND ${CMAKE_COMMAND} -DSOURCE=${CMAKE_SOURCE_DIR} -DHEADER=${MOESWEEP_VERSION_HEADER} -DFALLBACK=${PROJECT_VERSION}
          -P ${CMAKE_SOURCE_DIR}/cmake/write_git_version.cmake
  BYPRODUCTS ${MOESWEEP_VERSION_HEADER} COMMENT "")
