// See board.hpp.
#include "board.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <utility>

namespace moesweep::launch {

std::int64_t Board::length(const std::filesystem::path& sweep_folder) {
  std::error_code absent;
  const auto size = std::filesystem::file_size(file_of(sweep_folder), absent);
  return absent ? 0 : static_cast<std::int64_t>(size);
}

void Board::write(char kind, const std::string& id) const {
  const int file = ::open(file_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (file < 0) return;
  const std::string line = std::string(1, kind) + ' ' + id + '\n';
  if (::write(file, line.data(), line.size()) < 0) {
    // A hint that is not told costs the others a look.
  }
  ::close(file);
}

void Board::read() {
  const int file = ::open(file_.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  char buffer[1 << 16];
  for (;;) {
    const ssize_t count = ::pread(file, buffer, sizeof buffer, read_until_);
    if (count <= 0) break;
    read_until_ += count;
    torn_.append(buffer, static_cast<std::size_t>(count));
  }
  ::close(file);
  std::size_t first = 0;
  for (std::size_t end = torn_.find('\n'); end != std::string::npos; end = torn_.find('\n', first)) {
    if (end > first + 2 && torn_[first] == 'C') claims_.push_back(torn_.substr(first + 2, end - first - 2));
    if (end > first + 2 && torn_[first] == 'F') ++failures_;
    first = end + 1;
  }
  torn_.erase(0, first);
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
