// A regular file that stays open for reading. Every read names its place and length, so a file that is cut short or fails meanwhile is an error
// of that read, never a signal.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace moesweep::data {

/// A time of a file, as the file system keeps it.
struct FileTime {
  std::int64_t seconds = 0;  ///< since 1970
  std::int64_t nanoseconds = 0;

  auto operator<=>(const FileTime&) const = default;
};

/// What changes with a file's content, unless somebody takes care that it does not.
struct FileState {
  std::int64_t device = 0, inode = 0, bytes = 0;
  FileTime modified, changed;  ///< of the content; of the content, name, owner or mode

  bool operator==(const FileState&) const = default;
};

class RegularFile {
 public:
  /// An `io` error names the file when it cannot be opened or is no regular file.
  explicit RegularFile(std::filesystem::path path);
  ~RegularFile();
  RegularFile(RegularFile&& other) noexcept;
  RegularFile& operator=(RegularFile&&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::int64_t bytes() const { return bytes_; }  ///< when it was opened
  FileState state() const;                       ///< now

  /// Bytes [offset, offset + out.size()), by one system call where that gives them all. An `io` error names the file when it has become shorter or
  /// cannot be read. Several threads may read at once.
  void read(std::int64_t offset, std::span<std::byte> out) const;
  /// SHA-256 of the bytes that it had when it was opened, 64 hexadecimal digits; errors as of `read`.
  std::string sha256() const;

 private:
  std::filesystem::path path_;
  int file_ = -1;
  std::int64_t bytes_ = 0;
};

}  // namespace moesweep::data
