// See regular_file.hpp.
#include "regular_file.hpp"

#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "moesweep/core/error.hpp"
#include "moesweep/core/hash.hpp"
#include "moesweep/core/publish.hpp"

namespace moesweep::data {

RegularFile::RegularFile(std::filesystem::path path) : path_(std::move(path)), file_(open_regular(path_)) {
  try {
    bytes_ = state().bytes;
  } catch (...) {
    ::close(file_);
    throw;
  }
}

RegularFile::~RegularFile() {
  if (file_ >= 0) ::close(file_);
}

RegularFile::RegularFile(RegularFile&& other) noexcept
    : path_(std::move(other.path_)), file_(std::exchange(other.file_, -1)), bytes_(std::exchange(other.bytes_, 0)) {}

FileState RegularFile::state() const {
  struct stat status {};
  if (::fstat(file_, &status) != 0) throw_io("cannot read", path_, errno);
  return {static_cast<std::int64_t>(status.st_dev),
          static_cast<std::int64_t>(status.st_ino),
          status.st_size,
          {status.st_mtim.tv_sec, status.st_mtim.tv_nsec},
          {status.st_ctim.tv_sec, status.st_ctim.tv_nsec}};
}

void RegularFile::read(std::int64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t got = ::pread(file_, out.data(), out.size(), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_io("cannot read", path_, errno);
    if (got == 0)
      throw Error(ErrorKind::io, fmt::format("it ends at byte {}, and had {} bytes when it was opened: it was cut short meanwhile", offset, bytes_),
                  path_.string(), "bring the file back or build the store again, then run the same command again");
    out = out.subspan(static_cast<std::size_t>(got));
    offset += got;
  }
}

std::string RegularFile::sha256() const {
  constexpr std::int64_t kPart = std::int64_t{1} << 20;
  std::vector<std::byte> buffer(static_cast<std::size_t>(std::min(kPart, bytes_)));
  Sha256 hash;
  for (std::int64_t at = 0; at < bytes_; at += std::ssize(buffer)) {
    const auto part = std::span(buffer).first(static_cast<std::size_t>(std::min<std::int64_t>(std::ssize(buffer), bytes_ - at)));
    read(at, part);
    hash.add(part);
  }
  return hash.hex();
}

}  // namespace moesweep::data
