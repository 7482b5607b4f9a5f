// SHA-256 digests, for trial ids and for what is checked on disk.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace moesweep {

/// Feeds bytes in pieces; `hex()` gives 64 lower-case hexadecimal digits, once.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  Sha256& add(std::span<const std::byte> bytes);
  Sha256& add(std::string_view text);
  std::string hex();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string sha256_hex(std::string_view text);

/// Digest of a file's bytes; an `io` error names the file when it cannot be read.
std::string sha256_of_file(const std::filesystem::path& path);

}  // namespace moesweep
