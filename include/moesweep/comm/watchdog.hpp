// A thread that ends the process when a collective waits too long, so that a dead or stuck rank never hangs the others.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

namespace moesweep::comm::watchdog {

/// The timeout of collectives from now on, in seconds. The thread starts with the first guarded collective.
void set_timeout(double seconds);

/// Called once, before the process ends, with the sentence that names rank and collective (a journal line, for example).
void on_timeout(std::function<void(const std::string&)> callback);

/// The rank named in messages.
void set_rank(int rank, int size);

/// From now on the collective at hand is written to that file, which outlives a killed process; an empty path removes the file and ends that.
/// What cannot be written is left out.
void record_in(const std::filesystem::path& file);

/// What such a file says, "in 'gradients', its collective number 120", or "past" it; empty when it says nothing.
std::string recorded_in(const std::filesystem::path& file);

/// Guards one collective: while it lives, the clock runs.
class Guard {
 public:
  explicit Guard(const char* what);
  ~Guard();
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;
};

}  // namespace moesweep::comm::watchdog
