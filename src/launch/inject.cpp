// See include/moesweep/launch/inject.hpp.
#include "moesweep/launch/inject.hpp"

#include <fmt/core.h>
#include <fmt/ranges.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <sstream>
#include <thread>

#include "moesweep/core/error.hpp"
#include "moesweep/core/log.hpp"

namespace moesweep::launch {

namespace {

constexpr std::array kKinds{"kill", "stop", "term", "usr2", "abort", "exception", "hang", "nan", "full_disk", "slow", "leak"};

bool is_number(const std::string& text) {
  return !text.empty() && text.size() < 10 && std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

[[noreturn]] void refuse(const std::string& text, const std::string& why) {
  throw Error(ErrorKind::usage, fmt::format("'{}' is no fault: {}", text, why), "--inject",
              fmt::format("give KIND@trial=T,step=S,rank=R,attempt=A,seconds=X with KIND of {}; for example kill@trial=3,step=30,rank=1",
                          fmt::join(kKinds, ", ")));
}

bool is_meant(const InjectedFault& fault, std::size_t number, const std::string& id, int attempt, int rank) {
  if (fault.rank != rank || (fault.attempt && *fault.attempt != attempt)) return false;
  if (fault.trial.empty()) return true;
  // Ids have sixteen digits: a short number is a place in the plan.
  return is_number(fault.trial) ? fault.trial == std::to_string(number) : id.starts_with(fault.trial);
}

/// Private memory, touched, until the system gives no more.
[[noreturn]] void leak() {
  constexpr std::size_t kPiece = std::size_t{16} << 20;
  std::vector<std::unique_ptr<char[]>> pieces;
  for (;;) {
    pieces.push_back(std::make_unique_for_overwrite<char[]>(kPiece));
    std::memset(pieces.back().get(), 1, kPiece);
  }
}

train::Fault strike(const InjectedFault& fault) {
  const auto signal_self = [](int signal) { ::kill(::getpid(), signal); };
  switch (fault.kind) {
    case FaultKind::kill: signal_self(SIGKILL); break;
    case FaultKind::stop: signal_self(SIGSTOP); break;
    case FaultKind::term: signal_self(SIGTERM); break;
    case FaultKind::usr2: signal_self(SIGUSR2); break;
    case FaultKind::abort: std::abort();
    case FaultKind::exception: throw std::runtime_error("injected exception");
    case FaultKind::hang:
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    case FaultKind::nan: return train::Fault::not_a_number;
    case FaultKind::full_disk: {
      ::signal(SIGXFSZ, SIG_IGN);
      const rlimit none{0, RLIM_INFINITY};
      ::setrlimit(RLIMIT_FSIZE, &none);
      break;
    }
    case FaultKind::slow: std::this_thread::sleep_for(std::chrono::duration<double>(fault.seconds)); break;
    case FaultKind::leak: leak();
  }
  return train::Fault::none;
}

}  // namespace

InjectedFault parse_fault(const std::string& text) {
  InjectedFault fault;
  const auto at = text.find('@');
  const auto kind = std::ranges::find(kKinds, text.substr(0, at));
  if (kind == kKinds.end()) refuse(text, fmt::format("there is no kind '{}'", text.substr(0, at)));
  fault.kind = static_cast<FaultKind>(kind - kKinds.begin());
  if (at == std::string::npos) return fault;
  std::istringstream parts(text.substr(at + 1));
  for (std::string part; std::getline(parts, part, ',');) {
    const auto equals = part.find('=');
    const std::string key = part.substr(0, equals), value = equals == std::string::npos ? "" : part.substr(equals + 1);
    const auto number = [&](std::int64_t least) {
      if (!is_number(value) || std::stoll(value) < least) refuse(text, fmt::format("{} needs a whole number from {} to 999999999", key, least));
      return std::stoll(value);
    };
    if (key == "trial") {
      if (value.empty() || !std::ranges::all_of(value, [](unsigned char c) { return std::isxdigit(c) != 0; }))
        refuse(text, "trial needs a number in the plan, from 0, or the beginning of an id");
      fault.trial = value;
    } else if (key == "step") {
      fault.step = number(1);
    } else if (key == "rank") {
      fault.rank = static_cast<int>(number(0));
    } else if (key == "attempt") {
      fault.attempt = static_cast<int>(number(1));
    } else if (key == "seconds") {
      const auto read = std::from_chars(value.data(), value.data() + value.size(), fault.seconds);
      if (read.ec != std::errc() || read.ptr != value.data() + value.size() || !(fault.seconds >= 0 && fault.seconds <= 999999999))
        refuse(text, "seconds needs a number from 0 to 999999999");
    } else {
      refuse(text, fmt::format("there is no '{}'", key));
    }
  }
  return fault;
}

std::function<train::Fault(std::int64_t)> hook_of(const std::vector<InjectedFault>& faults, std::size_t number, const std::string& id, int attempt,
                                                  int rank) {
  std::vector<InjectedFault> mine;
  for (const InjectedFault& fault : faults)
    if (is_meant(fault, number, id, attempt, rank)) mine.push_back(fault);
  if (mine.empty()) return {};
  return [mine, struck = std::vector<char>(mine.size(), 0), id](std::int64_t step) mutable {
    train::Fault result = train::Fault::none;
    for (std::size_t i = 0; i < mine.size(); ++i) {
      if (step < mine[i].step || (struck[i] != 0 && mine[i].kind != FaultKind::slow)) continue;
      if (struck[i] == 0)
        log::warning(fmt::format("injected into trial {} before step {}: {}", id, step, kKinds[static_cast<std::size_t>(mine[i].kind)]));
      struck[i] = 1;
      if (const train::Fault asked = strike(mine[i]); asked != train::Fault::none) result = asked;
    }
    return result;
  };
}

}  // namespace moesweep::launch
