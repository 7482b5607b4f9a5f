// A thread that ends the process when a collective waits too long, so that a dead or stuck rank never hangs the others.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

namespace moesweep::comm::watchdog {

/// The timeout of collectives from now on, in seconds. The thread starts with the first guarded collective.
void set_timeout(double seconds);

double timeout_seconds();

/// For waits that may last as long as other ranks train.
inline constexpr double kNoTimeout = 1e9;

/// Called once, before the process ends, with the sentence that names rank and collective (a journal line, for example).
void on_timeout(std::function<void(const std::string&)> callback);

/// The rank named in messages.
void set_rank(int rank, int size);

/// From now on the collective at hand is written to that file, which outlives a killed process; an empty path removes the file and ends that.
/// What cannot be written is left out.
void record_in(const std::filesystem::path& file);

/// Notes in that file that this process was asked to stop; nothing where none is written. From any thread.
void record_stop();

/// Whether such a file says so.
bool stop_recorded_in(const std::filesystem::path& file);

/// What such a file says, "in 'gradients', its collective number 120", or "past" it; empty when it says nothing.
std::string recorded_in(const std::filesystem::path& file);

/// Ends the process as the thread does: writes `[Rank r/n] waited longer than ...` with the collective's name, or, when `failure` is not empty,
/// `[Rank r/n] failed in the collective 'WHAT': FAILURE`, tells the callback, and exits with ExitCode::mpi. Before that `last_act` runs, which is
/// given some seconds. From any thread; when several call it, the first one is heard.
[[noreturn]] void end_process(const char* what, const std::string& failure = {}, const std::function<void()>& last_act = {});

/// Ends the process for another reason: writes `[Rank r/n] SENTENCE`, runs `last_act` as above, and exits with ExitCode::mpi.
[[noreturn]] void end_process_saying(const std::string& sentence, const std::function<void()>& last_act = {});

/// Guards one collective: while it lives, the clock runs. Who watches a deadline by itself gives the thread some more seconds by `grace_seconds`,
/// so that it only steps in when the guarded code itself is stuck.
class Guard {
 public:
  explicit Guard(const char* what, double grace_seconds = 0.0);
  ~Guard();
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;
};

}  // namespace moesweep::comm::watchdog
