// What a person sees while a sweep runs: a bar on a terminal, else a line now and then. One rank of the world shows it, from the journal.
#pragma once

#include <condition_variable>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace moesweep::launch {

enum class Display { bar, lines, none };
/// A bar when standard error ends on a terminal, directly or through mpirun, else lines; MOESWEEP_PROGRESS=bar|lines|none decides when it is set.
Display display_of_this_process();

/// Shows progress of the given trials from a thread of its own, for the life of the object.
class Progress {
 public:
  Progress(std::filesystem::path sweep_folder, std::vector<std::string> ids, Display display);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

 private:
  void watch();
  void show(bool last);

  std::filesystem::path folder_;
  std::vector<std::string> ids_;
  Display display_;
  std::size_t ended_at_start_ = 0;
  bool first_ = true;
  double started_seconds_ = 0.0;
  bool ending_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::thread thread_;
};

}  // namespace moesweep::launch
