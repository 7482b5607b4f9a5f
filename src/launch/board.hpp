// The board: what the launches that share a folder tell each other while they run, so that nobody tries in vain what others have claimed.
// A hint and not the truth: a line that is lost costs one look at a claim.
#pragma once

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace moesweep::launch {

/// DIR/journal/board: a line `C ID` for each claim, `F ID` for each trial that ended otherwise than done; other lines are passed over, and only a
/// regular file is read or written. Any thread may call.
class Board {
 public:
  /// Only what comes behind `from` is read.
  Board(std::filesystem::path sweep_folder, std::int64_t from) : file_(file_of(sweep_folder)), read_until_(from) {}

  static std::filesystem::path file_of(const std::filesystem::path& sweep_folder) { return sweep_folder / "journal" / "board"; }
  /// Its length now, 0 when it is not there.
  static std::int64_t length(const std::filesystem::path& sweep_folder);

  void claimed(const std::string& id) { write('C', id); }
  void failed(const std::string& id) { write('F', id); }
  /// Ids claimed since the last call, by anybody.
  std::vector<std::string> new_claims();
  /// Trials that failed since the beginning of this launch.
  std::int64_t failures();

 private:
  void write(char kind, const std::string& id) const;
  void read();  // with the mutex held
  void take(std::string_view line);

  std::filesystem::path file_;
  std::mutex mutex_;
  std::int64_t read_until_ = 0, failures_ = 0;
  std::string torn_;  ///< a line whose end is not there yet
  std::vector<std::string> claims_;
};

}  // namespace moesweep::launch
