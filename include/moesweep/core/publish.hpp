// Atomic publishing of files, and reading of whole ones. A reader sees the old file or the whole new one, also after a crash. Nothing is written
// through a link, and nothing but a regular file is replaced.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace moesweep {

/// A name beside `path` that no other process uses. The caller creates it with `create_exclusively`, writes it, then calls `publish`.
std::filesystem::path temporary_beside(const std::filesystem::path& path);

/// Creates an empty file, which must not be there: a link of that name, whatever it points to, is an `io` error that names `shown`.
void create_exclusively(const std::filesystem::path& path, const std::filesystem::path& shown);

/// Whether nothing has that name. A link that leads nowhere is something, and so is what cannot be looked at.
bool is_absent(const std::filesystem::path& path);

/// An `io` error that names `path` unless it is absent or a regular file: links, folders, devices and pipes are not replaced.
void require_replaceable(const std::filesystem::path& path);

/// Flushes `temporary` to disk, renames it to `path`, and flushes the folder. Throws an `io` error that names the file, also when
/// `require_replaceable` does; the old file then stays, and the temporary one goes.
void publish(const std::filesystem::path& temporary, const std::filesystem::path& path);

/// Writes the bytes or the text and publishes them as `path`; the folder must exist. On failure nothing is left behind. The file's permissions are
/// `mode`, less what the umask takes away: 0777 for a program.
void publish_bytes(const std::filesystem::path& path, std::span<const std::byte> bytes, unsigned mode = 0666);
void publish_text(const std::filesystem::path& path, std::string_view text, unsigned mode = 0666);

/// Flushes a file, or the names in a folder, to disk.
void flush_to_disk(const std::filesystem::path& path);

/// Throws the `io` error of a system call that failed with the error number `code`: `what`, the system's words, and what to do where that is
/// known (a full disk, a missing right).
[[noreturn]] void throw_io(const std::string& what, const std::filesystem::path& path, int code);

/// What `read_text` reads at most, in bytes.
inline constexpr std::size_t kMostTextBytes = std::size_t{1} << 31;

/// The whole of a regular file; an `io` error names it when it cannot be read, is a pipe or a device, or is longer than `most_bytes`.
std::string read_text(const std::filesystem::path& path, std::size_t most_bytes = kMostTextBytes);

/// Opens a regular file for reading and gives the descriptor, which the caller closes. Never waits for a pipe. `io` errors as those of `read_text`.
int open_regular(const std::filesystem::path& path);
/// Opens a regular file for appending, creating it where it is absent; never through a link. `io` errors name it.
int open_to_append(const std::filesystem::path& path);

}  // namespace moesweep
