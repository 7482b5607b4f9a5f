# What -DMOESWEEP_CUDA=ON needs: CUDA::cudart, NCCL::nccl, and the target `torch` of a CUDA LibTorch. moesweep has no device code of its own, so
# neither nvcc nor a GPU is needed, and torch's own CMake files, which ask for a whole toolkit, are left alone.
set(_cuda_mend "bash jobs/setup.sh cuda (or give CUDA_HOME, NCCL_ROOT and CMAKE_PREFIX_PATH with a CUDA LibTorch)")

# The runtime of the Python environment fits its torch; a toolkit's does where there is none.
file(GLOB _cuda_hints ${MOESWEEP_VENV}/lib/python3.*/site-packages/nvidia/cu1[0-9])
list(APPEND _cuda_hints ${CUDA_HOME} $ENV{CUDA_HOME} $ENV{CUDA_PATH} /usr/local/cuda)
find_path(MOESWEEP_CUDART_INCLUDE cuda_runtime_api.h HINTS ${_cuda_hints} PATH_SUFFIXES include)
find_library(MOESWEEP_CUDART_LIBRARY NAMES cudart libcudart.so.13 libcudart.so.12 NAMES_PER_DIR HINTS ${_cuda_hints} PATH_SUFFIXES lib lib64)
if(NOT MOESWEEP_CUDART_INCLUDE OR NOT MOESWEEP_CUDART_LIBRARY)
  moesweep_missing("the CUDA runtime" "${_cuda_mend}")
endif()
add_library(CUDA::cudart UNKNOWN IMPORTED GLOBAL)
set_target_properties(CUDA::cudart PROPERTIES IMPORTED_LOCATION ${MOESWEEP_CUDART_LIBRARY})
target_include_directories(CUDA::cudart SYSTEM INTERFACE ${MOESWEEP_CUDART_INCLUDE})
if(EXISTS ${MOESWEEP_CUDART_INCLUDE}/cccl)  # where CUDA 13 keeps <nv/target>
  target_include_directories(CUDA::cudart SYSTEM INTERFACE ${MOESWEEP_CUDART_INCLUDE}/cccl)
endif()

find_package(NCCL)
if(NOT NCCL_FOUND)
  moesweep_missing(NCCL "${_cuda_mend}")
endif()
set_target_properties(NCCL::nccl PROPERTIES IMPORTED_GLOBAL TRUE)

find_file(MOESWEEP_TORCH_CUDA libtorch_cuda.so PATHS ${CMAKE_PREFIX_PATH} PATH_SUFFIXES lib NO_DEFAULT_PATH)
if(NOT MOESWEEP_TORCH_CUDA)
  moesweep_missing("a CUDA build of LibTorch" "${_cuda_mend}")
endif()
cmake_path(GET MOESWEEP_TORCH_CUDA PARENT_PATH _torch_lib)
cmake_path(GET _torch_lib PARENT_PATH TORCH_INSTALL_PREFIX)
set(TORCH_INCLUDE_DIRS ${TORCH_INSTALL_PREFIX}/include ${TORCH_INSTALL_PREFIX}/include/torch/csrc/api/include ${MOESWEEP_CUDART_INCLUDE})
file(STRINGS ${TORCH_INSTALL_PREFIX}/include/torch/headeronly/version.h _torch_lines REGEX "^#define TORCH_VERSION_(MAJOR|MINOR|PATCH) +[0-9]+")
string(REGEX REPLACE "[^0-9;]" "" _torch_numbers "${_torch_lines}")
string(REPLACE ";" "." Torch_VERSION "${_torch_numbers}")
add_library(torch INTERFACE IMPORTED GLOBAL)
# libtorch_cuda registers itself when it is loaded, so it stays although no symbol of it is used. The mathematical libraries that it needs are
# for a machine with a GPU, and may be missing where the program is only linked.
target_link_libraries(torch INTERFACE -Wl,--no-as-needed ${_torch_lib}/libtorch.so ${_torch_lib}/libtorch_cpu.so ${_torch_lib}/libtorch_cuda.so
  ${_torch_lib}/libc10_cuda.so ${_torch_lib}/libc10.so -Wl,--as-needed -Wl,--allow-shlib-undefined CUDA::cudart)
target_compile_definitions(torch INTERFACE MOESWEEP_CUDA=1)
message(STATUS "CUDA: LibTorch ${Torch_VERSION} in ${TORCH_INSTALL_PREFIX}, NCCL ${NCCL_VERSION}, ${MOESWEEP_CUDART_LIBRARY}")
