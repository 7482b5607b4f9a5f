// See last_words.hpp.
#include "last_words.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "moesweep/core/text.hpp"

namespace moesweep::launch {

namespace {

struct Fatal {
  int signal;
  const char* name;
};
constexpr std::array<Fatal, 5> kFatal{{{SIGSEGV, "SIGSEGV"}, {SIGBUS, "SIGBUS"}, {SIGFPE, "SIGFPE"}, {SIGILL, "SIGILL"}, {SIGABRT, "SIGABRT"}}};

/// What the handler may touch: made before, never allocated in it.
struct Words {
  std::string file, before, after;
};
std::atomic<const Words*> words{nullptr};
std::array<struct sigaction, kFatal.size()> earlier;
alignas(16) char stack[1 << 16];  // a trial that ran out of stack still gets to say so
stack_t earlier_stack;

void put(int file, const char* text, std::size_t size) {
  while (size > 0) {
    const ssize_t written = ::write(file, text, size);
    if (written <= 0) return;
    text += written;
    size -= static_cast<std::size_t>(written);
  }
}

void on_fatal(int signal, siginfo_t*, void*) {
  const auto place = static_cast<std::size_t>(std::ranges::find(kFatal, signal, &Fatal::signal) - kFatal.begin());
  if (const Words* mine = words.exchange(nullptr); mine != nullptr) {
    const int file = ::open(mine->file.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
    struct stat status {};
    if (file >= 0 && ::fstat(file, &status) == 0 && S_ISREG(status.st_mode)) {
      put(file, mine->before.data(), mine->before.size());
      put(file, kFatal[place].name, std::strlen(kFatal[place].name));
      put(file, mine->after.data(), mine->after.size());
      ::fsync(file);
      ::close(file);
    }
  }
  // What was there before us ends the process; a fault happens again by itself.
  ::sigaction(signal, &earlier[place], nullptr);
  ::raise(signal);
}

}  // namespace

LastWords::LastWords(const std::filesystem::path& file, Json fields) {
  constexpr const char* kPlace = "@signal@";
  Json line = {{"event", "ended"}, {"time", utc_now(3)}};
  line.update(fields);
  line["reason"] = std::string("died of ") + kPlace;
  const std::string text = line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  const auto cut = text.find(kPlace);
  words.store(new Words{file.string(), text.substr(0, cut), text.substr(cut + std::strlen(kPlace))});
  const stack_t mine{stack, 0, sizeof stack};
  ::sigaltstack(&mine, &earlier_stack);
  struct sigaction action {};
  action.sa_sigaction = on_fatal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  for (std::size_t i = 0; i < kFatal.size(); ++i) ::sigaction(kFatal[i].signal, &action, &earlier[i]);
}

LastWords::~LastWords() {
  for (std::size_t i = 0; i < kFatal.size(); ++i) ::sigaction(kFatal[i].signal, &earlier[i], nullptr);
  ::sigaltstack(&earlier_stack, nullptr);
  delete words.exchange(nullptr);
}

}  // namespace moesweep::launch
