// See progress.hpp.
#include "progress.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "moesweep/core/log.hpp"
#include "moesweep/core/text.hpp"
#include "moesweep/store/journal.hpp"

namespace moesweep::launch {

namespace {

double now_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

bool is_ended(const store::TrialStatus& status) { return status.final || status.state == "skipped"; }

}  // namespace

Display display_of_this_process() {
  if (const char* wish = std::getenv("MOESWEEP_PROGRESS")) {
    const std::string_view text(wish);
    if (text == "bar") return Display::bar;
    if (text == "lines") return Display::lines;
    if (text == "none") return Display::none;
  }
  if (::isatty(STDERR_FILENO) != 0) return Display::bar;
  // Under mpirun standard error is a pipe to it: its own end tells.
  if (std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr) {
    char target[256] = {};
    const std::string link = fmt::format("/proc/{}/fd/2", ::getppid());
    if (::readlink(link.c_str(), target, sizeof target - 1) > 0 &&
        (std::string_view(target).starts_with("/dev/pts/") || std::string_view(target).starts_with("/dev/tty")))
      return Display::bar;
  }
  return Display::lines;
}

Progress::Progress(std::filesystem::path sweep_folder, std::vector<std::string> ids, Display display)
    : folder_(std::move(sweep_folder)), ids_(std::move(ids)), display_(display), started_seconds_(now_seconds()) {
  if (display_ != Display::none) thread_ = std::thread([this] { watch(); });
}

Progress::~Progress() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Progress::watch() {
  const double interval = display_ == Display::bar ? 1.0 : 30.0;
  std::unique_lock lock(mutex_);
  while (!ending_) {
    lock.unlock();
    const double before = now_seconds();
    show(false);
    const double reading = now_seconds() - before;
    lock.lock();
    // A large journal is read less often: watching costs at most a twentieth of a core.
    changed_.wait_for(lock, std::chrono::duration<double>(std::max(interval, 20 * reading)), [this] { return ending_; });
  }
  lock.unlock();
  show(true);
}

void Progress::show(bool last) {
  std::map<std::string, store::TrialStatus> states;
  try {
    states = store::fold(store::read_journal(folder_));
  } catch (const std::exception&) {
    return;  // the journal is read again at the next turn
  }
  std::size_t ended = 0, running = 0;
  for (const std::string& id : ids_)
    if (const auto found = states.find(id); found != states.end()) {
      ended += is_ended(found->second) ? 1 : 0;
      running += found->second.state == "running" ? 1 : 0;
    }
  if (first_) ended_at_start_ = ended;
  const double elapsed = now_seconds() - started_seconds_;
  std::string left;
  if (ended > ended_at_start_ && ended < ids_.size())
    left = ", about " + seconds_in_words(elapsed / static_cast<double>(ended - ended_at_start_) * static_cast<double>(ids_.size() - ended)) + " left";
  if (display_ == Display::bar) {
    constexpr std::size_t kWidth = 40;
    const std::size_t full = ids_.empty() ? kWidth : kWidth * ended / ids_.size();
    const std::string line = fmt::format("\r\033[K[{}{}] {}/{} trials, {} running, {}{}{}", std::string(full, '#'), std::string(kWidth - full, '.'),
                                         ended, ids_.size(), running, seconds_in_words(elapsed), left, last ? "\n" : "");
    std::fputs(line.c_str(), stderr);
    std::fflush(stderr);
  } else if (!last && !first_) {
    log::info(fmt::format("{}/{} trials ended, {} running, {}{}", ended, ids_.size(), running, seconds_in_words(elapsed), left));
  }
  first_ = false;
}

}  // namespace moesweep::launch
