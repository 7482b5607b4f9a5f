// A thread that ends the process when a collective waits too long, so that a dead or stuck rank never hangs the others.
#pragma once

#include <functional>
#include <string>

namespace moesweep::comm::watchdog {

/// The timeout of collectives from now on, in seconds. The thread starts with the first guarded collective.
void set_timeout(double seconds);

/// Called once, before the process ends, with the sentence that names rank and collective (a journal line, for example).
void on_timeout(std::function<void(const std::string&)> callback);

/// The rank named in messages.
void set_rank(int rank, int size);

/// Guards one collective: while it lives, the clock runs.
class Guard {
 public:
  explicit Guard(const char* what);
  ~Guard();
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;
};

}  // namespace moesweep::comm::watchdog
