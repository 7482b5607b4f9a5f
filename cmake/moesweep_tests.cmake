# Registration of tests: one line each, always with a timeout.
#   moesweep_test(NAME SOURCES a.cpp ... USES rooms [RANKS n ...] [TIMEOUT seconds] [LABELS l ...] [TORCH])
# makes one executable NAME and a ctest entry NAME; with RANKS, one entry NAME_rN per rank count under mpirun.
# All executables share tests/support/main.cpp, which gathers every rank's failures to rank 0.
find_package(GTest QUIET)
if(NOT GTest_FOUND)
  moesweep_missing(GoogleTest "libgtest-dev")
endif()
find_program(MPIRUN_PROGRAM NAMES mpirun REQUIRED)
set(MOESWEEP_TEST_ENVIRONMENT "OMP_NUM_THREADS=1;OMPI_MCA_btl_vader_single_copy_mechanism=none;OMPI_MCA_rmaps_base_oversubscribe=1;OMPI_MCA_mpi_yield_when_idle=1"
  "MOESWEEP_SOURCE_DIR=${CMAKE_SOURCE_DIR}" "MOESWEEP_BINARY_DIR=${CMAKE_BINARY_DIR}"
  "XDG_CONFIG_HOME=${CMAKE_BINARY_DIR}/no_config"  # no calibration of this machine in expected times
  "XDG_CACHE_HOME=${CMAKE_BINARY_DIR}/cache")      # what is remembered of token stores stays out of the home folder
if(MOESWEEP_SANITIZE)
  list(APPEND MOESWEEP_TEST_ENVIRONMENT "ASAN_OPTIONS=detect_leaks=0")
endif()

function(moesweep_test name)
  cmake_parse_arguments(ARG "TORCH" "TIMEOUT" "SOURCES;USES;RANKS;LABELS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 60)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE moesweep_test_main ${ARG_USES} GTest::gtest moesweep_warnings)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests ${CMAKE_SOURCE_DIR}/src)
  if(ARG_TORCH)
    target_link_libraries(${name} PRIVATE moesweep_torch)
    moesweep_use_torch_pch(${name})
  endif()
  if(ARG_RANKS)
    foreach(ranks IN LISTS ARG_RANKS)
      moesweep_add_test(${name}_r${ranks} TIMEOUT ${ARG_TIMEOUT} PROCESSORS ${ranks} LABELS mpi ${ARG_LABELS}
        COMMAND ${MPIRUN_PROGRAM} --allow-run-as-root --oversubscribe --bind-to none -n ${ranks} $<TARGET_FILE:${name}>)
    endforeach()
  else()
    moesweep_add_test(${name} TIMEOUT ${ARG_TIMEOUT} LABELS ${ARG_LABELS} COMMAND $<TARGET_FILE:${name}>)
  endif()
endfunction()

# A ctest entry for any command, with the test environment.
function(moesweep_add_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT;PROCESSORS;WORKING_DIRECTORY" "COMMAND;LABELS;ENVIRONMENT" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 60)
  endif()
  if(NOT ARG_PROCESSORS)
    set(ARG_PROCESSORS 1)
  endif()
  add_test(NAME ${name} COMMAND ${ARG_COMMAND})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} PROCESSORS ${ARG_PROCESSORS} LABELS "${ARG_LABELS}"
    ENVIRONMENT "${MOESWEEP_TEST_ENVIRONMENT};${ARG_ENVIRONMENT}" FAIL_REGULAR_EXPRESSION "HDF5-DIAG")
endfunction()
