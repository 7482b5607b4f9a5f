// Where a number came from: build, machine, job, command.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "moesweep/core/json.hpp"

namespace moesweep::launch {

/// Version, git, MPI, LibTorch (when given), host, CPU model, ranks, command line, Slurm ids and those environment variables
/// that a list in the source names: every reader of the results sees them. The caller adds what belongs to a trial.
Json provenance(const std::vector<std::string>& command_line, std::int64_t ranks, const std::string& libtorch_version);

std::string host_name();
/// From /proc/cpuinfo; "unknown" elsewhere.
std::string cpu_model();
/// The MPI that the program was built with, "Open MPI 4.1.4".
std::string mpi_version();

}  // namespace moesweep::launch
