// A condition of `exclude`, `when`, `--only` and `--skip`. In brackets it holds where it held, negated where it did not.
#include <deque>
#include <vector>

#include "fuzz.hpp"
#include "spec/document.hpp"
#include "spec/predicate.hpp"

using namespace moesweep::spec;  // NOLINT

namespace {

struct Bench {
  moesweep::train::TrialConfig config;
  std::vector<moesweep::Leaf> leaves;
  std::vector<std::string> sets;
};

/// A few trials that differ in most kinds of fields.
std::deque<Bench>& benches() {
  static std::deque<Bench> all = [] {
    std::deque<Bench> result(3);
    result[1].config.seed = 3;
    result[1].config.routing.balance.method = "aux_loss";
    result[1].config.train.tokens = 4096;
    result[1].sets = {"x1"};
    result[2].config.model.width = 128;
    result[2].config.model.tied_embeddings = true;
    result[2].config.data.store = "elsewhere";
    result[2].sets = {"x35"};
    result[0].sets = {""};
    for (Bench& bench : result) bench.leaves = moesweep::leaves_of(moesweep::fields_of(bench.config));
    return result;
  }();
  return all;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  go_to_empty_folder();
  static const Document document = document_of("sets: {scale: {x1: {}, x35: {model.width: 256}}}\n", "sweep.yaml", FileKind::sweep);
  const std::string text(reinterpret_cast<const char*>(data), size);
  const Mark mark{std::make_shared<const std::string>("sweep.yaml"), 1, 10};
  const auto parsed = [&](const std::string& condition, bool quoted) { return Predicate::parse(make_scalar(condition, mark, quoted), document); };
  const auto values = [](const Predicate& predicate) {
    std::vector<bool> result;
    for (const Bench& bench : benches()) result.push_back(predicate({bench.leaves, bench.sets}));
    return result;
  };
  std::vector<bool> plain;
  if (!accepted([&] { plain = values(parsed(text, false)); })) return 0;
  if (text.size() + 6 > kLongestText) return 0;
  std::vector<bool> negated = plain;
  negated.flip();
  // One bracket more may be one too many, and nothing else.
  const auto agrees = [&](const std::string& condition, const std::vector<bool>& expected) {
    try {
      require(values(parsed(condition, true)) == expected, "brackets or a negation change the sense: " + condition);
    } catch (const moesweep::Error& error) {
      require(error.message().ends_with("nested too deep"), "refused with brackets alone: " + condition + ": " + error.what());
    }
  };
  agrees("(" + text + ")", plain);
  agrees("not (" + text + ")", negated);
  return 0;
}
