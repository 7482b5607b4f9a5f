// See file_check.hpp. A request is a letter for the origin and the path; an answer is empty, or why reading the file needs too much.
#include "file_check.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "layout.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/core/publish.hpp"

extern char** environ;

namespace moesweep::store {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMessageBytes = 8192;
constexpr int kIdleMilliseconds = 2000;
/// A file system that does not answer is no damage: after this long the check gives up without a verdict.
constexpr int kPatienceMilliseconds = 20 * 60 * 1000;

int without_child = 0;

/// The address sanitizer reserves far more address space than the limit.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif
#else
constexpr bool kSanitized = false;
#endif

/// Beside this program (build folder or installation), or in the build folder that this library came from (its tests).
fs::path check_program() {
  std::error_code failure;
  const fs::path here = fs::read_symlink("/proc/self/exe", failure);
  for (const fs::path& candidate : {here.parent_path() / "moesweep-check", fs::path(MOESWEEP_CHECK_PROGRAM)})
    if (!failure && ::access(candidate.c_str(), X_OK) == 0) return candidate;
  throw Error(ErrorKind::io, "the program moesweep-check, which reads files of others first, is not there", here.parent_path().string(),
              "install moesweep again, with all its programs");
}

class Child {
 public:
  ~Child() { end(); }

  /// Gives the child's answer; nothing when it was gone before it saw the request.
  bool ask(const std::string& request, std::string& answer) {
    if (process_ < 0) start();
    if (::send(channel_, request.data(), request.size(), MSG_NOSIGNAL) < 0) return false;
    for (;;) {
      pollfd wait{channel_, POLLIN, 0};
      const int ready = ::poll(&wait, 1, kPatienceMilliseconds);
      if (ready < 0 && errno == EINTR) continue;
      if (ready == 0) {
        ::kill(process_, SIGKILL);
        return true;  // `end` tells that it was killed
      }
      answer.resize(kMessageBytes);
      const ssize_t got = ::recv(channel_, answer.data(), answer.size(), 0);
      if (got < 0 && errno == EINTR) continue;
      answer.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
      return got > 0;
    }
  }

  /// Waits for the end of the child and gives its status as `waitpid` does.
  int end() {
    if (process_ < 0) return 0;
    ::close(std::exchange(channel_, -1));
    int status = 0;
    while (::waitpid(process_, &status, 0) < 0 && errno == EINTR) {
    }
    process_ = -1;
    return status;
  }

 private:
  void start() {
    const std::string program = check_program().string();
    std::array<int, 2> ends{-1, -1};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) throw_io("cannot make a socket for a check", program, errno);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDIN_FILENO);
    std::string name = "moesweep-check";
    char* arguments[] = {name.data(), nullptr};
    const int code = ::posix_spawn(&process_, program.c_str(), &actions, nullptr, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    ::close(ends[1]);
    if (code != 0) {
      process_ = -1;
      ::close(ends[0]);
      throw_io("cannot start it to check a file", program, code);
    }
    channel_ = ends[0];
  }

  pid_t process_ = -1;
  int channel_ = -1;
};

Error damaged(const fs::path& path, const std::string& what) {
  return {ErrorKind::corrupt, what, path.string(), "the file is damaged, or was made to harm: do not use it; remove it, then make it again"};
}

/// Reads rows in parts of about a block, so that memory stays bounded.
void read_through(hid_t dataset, hid_t type, std::size_t row_bytes, std::int64_t rows, const std::string& path) {
  const std::int64_t at_once = std::max<std::int64_t>(1, static_cast<std::int64_t>(kBlockBytes / std::max<std::size_t>(row_bytes, 1)));
  std::vector<std::byte> buffer;
  for (std::int64_t first = 0; first < rows; first += at_once) {
    const std::int64_t count = std::min(at_once, rows - first);
    buffer.resize(static_cast<std::size_t>(count) * row_bytes);
    if (!buffer.empty()) h5::read_rows(dataset, type, first, count, buffer.data(), path);
  }
}

/// Runs one part; what HDF5 or a check finds wrong there, a reader finds again. Memory alone is told.
template <class Work>
void survive(Work&& work) {
  try {
    work();
  } catch (const h5::Failure& failure) {
    if (failure.out_of_memory()) throw std::bad_alloc();
  } catch (const Error&) {
  }
}

}  // namespace

WithoutChild::WithoutChild() { ++without_child; }
WithoutChild::~WithoutChild() { --without_child; }

