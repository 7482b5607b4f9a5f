// See process.hpp.
#include "process.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>

#include "moesweep/core/hash.hpp"
#include "moesweep/launch/command.hpp"
#include "moesweep/launch/provenance.hpp"

extern char** environ;

namespace moesweep::launch {

namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// systemd asks to keep the id itself to the machine.
std::string machine() {
  std::string id;
  std::ifstream("/etc/machine-id") >> id;
  return id.empty() ? "" : sha256_hex(id).substr(0, 16);
}

std::string boot_and_namespace() {
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  char space[64] = {};
  const auto length = ::readlink("/proc/self/ns/pid", space, sizeof space - 1);
  return boot + " " + (length > 0 ? std::string(space, static_cast<std::size_t>(length)) : "");
}

/// Field 22 of /proc/PID/stat, -1 when there is no such process, or when it is dead and only waits to be reaped. The name in field 2 may hold
/// anything, so fields count from its last ')'.
std::int64_t start_of_process(std::int64_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  std::string text((std::istreambuf_iterator<char>(file)), {});
  const auto name_end = text.rfind(')');
  if (name_end == std::string::npos) return -1;
  std::istringstream fields(text.substr(name_end + 1));
  std::string field;
  fields >> field;
  if (field == "Z" || field == "X") return -1;
  for (int i = 4; i <= 22; ++i) fields >> field;
  return fields ? std::atoll(field.c_str()) : -1;
}

bool is_number(const std::string& text) {
  return !text.empty() && std::ranges::all_of(text, [](unsigned char c) { return std::isdigit(c) != 0; });
}

/// Whether Slurm knows the job's step as running; asked once a minute per step.
Life life_in_slurm(const Owner& owner) {
  struct Answer {
    std::chrono::steady_clock::time_point when;
    Life life;
  };
  static std::map<std::string, Answer> answers;  // launch asks from one thread
  const std::string step = owner.slurm_job + "." + owner.slurm_step;
  const auto now = std::chrono::steady_clock::now();
  if (const auto known = answers.find(step); known != answers.end() && now - known->second.when < std::chrono::minutes(1)) return known->second.life;
  Life life = Life::unknown;
  if (const auto jobs = output_of({"squeue", "-h", "-t", "all", "-o", "%A %T"}, 20)) {
    // The whole queue is asked for, since an unknown job id is an error like any other.
    life = Life::gone;
    std::istringstream lines(*jobs);
    for (std::string id, state; lines >> id >> state;)
      if (id == owner.slurm_job && (state == "RUNNING" || state == "COMPLETING" || state == "SUSPENDED" || state == "STOPPED")) life = Life::alive;
    if (life == Life::alive && is_number(owner.slurm_step)) {
      const auto steps = output_of({"squeue", "-h", "-s", "-j", owner.slurm_job, "-o", "%i"}, 20);
      if (steps) {
        std::istringstream names(*steps);
        life = Life::gone;
        for (std::string name; names >> name;)
          if (name.ends_with("." + owner.slurm_step)) life = Life::alive;
      }
    }
  }
  answers[step] = {now, life};
  return life;
}

}  // namespace

Json Owner::json() const {
  return {{"launch", launch},   {"writer", writer},   {"host", host},           {"machine", machine},       {"boot", boot},
          {"process", process}, {"started", started}, {"slurm_job", slurm_job}, {"slurm_step", slurm_step}, {"slurm_restarts", slurm_restarts}};
}

Owner Owner::of_json(const Json& json) {
  Owner owner;
  const auto text = [&](const char* key) { return json.value(key, std::string()); };
  owner.launch = text("launch");
  owner.writer = text("writer");
  owner.host = text("host");
  owner.machine = text("machine");
  owner.boot = text("boot");
  owner.process = json.value("process", std::int64_t{0});
  owner.started = json.value("started", std::int64_t{0});
  owner.slurm_job = text("slurm_job");
  owner.slurm_step = text("slurm_step");
  owner.slurm_restarts = text("slurm_restarts");
  return owner;
}

Owner this_process(const std::string& launch, const std::string& writer) {
  Owner owner;
  owner.launch = launch;
  owner.writer = writer;
  owner.host = host_name();
  owner.machine = machine();
  owner.boot = boot_and_namespace();
  owner.process = ::getpid();
  owner.started = start_of_process(owner.process);
  owner.slurm_job = environment("SLURM_JOB_ID");
  owner.slurm_step = environment("SLURM_STEP_ID");
  owner.slurm_restarts = environment("SLURM_RESTART_COUNT");
  return owner;
}

Life life_of(const Owner& owner, const Owner& me) {
  if (owner.launch == me.launch) return Life::alive;  // a rank that dies takes its launch with it
  if (owner.boot == me.boot) {
    if (::kill(static_cast<pid_t>(owner.process), 0) != 0 && errno == ESRCH) return Life::gone;
    return start_of_process(owner.process) == owner.started ? Life::alive : Life::gone;
  }
  if (is_number(owner.slurm_job)) {
    if (owner.slurm_job == me.slurm_job && owner.slurm_restarts != me.slurm_restarts) return Life::gone;  // before our job was requeued
    if (const Life life = life_in_slurm(owner); life != Life::unknown) return life;
  }
  // Started anew since. Two machines of one name that share a disk differ in their ids.
  const bool here = owner.host == me.host && !owner.machine.empty() && owner.machine == me.machine;
  return here && owner.boot.substr(0, owner.boot.find(' ')) != me.boot.substr(0, me.boot.find(' ')) ? Life::gone : Life::unknown;
}

std::optional<std::string> output_of(const std::vector<std::string>& command, double timeout_seconds) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return std::nullopt;
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  std::vector<char*> arguments;
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  pid_t child = 0;
  const int spawned = ::posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  if (spawned != 0) {
    ::close(ends[0]);
    return std::nullopt;
  }
  std::string output;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(timeout_seconds);
  bool ended = false;
  while (!ended) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    pollfd wait{ends[0], POLLIN, 0};
    const int ready = left > 0 ? ::poll(&wait, 1, static_cast<int>(left)) : 0;
    if (ready < 0 && errno == EINTR) continue;
    char buffer[4096];
    const auto count = ready > 0 ? ::read(ends[0], buffer, sizeof buffer) : -1;
    if (ready <= 0 || count < 0) {
      ::kill(child, SIGKILL);
      break;
    }
    output.append(buffer, static_cast<std::size_t>(count));
    ended = count == 0;
  }
  ::close(ends[0]);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!ended || !WIFEXITED(status) || WEXITSTATUS(status) != 0) return std::nullopt;
  return output;
}

}  // namespace moesweep::launch
