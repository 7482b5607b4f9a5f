// libhdf5 itself can crash on a file that was made to harm it. So a file that is not known to be our own writing is first read by a child process,
// the program moesweep-check, with limits of memory and time. What ends that process is damage; what it survives, this process survives too.
#pragma once

#include <filesystem>

#include "hdf5.hpp"

namespace moesweep::store {

/// Limits of the child for a file: address space, and CPU time as a function of the file's length.
inline constexpr std::size_t kCheckMemoryBytes = std::size_t{4} << 30;
inline constexpr double kCheckSeconds = 20, kCheckBytesPerSecond = 20e6;

/// Lets the child read the file. A `corrupt` error when that ended it, or took more than its limits; an `io` error when the child could not be
/// started or was killed from outside, which says nothing about the file. The child stays for further files, and ends when it has nothing to do.
void check_in_child(const std::filesystem::path& path, h5::Origin origin);

/// While one lives, `check_in_child` does nothing: for fuzzers and tests, which want to reach the checks in this process.
class WithoutChild {
 public:
  WithoutChild();
  ~WithoutChild();
  WithoutChild(const WithoutChild&) = delete;
};

/// What the child does: opens the file, and reads everything that a reader of this room may read. Errors say that it is damaged.
void read_everything(const std::filesystem::path& path, h5::Origin origin);

/// The life of the child: answers requests on the socket `channel` until it is closed or silent for two seconds.
void serve_checks(int channel);

}  // namespace moesweep::store