void check_in_child(const fs::path& path, h5::Origin origin) {
  if (without_child > 0) return;
  static Child child;
  std::error_code failure;
  const fs::path whole = fs::absolute(path, failure);
  const std::string request = (origin == h5::Origin::ours ? "o" : "f") + whole.string();
  if (failure || request.size() > kMessageBytes) throw_io("cannot check it", path, ENAMETOOLONG);
  for (int attempt = 0; attempt < 2; ++attempt) {
    std::string answer;
    if (child.ask(request, answer) && !answer.empty()) {
      if (answer != "k") throw damaged(path, answer.substr(1));
      return;
    }
    const int status = child.end();
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;  // it had just ended, with nothing to do
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU) throw damaged(path, "checking it took too long");
    if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL)
      throw damaged(path, fmt::format("reading it ends the process: {}", ::strsignal(WTERMSIG(status))));
    break;
  }
  throw Error(ErrorKind::io, "the process that checks it was killed, or did not start", path.string(), "try again, where more memory is free");
}

void read_everything(const fs::path& path, h5::Origin origin) {
  const auto file = h5::open_file(path);
  survive([&] { static_cast<void>(root_attributes(file.get())); });
  std::vector<std::string> paths;
  survive([&] { paths = h5::dataset_paths(file.get()); });
  for (const auto& name : paths)
    survive([&] {
      const auto dataset = h5::open_dataset(file.get(), name);
      if (origin == h5::Origin::ours) {
        const Description d = describe(dataset.get(), name, kOpened);
        read_through(dataset.get(), hdf5_type(d.type).get(), d.row_bytes(), d.rows(), name);
        return;
      }
      const auto type = h5::type_of(dataset.get(), name);
      h5::require_plain(dataset.get(), H5Tget_size(type.get()), origin, name);
      const auto kind = H5Tget_class(type.get());
      if (kind != H5T_INTEGER && kind != H5T_FLOAT && kind != H5T_ENUM) return;  // read by nobody
      Description d;
      d.type.number = kind == H5T_FLOAT ? DType::f64 : DType::i64;
      for (const auto dimension : h5::shape_of(dataset.get(), name)) d.shape.push_back(static_cast<std::int64_t>(dimension));
      if (d.shape.empty()) {
        std::int64_t scalar = 0;
        h5::read_all(dataset.get(), hdf5_type(d.type).get(), &scalar, name);
      } else {
        read_through(dataset.get(), hdf5_type(d.type).get(), d.row_bytes(), d.rows(), name);
      }
    });
}

void serve_checks(int channel) {
  // What stops the parent must not look like damage; what the parent left open is not ours.
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGPIPE, SIGCONT}) std::signal(signal, SIG_IGN);
  for (int file = 3; file < 1024; ++file) ::close(file);
  const rlimit none{0, 0}, memory{kCheckMemoryBytes, kCheckMemoryBytes};
  ::setrlimit(RLIMIT_CORE, &none);
  ::setrlimit(RLIMIT_FSIZE, &none);
  if (!kSanitized) ::setrlimit(RLIMIT_AS, &memory);
  std::string request;
  for (;;) {
    pollfd wait{channel, POLLIN, 0};
    const int ready = ::poll(&wait, 1, kIdleMilliseconds);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return;
    request.resize(kMessageBytes);
    const ssize_t got = ::recv(channel, request.data(), request.size(), 0);
    if (got < 2) return;
    request.resize(static_cast<std::size_t>(got));
    const fs::path path = request.substr(1);
    struct stat status {};
    const double bytes = ::stat(path.c_str(), &status) == 0 ? static_cast<double>(status.st_size) : 0.0;
    rusage used{};
    ::getrusage(RUSAGE_SELF, &used);
    const double budget = static_cast<double>(used.ru_utime.tv_sec + used.ru_stime.tv_sec) + kCheckSeconds + bytes / kCheckBytesPerSecond;
    const rlimit seconds{static_cast<rlim_t>(std::ceil(budget)), RLIM_INFINITY};
    ::setrlimit(RLIMIT_CPU, &seconds);
    std::string answer = "k";
    try {
      survive([&] { read_everything(path, request[0] == 'o' ? h5::Origin::ours : h5::Origin::foreign); });
    } catch (const std::exception&) {
      answer = fmt::format("mreading it takes more than {} GiB of memory", kCheckMemoryBytes >> 30);
    }
    if (::send(channel, answer.data(), answer.size(), MSG_NOSIGNAL) < 0) return;
  }
}

}  // namespace moesweep::store
