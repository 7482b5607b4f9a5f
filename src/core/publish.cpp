// See include/moesweep/core/publish.hpp.
#include "moesweep/core/publish.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <random>
#include <utility>

#include "moesweep/core/error.hpp"

namespace moesweep {

namespace {

struct Descriptor {
  int file = -1;
  ~Descriptor() {
    if (file >= 0) ::close(file);
  }
};

/// What stands in the way, in words; empty for a regular file.
std::string kind_of(mode_t mode) {
  if (S_ISREG(mode)) return "";
  if (S_ISLNK(mode)) return "a link";
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

std::string read_descriptor(int file, const std::filesystem::path& path, std::size_t most_bytes) {
  std::string text;
  struct stat status {};
  if (::fstat(file, &status) == 0 && status.st_size > 0) text.reserve(std::min(static_cast<std::size_t>(status.st_size), most_bytes) + 1);
  constexpr std::size_t kPart = std::size_t{1} << 16;
  for (std::size_t done = 0;;) {
    text.resize(done + std::max(kPart, text.capacity() - done));
    const ssize_t got = ::read(file, text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) {
      text.resize(done);
      continue;
    }
    if (got < 0) throw_io("cannot read", path, errno);
    done += static_cast<std::size_t>(got);
    text.resize(done);
    if (done > most_bytes) throw Error(ErrorKind::io, fmt::format("it is longer than {} bytes", most_bytes), path.string());
    if (got == 0) return text;
  }
}

}  // namespace

void throw_io(const std::string& what, const std::filesystem::path& path, int code) {
  const bool full = code == ENOSPC || code == EDQUOT || code == EFBIG, closed = code == EROFS || code == EACCES;
  const std::string hint = full     ? "the disk, the quota or a file size limit is full: free space, then run the same command again"
                           : closed ? "there is no right to it: check its permissions, or choose another folder with --out"
                                    : "";
  throw Error(ErrorKind::io, what + ": " + std::strerror(code), path.string(), hint);
}

void flush_to_disk(const std::filesystem::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) throw_io("cannot open", path, errno);
  const int code = ::fsync(file) == 0 ? 0 : errno;
  ::close(file);
  if (code != 0) throw_io("cannot flush to disk", path, code);
}

std::filesystem::path temporary_beside(const std::filesystem::path& path) {
  static std::atomic<unsigned> counter{0};
  // Hosts, containers of one host and processes do not meet by chance; an attacker who could guess it finds `create_exclusively`.
  static const unsigned salt = std::random_device()();
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  return path.parent_path() / fmt::format(".{}.{}.{}.{:08x}.{}.tmp", path.filename().string(), host, ::getpid(), salt, counter++);
}

void create_exclusively(const std::filesystem::path& path, const std::filesystem::path& shown) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
  if (file < 0) throw_io("cannot write", shown, errno);
  ::close(file);
}

bool is_absent(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::symlink_status(path, ignored).type() == std::filesystem::file_type::not_found;
}

void require_replaceable(const std::filesystem::path& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return;
    throw_io("cannot write", path, errno);
  }
  if (const std::string kind = kind_of(status.st_mode); !kind.empty())
    throw Error(ErrorKind::io, fmt::format("it is {}, and only a regular file is replaced", kind), path.string(),
                "name another file, or remove it yourself");
}

void publish(const std::filesystem::path& temporary, const std::filesystem::path& path) {
  try {
    require_replaceable(path);
    flush_to_disk(temporary);
    if (std::rename(temporary.c_str(), path.c_str()) != 0) throw_io("cannot rename " + temporary.string() + " to it", path, errno);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    throw;
  }
  flush_to_disk(path.has_parent_path() ? path.parent_path() : std::filesystem::path("."));
}

void publish_bytes(const std::filesystem::path& path, std::span<const std::byte> bytes, unsigned mode) {
  const auto temporary = temporary_beside(path);
  {
    const Descriptor out{::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode)};
    if (out.file < 0) throw_io("cannot write", path, errno);
    int code = 0;
    for (std::size_t done = 0; code == 0 && done < bytes.size();) {
      const ssize_t put = ::write(out.file, bytes.data() + done, bytes.size() - done);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) code = errno;
      else done += static_cast<std::size_t>(put);
    }
    if (code != 0) {
      std::error_code ignored;
      std::filesystem::remove(temporary, ignored);
      throw_io("cannot write", path, code);
    }
  }
  publish(temporary, path);
}

void publish_text(const std::filesystem::path& path, std::string_view text, unsigned mode) {
  publish_bytes(path, std::as_bytes(std::span(text.data(), text.size())), mode);
}

int open_regular(const std::filesystem::path& path) {
  // O_NONBLOCK: a pipe without a writer is opened at once, then refused.
  Descriptor in{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)};
  if (in.file < 0) throw_io("cannot read", path, errno);
  struct stat status {};
  if (::fstat(in.file, &status) != 0) throw_io("cannot read", path, errno);
  if (S_ISDIR(status.st_mode)) throw_io("cannot read", path, EISDIR);
  if (const std::string kind = kind_of(status.st_mode); !kind.empty())
    throw Error(ErrorKind::io, fmt::format("it is {}, not a regular file", kind), path.string());
  return std::exchange(in.file, -1);
}

int open_to_append(const std::filesystem::path& path) {
  Descriptor out{::open(path.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0666)};
  if (out.file < 0) throw_io("cannot open", path, errno);
  struct stat status {};
  if (::fstat(out.file, &status) != 0) throw_io("cannot open", path, errno);
  if (const std::string kind = kind_of(status.st_mode); !kind.empty())
    throw Error(ErrorKind::io, fmt::format("it is {}, not a regular file", kind), path.string());
  return std::exchange(out.file, -1);
}

std::string read_text(const std::filesystem::path& path, std::size_t most_bytes) {
  const Descriptor in{open_regular(path)};
  return read_descriptor(in.file, path, most_bytes);
}

}  // namespace moesweep
