// See board.hpp.
#include "board.hpp"

#include <unistd.h>

#include <utility>

#include "moesweep/core/error.hpp"
#include "moesweep/core/foreign_json.hpp"
#include "moesweep/core/publish.hpp"

namespace moesweep::launch {

std::int64_t Board::length(const std::filesystem::path& sweep_folder) {
  std::error_code absent;
  const auto size = std::filesystem::file_size(file_of(sweep_folder), absent);
  return absent ? 0 : static_cast<std::int64_t>(size);
}

void Board::write(char kind, const std::string& id) const {
  try {
    const int file = open_to_append(file_);
    const std::string line = std::string(1, kind) + ' ' + id + '\n';
    if (::write(file, line.data(), line.size()) < 0) {
      // A hint that is not told costs the others a look.
    }
    ::close(file);
  } catch (const Error&) {
    // The same.
  }
}

void Board::take(std::string_view line) {
  constexpr std::size_t kBefore = 2;  // "C " or "F "
  if (line.size() <= kBefore || line[1] != ' ' || !is_trial_id(line.substr(kBefore))) return;
  if (line[0] == 'C') claims_.emplace_back(line.substr(kBefore));
  if (line[0] == 'F') ++failures_;
}

void Board::read() {
  // More than this at a time is no board of ours: a line has 19 bytes.
  constexpr std::int64_t kMostBytes = std::int64_t{1} << 26;
  constexpr std::size_t kMostLine = 64;
  int file = -1;
  try {
    file = open_regular(file_);
  } catch (const Error&) {
    return;  // nobody has written yet, or it cannot be read just now
  }
  char buffer[1 << 16];
  for (std::int64_t total = 0; total < kMostBytes;) {
    const ssize_t count = ::pread(file, buffer, sizeof buffer, read_until_);
    if (count <= 0) break;
    read_until_ += count;
    total += count;
    torn_.append(buffer, static_cast<std::size_t>(count));
    std::size_t first = 0;
    for (std::size_t end = torn_.find('\n'); end != std::string::npos; end = torn_.find('\n', first)) {
      take(std::string_view(torn_).substr(first, end - first));
      first = end + 1;
    }
    torn_.erase(0, first);
    if (torn_.size() > kMostLine) torn_.assign(kMostLine, '?');  // no line of ours: its end is awaited
  }
  ::close(file);
}

std::vector<std::string> Board::new_claims() {
  const std::lock_guard lock(mutex_);
  read();
  return std::exchange(claims_, {});
}

std::int64_t Board::failures() {
  const std::lock_guard lock(mutex_);
  read();
  return failures_;
}

}  // namespace moesweep::launch
