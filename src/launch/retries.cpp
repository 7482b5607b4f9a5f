// See include/moesweep/launch/retries.hpp.
#include "moesweep/launch/retries.hpp"

#include <fmt/core.h>

#include <charconv>
#include <limits>
#include <sstream>

#include "moesweep/core/error.hpp"

namespace moesweep::launch {

int Retries::of(const std::string& state) const {
  if (state == "crashed") return crashed;
  if (state == "failed") return failed;
  if (state == "out_of_memory") return out_of_memory;
  if (state == "timed_out") return timed_out;
  return state == "preempted" || state == "pending" || state == "running" ? std::numeric_limits<int>::max() : 0;
}

bool Retries::exhausted(const store::TrialStatus& before, const std::string& state) const {
  const auto charges = before.charges.find(state);
  return (charges == before.charges.end() ? 0 : charges->second) >= of(state);
}

Retries parse_retries(const std::string& text) {
  Retries retries;
  const std::map<std::string, std::vector<int*>> places{{"crashed", {&retries.crashed}},
                                                        {"failed", {&retries.failed}},
                                                        {"out_of_memory", {&retries.out_of_memory}},
                                                        {"timed_out", {&retries.timed_out}},
                                                        {"all", {&retries.crashed, &retries.failed, &retries.out_of_memory, &retries.timed_out}}};
  // With a comma behind it the last part counts too, and an empty text is one empty part.
  std::istringstream parts(text + ",");
  for (std::string part; std::getline(parts, part, ',');) {
    const auto equals = part.find('=');
    const auto place = places.find(part.substr(0, equals));
    int number = -1;
    bool read = equals != std::string::npos && place != places.end();
    if (read) {
      const char *first = part.data() + equals + 1, *last = part.data() + part.size();
      const auto result = std::from_chars(first, last, number);
      read = result.ec == std::errc() && result.ptr == last && number >= 0 && number <= 1000000;
    }
    if (!read)
      throw Error(
          ErrorKind::usage, fmt::format("'{}' is no budget of retries", part), "--retries",
          "give CAUSE=N with CAUSE crashed, failed, out_of_memory, timed_out or all and N from 0 to 1000000, for example crashed=2,timed_out=1");
    for (int* budget : place->second) *budget = number;
  }
  return retries;
}

bool needs_no_attempt(const store::TrialStatus& status, const Retries& retries) {
  if (status.state == "done" || status.state == "diverged") return true;
  const auto charges = status.charges.find(status.state);
  return charges != status.charges.end() && charges->second > retries.of(status.state);
}

}  // namespace moesweep::launch
