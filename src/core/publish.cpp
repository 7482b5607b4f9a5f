// See include/moesweep/core/publish.hpp.
#include "moesweep/core/publish.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "moesweep/core/error.hpp"

namespace moesweep {

void throw_io(const std::string& what, const std::filesystem::path& path, int code) {
  const bool full = code == ENOSPC || code == EDQUOT || code == EFBIG, closed = code == EROFS || code == EACCES;
  const std::string hint = full     ? "the disk, the quota or a file size limit is full: free space, then run the same command again"
                           : closed ? "there is no right to it: check its permissions, or choose another folder with --out"
                                    : "";
  throw Error(ErrorKind::io, what + ": " + std::strerror(code), path.string(), hint);
}

void flush_to_disk(const std::filesystem::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw_io("cannot open", path, errno);
  const int code = ::fsync(file) == 0 ? 0 : errno;
  ::close(file);
  if (code != 0) throw_io("cannot flush to disk", path, code);
}

std::filesystem::path temporary_beside(const std::filesystem::path& path) {
  static std::atomic<unsigned> counter{0};
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  return path.parent_path() /
         ("." + path.filename().string() + "." + host + "." + std::to_string(::getpid()) + "." + std::to_string(counter++) + ".tmp");
}

void publish(const std::filesystem::path& temporary, const std::filesystem::path& path) {
  try {
    flush_to_disk(temporary);
    if (std::rename(temporary.c_str(), path.c_str()) != 0) throw_io("cannot rename " + temporary.string() + " to it", path, errno);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    throw;
  }
  flush_to_disk(path.has_parent_path() ? path.parent_path() : std::filesystem::path("."));
}

void publish_text(const std::filesystem::path& path, std::string_view text) {
  const auto temporary = temporary_beside(path);
  {
    errno = 0;
    std::ofstream out(temporary, std::ios::binary);
    out.write(text.data(), static_cast<std::streamsize>(text.size()));
    out.flush();
    if (!out) {
      const int code = errno;
      std::error_code ignored;
      std::filesystem::remove(temporary, ignored);
      throw_io("cannot write", path, code == 0 ? EIO : code);
    }
  }
  publish(temporary, path);
}

std::string read_text(const std::filesystem::path& path) {
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  if (!in) throw_io("cannot read", path, errno == 0 ? EIO : errno);
  try {
    return {std::istreambuf_iterator<char>(in), {}};
  } catch (const std::ios_base::failure&) {  // thrown by the file's buffer, whatever the stream's mask
    throw_io("cannot read", path, errno == 0 ? EIO : errno);
  }
}

}  // namespace moesweep
