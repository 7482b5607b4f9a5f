// Where a number came from: build, machine, job, command.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "moesweep/comm/mpi.hpp"
#include "moesweep/core/json.hpp"

namespace moesweep::launch {

/// Version, git, compiler, MPI, the libraries given by name, host, system, CPU model, GPUs, ranks, working folder, command line, Slurm ids and
/// those environment variables that a list in the source names: every reader of the results sees them. The caller adds what belongs to a trial.
Json provenance(const std::vector<std::string>& command_line, std::int64_t ranks, const std::map<std::string, std::string>& libraries);

/// Whether `provenance` tells this variable's value.
bool is_told(std::string_view variable);

/// A machine as `hosts` lists it: name, CPU model, GPUs.
Json machine_facts();
/// Collective. The machines of the ranks: each once in the order of their first ranks, with how many ranks it has.
Json machines_of(const comm::Communicator& ranks);

std::string host_name();
/// From /proc/cpuinfo; "unknown" elsewhere.
std::string cpu_model();
/// Models of this machine's NVIDIA GPUs, as the driver lists them; empty without one.
std::vector<std::string> gpu_models();
/// The MPI that the program was built with, "Open MPI 4.1.4".
std::string mpi_version();

}  // namespace moesweep::launch
