#!/usr/bin/env bash
# Installs what moesweep needs and builds it. Idempotent: what is there is left alone.
#   jobs/setup.sh packages [--tests]     system packages (apt) and the Python environment .venv
#   jobs/setup.sh build [PRESET [TARGET]]  configure and build a CMake preset (default: release, everything)
#   jobs/setup.sh cuda [--link-only]     a CUDA LibTorch and NCCL into .venv-cuda (several GB), then build/cuda/moesweep; needs no GPU and no nvcc.
#                                        --link-only leaves out what only a machine with a GPU needs (1.5 GB): the program links, and does not start
# Environment: MOESWEEP_NO_APT=1 never calls apt and takes what modules or CMAKE_PREFIX_PATH give (a cluster); MOESWEEP_JOBS=N compile jobs;
#   MOESWEEP_TORCH_INDEX=URL a package index that has LibTorch's CPU build, where pip's own would give a CUDA one; PYTHON=python3.12;
#   MOESWEEP_CUDA_TORCH=torch==VERSION the CUDA build of LibTorch that `cuda` installs; MOESWEEP_CUDA_TORCH_INDEX=URL the index that has it
set -euo pipefail
cd "$(dirname "$0")/.."

# command or file that proves a package : package
build_needs=(
  g++:g++ cmake:cmake ninja:ninja-build ccache:ccache git:git pkg-config:pkg-config
  mpicxx:libopenmpi-dev mpirun:openmpi-bin /usr/include/openssl/evp.h:libssl-dev
  /usr/include/hdf5/openmpi/hdf5.h:libhdf5-openmpi-dev /usr/include/yaml-cpp/yaml.h:libyaml-cpp-dev
  /usr/include/CLI/CLI.hpp:libcli11-dev /usr/include/fmt/core.h:libfmt-dev /usr/include/spdlog/spdlog.h:libspdlog-dev
  /usr/include/nlohmann/json.hpp:nlohmann-json3-dev /usr/include/Random123/philox.h:librandom123-dev
  /usr/include/gtest/gtest.h:libgtest-dev python3:python3
)
test_needs=(slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client chromium:chromium chromedriver:chromium-driver
  debootstrap:debootstrap clang-format-14:clang-format-14 clang-tidy-14:clang-tidy-14 clang++-14:clang-14
  /usr/lib/llvm-14/lib/clang/14.0.6/lib/linux/libclang_rt.fuzzer-x86_64.a:libclang-rt-14-dev)

say() { printf '\033[1m[setup]\033[0m %s\n' "$*"; }
die() { printf '[setup] FAILED: %s\n' "$*" >&2; exit 1; }

missing_packages() {
  local need proof
  for need in "$@"; do
    proof=${need%%:*}
    if [[ $proof == /* ]]; then [[ -e $proof ]] || echo "${need#*:}"
    else command -v "$proof" >/dev/null || [[ -x /usr/sbin/$proof ]] || echo "${need#*:}"; fi
  done
}

install_packages() {
  local missing; mapfile -t missing < <(missing_packages "$@")
  [[ ${#missing[@]} -gt 0 ]] || { say "system packages: all there"; return; }
  if [[ ${MOESWEEP_NO_APT:-0} == 1 ]] || ! command -v apt-get >/dev/null; then
    # Headers of modules lie anywhere: CMake finds and checks them. Commands must be on the PATH.
    local commands=() need
    for need in "$@"; do [[ $need == /* ]] || command -v "${need%%:*}" >/dev/null || commands+=("${need%%:*}"); done
    say "apt is not used here; not seen in Debian's places: ${missing[*]}
    On a cluster load modules for them, for example: gcc/12 or newer, cmake >= 3.25, ninja, openmpi, hdf5 (parallel,
    built with that OpenMPI), yaml-cpp, fmt, spdlog, nlohmann-json, cli11, random123, openssl, googletest, python >= 3.10,
    and give their prefixes by CMAKE_PREFIX_PATH; the configure step names what it does not find."
    [[ ${#commands[@]} -eq 0 ]] || die "these commands are not on the PATH: ${commands[*]}"
    return
  fi
  local sudo=""; [[ $(id -u) == 0 ]] || sudo="sudo -n"
  say "installing: ${missing[*]}"
  $sudo apt-get update -qq || die "apt-get update failed: is the network up, may this user call sudo?"
  # Its output stays in a variable: this may run as root, and a file in a folder that all may write to is a risk.
  local output
  output=$(DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" 2>&1) ||
    { printf '%s\n' "$output" | tail -n 20; die "apt-get install failed; the end of its output is above"; }
}

python_environment() {
  local python=${PYTHON:-python3} extras=$1 stamp
  stamp=.venv/.moesweep-$(cat analysis/pyproject.toml <(echo "$extras") | sha256sum | cut -c1-16)
  [[ -e $stamp ]] && { say "python environment: up to date"; return; }
  if [[ ! -x .venv/bin/python ]]; then
    say "creating .venv"
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then install_packages /usr/share/doc/python3-venv:python3-venv; fi
    "$python" -m venv .venv || die "$python -m venv failed: install python3-venv (3.10 or newer), or name another Python by PYTHON="
  fi
  say "python packages (torch 2.13.0 CPU, h5py, pandas, ...)"
  .venv/bin/python -c 'import torch, sys; sys.exit(torch.__version__.split("+")[0] != "2.13.0")' 2>/dev/null ||
    .venv/bin/pip install -q ${MOESWEEP_TORCH_INDEX:+--index-url "$MOESWEEP_TORCH_INDEX"} 'torch==2.13.0' ||
    die "pip install torch==2.13.0 failed; a package index with LibTorch's CPU build can be named by MOESWEEP_TORCH_INDEX"
  if [[ -e $(echo .venv/lib/python3.*/site-packages/torch/lib/libtorch_cuda.so) ]] && ! command -v nvcc >/dev/null; then
    die "pip gave a CUDA build of torch and there is no CUDA toolkit here: remove .venv, set MOESWEEP_TORCH_INDEX to an index of CPU builds, run this again"
  fi
  .venv/bin/pip install -q -e "analysis[$extras]" || die "pip install of analysis/ failed; see the lines above"
  rm -f .venv/.moesweep-*; touch "$stamp"
}

