// See include/moesweep/launch/command.hpp.
#include "moesweep/launch/command.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>

extern char** environ;

namespace moesweep::launch {

CommandResult run_command(const std::vector<std::string>& command, double timeout_seconds) {
  CommandResult result;
  std::array<int, 2> output{-1, -1}, error{-1, -1};
  if (::pipe2(output.data(), O_CLOEXEC) != 0) return result;
  if (::pipe2(error.data(), O_CLOEXEC) != 0) {
    ::close(output[0]);
    ::close(output[1]);
    return result;
  }
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, output[1], STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, error[1], STDERR_FILENO);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  // A process group of its own, so that its children end with it.
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  std::vector<char*> arguments;
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  pid_t child = 0;
  result.started = ::posix_spawnp(&child, arguments[0], &actions, &attributes, arguments.data(), environ) == 0;
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(output[1]);
  ::close(error[1]);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(timeout_seconds);
  std::array<pollfd, 2> ends{pollfd{output[0], POLLIN, 0}, pollfd{error[0], POLLIN, 0}};
  while (result.started && (ends[0].fd >= 0 || ends[1].fd >= 0)) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    const int ready = left > 0 ? ::poll(ends.data(), ends.size(), static_cast<int>(left)) : 0;
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) {
      result.timed_out = true;
      break;
    }
    for (std::size_t i = 0; i < ends.size(); ++i) {
      if (ends[i].fd < 0 || ends[i].revents == 0) continue;
      char buffer[4096];
      const auto count = ::read(ends[i].fd, buffer, sizeof buffer);
      if (count > 0) (i == 0 ? result.output : result.error).append(buffer, static_cast<std::size_t>(count));
      else if (count == 0 || errno != EINTR) ends[i].fd = -1;
    }
  }
  ::close(output[0]);
  ::close(error[0]);
  if (!result.started) return result;
  if (result.timed_out) ::kill(-child, SIGKILL);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!result.timed_out) result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

std::optional<std::string> output_of(const std::vector<std::string>& command, double timeout_seconds) {
  CommandResult result = run_command(command, timeout_seconds);
  if (!result.ok()) return std::nullopt;
  return std::move(result.output);
}

}  // namespace moesweep::launch
