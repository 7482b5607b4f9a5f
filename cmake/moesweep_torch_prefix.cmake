# LibTorch comes from CMAKE_PREFIX_PATH when that holds one, else from the torch wheel in .venv.
file(GLOB _torch_wheels ${CMAKE_SOURCE_DIR}/.venv/lib/python3.*/site-packages/torch)
foreach(_wheel IN LISTS _torch_wheels)
  list(APPEND CMAKE_PREFIX_PATH ${_wheel})
endforeach()
