# `cmake --install` gives a tree that runs: the program finds LibTorch, HDF5 and MPI by RPATH, and its configs beside itself.
if(TARGET moesweep)
  # INSTALL_RPATH_USE_LINK_PATH leaves out folders inside the source tree, where .venv and its LibTorch lie.
  set_target_properties(moesweep PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON INSTALL_RPATH "${TORCH_INSTALL_PREFIX}/lib")
  install(TARGETS moesweep moesweep-check RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(DIRECTORY configs/ DESTINATION ${CMAKE_INSTALL_DATADIR}/moesweep/configs)
install(DIRECTORY jobs/ DESTINATION ${CMAKE_INSTALL_DATADIR}/moesweep/jobs USE_SOURCE_PERMISSIONS)
install(DIRECTORY include/moesweep DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
