// A file mapped into memory, read only.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace moesweep::data {

class MappedFile {
 public:
  /// An `io` error names the file when it cannot be opened or mapped.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace moesweep::data
