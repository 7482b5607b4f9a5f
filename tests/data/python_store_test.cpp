// A store made by moesweep-data is what the C++ side reads: both languages agree on the format.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "data/store_writer.hpp"
#include "moesweep/core/error.hpp"

namespace moesweep::data {
namespace {

TEST(PythonStore, IsReadByTheProgram) {
  const char* checkout = std::getenv("MOESWEEP_SOURCE_DIR");
  const auto tool = std::filesystem::path(checkout == nullptr ? "" : checkout) / ".venv" / "bin" / "moesweep-data";
  if (!std::filesystem::exists(tool)) GTEST_SKIP() << "there is no " << tool << " (bash jobs/setup.sh packages makes it)";
  const TemporaryData data;
  std::string digits, letters;
  for (int i = 0; i < 20000; ++i) {
    digits += std::to_string(i) + (i % 10 == 9 ? "\n\n" : " ");
    letters += std::string(1, static_cast<char>('a' + i * 7 % 26)) + (i % 20 == 19 ? "\n\n" : "");
  }
  write_bytes(data.path() / "digits.txt", digits);
  for (int i = 0; i < 20; ++i) {
    std::filesystem::create_directories(data.path() / "letters");
    write_bytes(data.path() / "letters" / (std::to_string(i) + ".txt"), letters.substr(0, static_cast<std::size_t>(2000 + i)));
  }
  write_bytes(data.path() / "mixed.yaml",
              "kind: store\nstore: mixed\ndomains: [digits, letters]\nsources: [digits.txt, letters]\n"
              "tokenizer: bytes\nvocabulary: 256\nsequence_length: 16\nvalidation_share: 0.4\n");
  const std::string command = tool.string() + " build --quiet " + (data.path() / "mixed.yaml").string() + " >/dev/null";
  ASSERT_EQ(std::system(command.c_str()), 0) << command;

  DataConfig config;
  config.kind = DataKind::store;
  config.store = "mixed";
  config.domains = {"digits", "letters"};
  config.sources = {"digits.txt", "letters"};
  config.tokenizer = "bytes";
  config.vocabulary = 256;
  config.sequence_length = 16;
  config.validation_share = 0.4;
  const auto source = open_source(config);
  for (std::int64_t step = 0; step < 20; ++step)
    for (const auto& batch : {source->training(0, step, 16, 0, 16), source->validation(0, source->validation_sequences(1))})
      for (std::size_t i = 0; i < batch.tokens.size(); ++i) {
        const auto token = batch.tokens[i];
        const bool letter = token >= 'a' && token <= 'z', digit = token >= '0' && token <= '9';
        const bool blank = token == ' ' || token == '\n' || token == 0;
        EXPECT_TRUE(blank || (batch.domains[i / 17] == 0 ? digit : letter)) << token;
      }
  // A byte tokenizer has one token a byte, and one more for the end of each document.
  EXPECT_LT(source->bytes_per_token(0), 1);
  EXPECT_GT(source->bytes_per_token(0), 0.99);
}

}  // namespace
}  // namespace moesweep::data
