// See own_files.hpp.
#include "own_files.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <stdio.h>  // renameat2
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>
#include <vector>

#include "moesweep/core/error.hpp"
#include "moesweep/core/publish.hpp"

namespace moesweep::launch {

namespace fs = std::filesystem;

namespace {

/// A folder that is held open, so that its name may change meanwhile; no link.
class Folder {
 public:
  explicit Folder(const fs::path& path)
      : file_(::open(path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)), code_(file_ < 0 ? errno : 0) {}
  ~Folder() {
    if (file_ >= 0) ::close(file_);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  int descriptor() const { return file_; }
  int code() const { return code_; }  ///< why it could not be opened

  /// 0 for a regular file of that name, else why it is none: an error number.
  int look_for_regular(const std::string& name) const {
    struct stat status {};
    if (::fstatat(file_, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) return errno;
    return S_ISREG(status.st_mode) ? 0 : S_ISLNK(status.st_mode) ? ELOOP : S_ISDIR(status.st_mode) ? EISDIR : EINVAL;
  }

  /// Renames within the folder; EEXIST when `to` is there.
  int rename_to_new(const std::string& from, const std::string& to) const {
    if (::renameat2(file_, from.c_str(), file_, to.c_str(), RENAME_NOREPLACE) == 0) return 0;
    if (errno != EINVAL && errno != ENOSYS && errno != ENOTSUP) return errno;
    // The file system cannot do it in one step. Who renames here holds the trial's claim, so nobody else makes the new name meanwhile.
    struct stat status {};
    if (::fstatat(file_, to.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0) return EEXIST;
    return ::renameat(file_, from.c_str(), file_, to.c_str()) == 0 ? 0 : errno;
  }

 private:
  int file_, code_;
};

}  // namespace

std::string trouble_with_folder(const fs::path& folder) {
  std::error_code failure;
  const fs::file_status status = fs::symlink_status(folder, failure);
  if (status.type() == fs::file_type::not_found) return "";
  if (failure) return fmt::format("{} cannot be looked at: {}", folder.string(), failure.message());
  if (fs::is_symlink(status)) return folder.string() + " is a link, and moesweep works in folders of its own alone";
  if (!fs::is_directory(status)) return folder.string() + " is no folder";
  return "";
}

fs::path set_aside_as(const fs::path& file, const std::string& name) {
  const fs::path parent = file.parent_path();
  const Folder folder(parent);
  if (folder.code() == ENOENT) return {};
  if (folder.code() == ELOOP || folder.code() == ENOTDIR)
    throw Error(ErrorKind::io, "it is a link or no folder, and moesweep renames files in folders of its own alone", parent.string());
  if (folder.code() != 0) throw_io("cannot open the folder", parent, folder.code());
  const std::string from = file.filename().string();
  const int code = folder.look_for_regular(from);
  if (code == ENOENT) return {};
  if (code == ELOOP || code == EISDIR || code == EINVAL)
    throw Error(ErrorKind::io, "it is no regular file, and nothing else is renamed", file.string(), "look at it, and remove it yourself");
  if (code != 0) throw_io("cannot look at it", file, code);
  constexpr int kMost = 10'000;
  for (int number = 1; number <= kMost; ++number) {
    const std::string to = number == 1 ? name : fmt::format("{}.{}", name, number);
    const int failure = folder.rename_to_new(from, to);
    if (failure == 0) return parent / to;
    if (failure != EEXIST) throw_io("cannot rename it to " + to, file, failure);
  }
  throw Error(ErrorKind::io, fmt::format("{} files {} are there already", kMost, name), file.string(), "remove some of them");
}

fs::path set_aside(const fs::path& file, const std::string& suffix) { return set_aside_as(file, file.filename().string() + suffix); }

bool remove_own(const fs::path& file) {
  const Folder folder(file.parent_path());
  if (folder.code() != 0 || folder.look_for_regular(file.filename().string()) != 0) return false;
  return ::unlinkat(folder.descriptor(), file.filename().c_str(), 0) == 0;
}

void remove_half_written(const fs::path& trial_folder) {
  constexpr std::array<std::string_view, 4> kWritten{".checkpoint.h5.", ".trace.h5.", ".trial.h5.", ".config.yaml."};
  std::vector<fs::path> found;
  std::error_code failure;
  for (fs::directory_iterator entry(trial_folder, failure), end; !failure && entry != end; entry.increment(failure)) {
    const std::string name = entry->path().filename().string();
    if (name.ends_with(".tmp") && std::ranges::any_of(kWritten, [&](std::string_view beginning) { return name.starts_with(beginning); }))
      found.push_back(entry->path());
  }
  for (const fs::path& file : found) remove_own(file);
}

}  // namespace moesweep::launch
