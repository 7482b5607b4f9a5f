// See values.hpp.
#include "values.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "moesweep/core/random.hpp"

namespace moesweep::spec {

namespace {

__extension__ typedef __int128 Wide;                   // NOLINT(modernize-use-using): an extension takes no `using`
__extension__ typedef unsigned __int128 UnsignedWide;  // NOLINT(modernize-use-using)

constexpr std::int64_t kMostValues = 1'000'000;
constexpr double kLargestRounded = 9e15;  // larger ones are no exact doubles

const std::vector<std::string> kRanges{"linspace", "logspace", "range"};
const std::vector<std::string> kDistributions{"uniform", "log_uniform", "integers", "choice"};

bool is_number(const Key& key) { return !key.is_section && (key.field.type == FieldType::integer || key.field.type == FieldType::real); }

Json number_of(const Node& node, FieldType type, const std::string& path) {
  Field plain;
  plain.type = type;
  return convert(plain, node, path);
}

std::int64_t count_of(const Node& node, const std::string& path) {
  Field plain;
  plain.type = FieldType::integer;
  plain.at_least(1).at_most(static_cast<double>(kMostValues));
  return convert(plain, node, path).get<std::int64_t>();
}

/// Twelve digits: 0.1 + 0.2 is 0.3, and no id depends on the last digit of a machine's logarithm.
std::string digits(double value) { return fmt::format("{:.12g}", value == 0 ? 0.0 : value); }

std::string text_for(const Key& key, double value) {
  return key.field.type == FieldType::integer ? fmt::format("{}", static_cast<std::int64_t>(std::llround(value))) : digits(value);
}

/// The numbers of a list of `size`, the last `integers` of which are counts.
void require_list(const Node& node, std::size_t size, const std::string& path, const char* words) {
  if (!node.is_list() || node.items.size() != size)
    fail(node.mark,
         fmt::format("{}: expected {} but found {}", path, words, node.is_list() ? fmt::format("a list of {}", node.items.size()) : node.in_words()));
}

std::uint64_t word_of(const std::string& path, std::uint64_t seed, std::uint32_t row) {
  const std::uint64_t stream = stable_number(path);
  const Place place{0, static_cast<std::uint32_t>(stream >> 32), static_cast<std::uint32_t>(stream), row};
  const auto words = random_words(seed, Purpose::sweep_sample, place);
  return (static_cast<std::uint64_t>(words[0]) << 32) | words[1];
}

/// A word as one of 0 .. count - 1.
std::uint64_t below(std::uint64_t count, std::uint64_t word) { return static_cast<std::uint64_t>((static_cast<UnsignedWide>(word) * count) >> 64); }

Node drawn(const Entry& entry, std::uint64_t seed, std::uint32_t row) {
  const Entry& kind = entry.value.entries.front();
  const std::uint64_t word = word_of(entry.key, seed, row);
  if (kind.key == "choice") return kind.value.items[below(kind.value.items.size(), word)];
  const Key& key = *Keys::instance().find(entry.key);
  std::string text;
  if (kind.key == "integers") {
    const auto least = number_of(kind.value.items[0], FieldType::integer, "").get<std::int64_t>();
    const auto most = number_of(kind.value.items[1], FieldType::integer, "").get<std::int64_t>();
    const std::uint64_t count = static_cast<std::uint64_t>(most) - static_cast<std::uint64_t>(least) + 1;  // 0: all of them
    text = fmt::format("{}", static_cast<std::int64_t>(static_cast<std::uint64_t>(least) + (count == 0 ? word : below(count, word))));
  } else {
    const double least = number_of(kind.value.items[0], FieldType::real, "").get<double>();
    const double most = number_of(kind.value.items[1], FieldType::real, "").get<double>();
    const double share = to_uniform(static_cast<std::uint32_t>(word >> 32), static_cast<std::uint32_t>(word));
    const double value =
        kind.key == "uniform" ? least * (1 - share) + most * share : std::exp(std::log(least) * (1 - share) + std::log(most) * share);
    text = text_for(key, std::clamp(value, least, most));
  }
  return make_scalar(text, kind.value.mark);
}

}  // namespace

bool is_range(const Node& node) {
  return node.is_map() && !node.whole && node.entries.size() == 1 && std::ranges::find(kRanges, node.entries.front().key) != kRanges.end();
}

Node range_values(const Node& range, const Key& key, std::int64_t most) {
  const auto& [kind, mark, given] = range.entries.front();
  const Node& bounds = given;
  const std::string path = key.path + "." + kind;
  if (!is_number(key)) fail(mark, fmt::format("{}: {} is no number", path, key.path), "write its values as a list");
  require_list(bounds, 3, path, kind == "range" ? "[first, last, step]" : "[first, last, count]");
  Node values = make_list(range.mark);
  const auto check_count = [&](bool too_many, std::int64_t count) {
    if (too_many) fail(bounds.mark, fmt::format("{}: more than {} values", path, kMostValues));
    if (count > most) fail(bounds.mark, fmt::format("{}: {} values, with which the ranges of the sweep stand for too many", path, count));
  };
  const auto add = [&](std::string text) { values.items.push_back(make_scalar(std::move(text), bounds.mark)); };
  if (kind == "range" && key.field.type == FieldType::integer) {
    std::vector<std::int64_t> numbers;
    for (const Node& item : bounds.items) numbers.push_back(number_of(item, FieldType::integer, path).get<std::int64_t>());
    const Wide first = numbers[0], last = numbers[1], step = numbers[2];
    if (step == 0) fail(bounds.items[2].mark, fmt::format("{}: a step of 0 leads nowhere", path));
    if ((last - first) * (step < 0 ? -1 : 1) < 0) fail(bounds.mark, fmt::format("{}: the step leads away from the last value", path));
    const Wide steps = (last - first) / step;
    check_count(steps >= kMostValues, steps >= kMostValues ? 0 : static_cast<std::int64_t>(steps) + 1);
    for (Wide value = first; step > 0 ? value <= last : value >= last; value += step) add(fmt::format("{}", static_cast<std::int64_t>(value)));
    return values;
  }
  const double first = number_of(bounds.items[0], FieldType::real, path).get<double>();
  const double last = number_of(bounds.items[1], FieldType::real, path).get<double>();
  if (kind == "range") {
    const double step = number_of(bounds.items[2], FieldType::real, path).get<double>();
    if (step == 0) fail(bounds.items[2].mark, fmt::format("{}: a step of 0 leads nowhere", path));
    const double steps = (last - first) / step + 1e-9;  // 0 to 0.3 by 0.1 is three steps, whatever rounding says
    if (steps < 0) fail(bounds.mark, fmt::format("{}: the step leads away from the last value", path));
    const bool too_many = !(steps < static_cast<double>(kMostValues));
    check_count(too_many, too_many ? 0 : static_cast<std::int64_t>(steps) + 1);
    for (std::int64_t i = 0; i <= static_cast<std::int64_t>(steps); ++i) add(digits(first + static_cast<double>(i) * step));
    return values;
  }
  const std::int64_t count = count_of(bounds.items[2], path);
  check_count(false, count);
  const bool logarithmic = kind == "logspace";
  if (logarithmic && (first <= 0 || last <= 0))
    fail(bounds.mark, fmt::format("{}: first and last are numbers > 0", path), "they are values, not exponents");
  for (std::int64_t i = 0; i < count; ++i) {
    const double share = count == 1 ? 0.0 : static_cast<double>(i) / static_cast<double>(count - 1);
    const double between = logarithmic ? std::exp(std::log(first) * (1 - share) + std::log(last) * share) : first * (1 - share) + last * share;
    const double value = i == 0 ? first : i + 1 == count ? last : between;
    if (key.field.type == FieldType::integer && !(std::abs(value) < kLargestRounded))
      fail(bounds.mark, fmt::format("{}: expected integers from {} to {} but found {}", path, -static_cast<std::int64_t>(kLargestRounded),
                                    static_cast<std::int64_t>(kLargestRounded), digits(value)));
    add(text_for(key, value));
  }
  return values;
}

void check_sample(const Node& sample) {
  if (!sample.is_map()) fail(sample.mark, fmt::format("sample: expected a mapping of count, seed and of but found {}", sample.in_words()));
  static const std::vector<std::string> kKeys{"count", "seed", "of"};
  for (const Entry& entry : sample.entries)
    if (std::ranges::find(kKeys, entry.key) == kKeys.end())
      fail(entry.mark, fmt::format("unknown key '{}' in sample{}", entry.key, did_you_mean(entry.key, kKeys)), "a sample has count, seed and of");
  const Node *count = sample.find("count"), *seed = sample.find("seed"), *of = sample.find("of");
  if (count == nullptr) fail(sample.mark, "sample needs a count: how many are drawn");
  (void)count_of(*count, "sample.count");
  if (seed != nullptr) {
    Field plain;
    plain.type = FieldType::integer;
    (void)convert(plain.at_least(0), *seed, "sample.seed");
  }
  if (of == nullptr) fail(sample.mark, "sample needs `of`: the keys that are drawn");
  if (!of->is_map() || of->entries.empty())
    fail(of->mark,
         fmt::format("sample.of: expected a mapping of keys to distributions but found {}", of->is_map() ? "an empty one" : of->in_words()));
}

void check_distribution(const Node& distribution, const std::string& path, const Key* key) {
  const std::string here = "sample.of." + path;
  const char* const kHint = "a distribution is uniform: [a, b], log_uniform: [a, b], integers: [a, b] or choice: [a, b, ...]";
  if (!distribution.is_map() || distribution.entries.size() != 1)
    fail(distribution.mark,
         fmt::format("{}: expected one distribution but found {}", here,
                     distribution.is_map() ? fmt::format("{} of them", distribution.entries.size()) : distribution.in_words()),
         kHint);
  const auto& [kind, mark, bounds] = distribution.entries.front();
  if (std::ranges::find(kDistributions, kind) == kDistributions.end())
    fail(mark, fmt::format("{}: unknown distribution '{}'{}", here, kind, did_you_mean(kind, kDistributions)), kHint);
  const std::string full = here + "." + kind;
  if (kind == "choice") {
    if (!bounds.is_list()) fail(bounds.mark, fmt::format("{}: expected a list of values but found {}", full, bounds.in_words()));
    if (bounds.items.empty()) fail(bounds.mark, fmt::format("{} is empty: there is nothing to draw from", full));
    return;
  }
  if (key == nullptr || !is_number(*key)) fail(mark, fmt::format("{}: {} is no number", full, path), "choice: [a, b, ...] draws from any values");
  require_list(bounds, 2, full, "[least, most]");
  const bool integers = kind == "integers", real_key = key->field.type == FieldType::real;
  if (kind == "uniform" && !real_key)
    fail(mark, fmt::format("{}: {} is a key of integers", full, path), "integers: [a, b] draws them, both ends included");
  const FieldType type = integers ? FieldType::integer : FieldType::real;
  const Json least = number_of(bounds.items[0], type, full), most = number_of(bounds.items[1], type, full);
  if (most < least) fail(bounds.mark, fmt::format("{}: the least value is above the most", full));
  if (kind == "log_uniform" && least.get<double>() <= 0)
    fail(bounds.items[0].mark, fmt::format("{}: expected numbers > 0", full), "they are values, not exponents");
  for (const Node& item : bounds.items) (void)convert(key->field, item, path);  // both ends within the key's range: so is all between them
}

Node draw(const Node& sample, std::int64_t most) {
  const auto count = static_cast<std::uint32_t>(count_of(*sample.find("count"), "sample.count"));
  const Node* given = sample.find("seed");
  const std::uint64_t seed = given == nullptr ? 1 : number_of(*given, FieldType::integer, "sample.seed").get<std::uint64_t>();
  Node rows = make_map(sample.mark);
  std::int64_t in_a_row = 0;
  for (const Entry& entry : sample.find("of")->entries) {
    const Entry& kind = entry.value.entries.front();
    std::size_t largest = 1;
    if (kind.key == "choice")
      for (const Node& item : kind.value.items) largest = std::max(largest, count_nodes(item));
    in_a_row += static_cast<std::int64_t>(largest);
  }
  if (in_a_row > most / count)
    fail(sample.find("count")->mark, fmt::format("sample: {} draws of {} values each are more than {} values", count, in_a_row, most));
  for (const Entry& entry : sample.find("of")->entries) {
    Node values = make_list(entry.value.mark);
    for (std::uint32_t row = 0; row < count; ++row) values.items.push_back(drawn(entry, seed, row));
    rows.entries.push_back({entry.key, entry.mark, std::move(values)});
  }
  return rows;
}

}  // namespace moesweep::spec
