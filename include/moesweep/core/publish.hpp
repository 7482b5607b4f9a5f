// Atomic publishing of files: a reader sees the old file or the whole new one, also after a crash.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace moesweep {

/// A name beside `path` that no other process uses; the caller writes it, then calls `publish`.
std::filesystem::path temporary_beside(const std::filesystem::path& path);

/// Flushes `temporary` to disk, renames it to `path`, and flushes the folder. Throws an `io` error that names the file; the old file then stays.
void publish(const std::filesystem::path& temporary, const std::filesystem::path& path);

/// Writes `text` and publishes it as `path`; the folder must exist.
void publish_text(const std::filesystem::path& path, std::string_view text);

/// The whole file; an `io` error names it when it cannot be read.
std::string read_text(const std::filesystem::path& path);

}  // namespace moesweep
