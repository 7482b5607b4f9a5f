# Script mode: writes HEADER with the version of the git tree SOURCE, or FALLBACK outside git.
execute_process(COMMAND git -C ${SOURCE} describe --tags --always --dirty --abbrev=12 OUTPUT_VARIABLE version
  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE result)
if(NOT result EQUAL 0 OR version STREQUAL "")
  set(version "unknown")
endif()
set(text "#pragma once\n#define MOESWEEP_VERSION \"${FALLBACK}\"\n#define MOESWEEP_GIT_VERSION \"${version}\"\n")
set(old "")
if(EXISTS ${HEADER})
  file(READ ${HEADER} old)
endif()
if(NOT old STREQUAL text)
  file(WRITE ${HEADER} "${text}")
endif()
