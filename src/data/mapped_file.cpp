// See mapped_file.hpp.
#include "mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "moesweep/core/error.hpp"

namespace moesweep::data {

MappedFile::MappedFile(const std::filesystem::path& path) {
  const auto fail = [&path](const char* what, int code) {
    throw Error(ErrorKind::io, std::string(what) + ": " + std::strerror(code), path.string());
  };
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail("cannot open", errno);
  struct stat state {};
  if (::fstat(file, &state) != 0 || !S_ISREG(state.st_mode)) {
    const int code = S_ISREG(state.st_mode) ? errno : EISDIR;
    ::close(file);
    fail("cannot be read", code);
  }
  if (const auto size = static_cast<std::size_t>(state.st_size); size > 0) {  // an empty mapping is refused by the system
    void* start = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
    const int code = errno;
    ::close(file);
    if (start == MAP_FAILED) fail("cannot be mapped into memory", code);
    bytes_ = {static_cast<const std::byte*>(start), size};
  } else {
    ::close(file);
  }
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

}  // namespace moesweep::data
