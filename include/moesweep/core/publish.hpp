// Atomic publishing of files: a reader sees the old file or the whole new one, also after a crash.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace moesweep {

/// A name beside `path` that no other process uses; the caller writes it, then calls `publish`.
std::filesystem::path temporary_beside(const std::filesystem::path& path);

/// Flushes `temporary` to disk, renames it to `path`, and flushes the folder. Throws an `io` error that names the file; the old file then stays,
/// and the temporary one goes.
void publish(const std::filesystem::path& temporary, const std::filesystem::path& path);

/// Writes `text` and publishes it as `path`; the folder must exist.
void publish_text(const std::filesystem::path& path, std::string_view text);

/// Flushes a file, or the names in a folder, to disk.
void flush_to_disk(const std::filesystem::path& path);

/// Throws the `io` error of a system call that failed with the error number `code`: `what`, the system's words, and what to do where that is
/// known (a full disk, a missing right).
[[noreturn]] void throw_io(const std::string& what, const std::filesystem::path& path, int code);

/// The whole file; an `io` error names it when it cannot be read.
std::string read_text(const std::filesystem::path& path);

}  // namespace moesweep
