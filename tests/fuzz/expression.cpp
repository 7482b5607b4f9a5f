// A derived value. In brackets it is the same, and what it gives is a value of its field as a file would write it.
#include "spec/expression.hpp"
#include "fuzz.hpp"
#include "spec/keys.hpp"

using namespace moesweep::spec;  // NOLINT

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  go_to_empty_folder();
  const std::string text(reinterpret_cast<const char*>(data), size);
  const Mark mark{std::make_shared<const std::string>("sweep.yaml"), 1, 10};
  const auto value = [&](const std::string& expression, const Key& key) {
    return Expression::parse(make_scalar(expression, mark)).value(key.field, key.path, [](std::size_t leaf) {
      return Keys::instance().default_value(leaf);
    });
  };
  for (const char* path : {"seed", "model.dense_width", "train.learning_rate", "train.tokens", "routing.balance.weight"}) {
    const Key& key = *Keys::instance().find(path);
    moesweep::Json plain, bracketed;
    if (!accepted([&] { plain = value(text, key); })) continue;
    require_accepted(
        [&] { require(convert(key.field, make_scalar(moesweep::canonical(plain), mark), path) == plain, "printed, it is another value"); },
        "the value is refused where it is written");
    if (text.size() + 2 > kLongestText) continue;
    try {
      bracketed = value("(" + text + ")", key);
      require(bracketed == plain, "brackets change the value");
    } catch (const moesweep::Error& error) {
      require(error.message().ends_with("nested too deep"), std::string("refused with brackets alone: ") + error.what());
    }
  }
  return 0;
}