# A CUDA LibTorch in an environment of its own, so that .venv and its CPU build stay as they are.
cuda_environment() {
  local python=${PYTHON:-python3} what=$1 torch=${MOESWEEP_CUDA_TORCH:-torch==2.15.0} stamp site needs toolkit nccl
  stamp=.venv-cuda/.moesweep-$(sha256sum <<<"$torch $what" | cut -c1-16)
  [[ -e $stamp ]] && { say "CUDA environment: up to date"; return; }
  [[ -x .venv-cuda/bin/python ]] || { say "creating .venv-cuda"; "$python" -m venv .venv-cuda || die "$python -m venv failed: install python3-venv"; }
  local pip=(.venv-cuda/bin/pip install -q --no-warn-conflicts ${MOESWEEP_CUDA_TORCH_INDEX:+--index-url "$MOESWEEP_CUDA_TORCH_INDEX"})
  say "$torch with CUDA (about 1 GB to fetch)"
  if [[ $what == whole ]]; then
    "${pip[@]}" "$torch" || die "pip install $torch failed; another version can be named by MOESWEEP_CUDA_TORCH"
  else
    "${pip[@]}" --no-deps "$torch" || die "pip install $torch failed; another version can be named by MOESWEEP_CUDA_TORCH"
  fi
  site=$(echo .venv-cuda/lib/python3.*/site-packages)
  [[ -e $site/torch/lib/libtorch_cuda.so ]] || die "$torch is no CUDA build here; name another version by MOESWEEP_CUDA_TORCH"
  # The runtime's headers and NCCL, in the versions that this torch was built with.
  needs=$(sed -n 's/^Requires-Dist: \([^;]*\).*/\1/p' "$site"/torch-*.dist-info/METADATA)
  nccl=$(grep -o 'nvidia-nccl-cu[^ ]*' <<<"$needs" | head -n 1) || true
  toolkit=$(sed -n 's/^cuda-toolkit[^=]*\(==[^ ]*\).*/\1/p' <<<"$needs")
  say "NCCL (${nccl:-nvidia-nccl-cu13}) and the CUDA runtime's headers (cuda-toolkit${toolkit})"
  "${pip[@]}" "${nccl:-nvidia-nccl-cu13}" "cuda-toolkit[cudart,crt,cccl]$toolkit" || die "pip install of NCCL and the CUDA runtime failed; see the lines above"
  rm -f .venv-cuda/.moesweep-*; touch "$stamp"
}

case ${1:-} in
  packages)
    if [[ ${2:-} == --tests ]]; then install_packages "${build_needs[@]}" "${test_needs[@]}"; python_environment test
    else install_packages "${build_needs[@]}"; python_environment run; fi ;;
  build)
    preset=${2:-release}
    if [[ ! -f build/$preset/build.ninja ]]; then
      say "configuring preset $preset"
      cmake --preset "$preset" || die "configure failed; the last message above names the package to install"
    fi
    say "building preset $preset (a first build takes some minutes)"
    cmake --build "build/$preset" -j "${MOESWEEP_JOBS:-$(nproc)}" --target "${3:-all}" || die "build failed; the first error above is the one to read" ;;
  cuda)
    what=whole; [[ ${2:-} != --link-only ]] || what=link-only
    install_packages "${build_needs[@]}"
    cuda_environment "$what"
    bash "$0" build cuda moesweep
    say "linked: $(ls -l build/cuda/moesweep)" ;;
  *) sed -n '2,9p' "$0"; exit 2 ;;
esac
