// See process.hpp.
#include "process.hpp"

#include <fmt/core.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iomanip>
#include <limits>
#include <map>
#include <sstream>

#include "moesweep/core/foreign_json.hpp"
#include "moesweep/core/hash.hpp"
#include "moesweep/core/text.hpp"
#include "moesweep/launch/command.hpp"
#include "moesweep/launch/provenance.hpp"

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

/// What Slurm says of a job's step.
struct InQueue {
  Life life = Life::unknown;
  std::string job_state;  ///< of the job as squeue names it; empty when it is not listed (any more)
};

/// Asked once a minute per step.
InQueue in_queue(const Owner& owner) {
  struct Answer {
    std::chrono::steady_clock::time_point when;
    InQueue found;
  };
  static std::map<std::string, Answer> answers;  // launch asks from one thread
  const std::string step = owner.slurm_job + "." + owner.slurm_step;
  const auto now = std::chrono::steady_clock::now();
  if (const auto known = answers.find(step); known != answers.end() && now - known->second.when < std::chrono::minutes(1)) return known->second.found;
  InQueue found;
  if (const auto jobs = output_of({"squeue", "-h", "-t", "all", "-o", "%A %T"}, 20)) {
    // The whole queue is asked for, since an unknown job id is an error like any other.
    found.life = Life::gone;
    std::istringstream lines(*jobs);
    for (std::string id, state; lines >> id >> state;)
      if (id == owner.slurm_job) {
        found.job_state = state;
        if (state == "RUNNING" || state == "COMPLETING" || state == "SUSPENDED" || state == "STOPPED") found.life = Life::alive;
      }
    if (found.life == Life::alive && is_number(owner.slurm_step)) {
      const auto steps = output_of({"squeue", "-h", "-s", "-j", owner.slurm_job, "-o", "%i"}, 20);
      if (steps) {
        std::istringstream names(*steps);
        found.life = Life::gone;
        for (std::string name; names >> name;)
          if (name.ends_with("." + owner.slurm_step)) found.life = Life::alive;
      }
    }
  }
  answers[step] = {now, found};
  return found;
}

/// The very machine, started anew since. Two machines of one name that share a disk differ in their ids.
bool was_started_anew(const Owner& owner, const Owner& me) {
  const bool here = owner.host == me.host && !owner.machine.empty() && owner.machine == me.machine;
  return here && owner.boot.substr(0, owner.boot.find(' ')) != me.boot.substr(0, me.boot.find(' '));
}

}  // namespace

Json Owner::json() const {
  return {{"launch", launch},   {"writer", writer},   {"host", host},           {"machine", machine},       {"boot", boot},
          {"process", process}, {"started", started}, {"slurm_job", slurm_job}, {"slurm_step", slurm_step}, {"slurm_restarts", slurm_restarts}};
}

Owner Owner::of_json(const Json& json, const std::string& where) {
  constexpr std::size_t kMostBytes = 1000;
  const JsonView view(json, where);
  Owner owner;
  const auto text = [&](const char* key) {
    const auto field = view.find(key);
    return field ? field->text(kMostBytes) : std::string();
  };
  const auto number = [&](const char* key, std::int64_t most) {
    const auto field = view.find(key);
    return field ? field->integer(-1, most) : 0;
  };
  owner.launch = text("launch");
  owner.writer = text("writer");
  owner.host = text("host");
  owner.machine = text("machine");
  owner.boot = text("boot");
  owner.process = number("process", std::numeric_limits<std::int32_t>::max());
  owner.started = number("started", std::numeric_limits<std::int64_t>::max());
  owner.slurm_job = text("slurm_job");
  owner.slurm_step = text("slurm_step");
  owner.slurm_restarts = text("slurm_restarts");
  return owner;
}

std::string new_launch_id() {
  static std::atomic<int> made{0};
  std::string id;
  for (const char c : utc_now() + "-" + host_name())
    if (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-') id += c;
  return fmt::format("{}-{}-{}", id, ::getpid(), made++);
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
    if (owner.process <= 0) return Life::gone;  // to kill(2) these are groups of processes
    if (::kill(static_cast<pid_t>(owner.process), 0) != 0 && errno == ESRCH) return Life::gone;
    return start_of_process(owner.process) == owner.started ? Life::alive : Life::gone;
  }
  if (is_number(owner.slurm_job)) {
    if (owner.slurm_job == me.slurm_job && owner.slurm_restarts != me.slurm_restarts) return Life::gone;  // before our job was requeued
    if (const Life life = in_queue(owner).life; life != Life::unknown) return life;
  }
  return was_started_anew(owner, me) ? Life::gone : Life::unknown;
}

std::string ended_from_outside(const Owner& owner, const Owner& me) {
  if (was_started_anew(owner, me)) return fmt::format("its machine {} was started anew", owner.host);
  if (!is_number(owner.slurm_job)) return "";
  if (owner.slurm_job == me.slurm_job)
    return owner.slurm_restarts != me.slurm_restarts ? fmt::format("its Slurm job {} was requeued", owner.slurm_job) : "";
  const InQueue found = in_queue(owner);
  if (found.life == Life::unknown || found.job_state == "RUNNING") return "";
  // A step that dies by itself is started again by its job, which is there then.
  return found.job_state.empty() ? fmt::format("its Slurm job {} is over", owner.slurm_job)
                                 : fmt::format("its Slurm job {} is {}", owner.slurm_job, found.job_state);
}

std::optional<double> slurm_seconds_left() {
  const std::string job = environment("SLURM_JOB_ID");
  if (!is_number(job)) return std::nullopt;
  std::time_t end = 0;
  if (const std::string told = environment("SLURM_JOB_END_TIME"); is_number(told)) {
    end = std::atoll(told.c_str());
  } else if (const auto said = output_of({"squeue", "-h", "-j", job, "-o", "%e"}, 20)) {
    std::tm when{};
    std::istringstream text(*said);
    text >> std::get_time(&when, "%Y-%m-%dT%H:%M:%S");  // local time
    if (!text) return std::nullopt;                     // "NONE", "N/A"
    when.tm_isdst = -1;
    end = std::mktime(&when);
  }
  if (end <= 0) return std::nullopt;
  constexpr double kMoment = 60, kShare = 0.1;
  const double left = std::min(std::difftime(end, std::time(nullptr)), kMostSeconds);
  return left - std::min(kMoment, kShare * left);
}

}  // namespace moesweep::launch
