// See manifest.hpp.
#include "manifest.hpp"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <array>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "moesweep/core/error.hpp"
#include "moesweep/core/hash.hpp"
#include "moesweep/core/json.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/data/source.hpp"

namespace moesweep::data {

namespace {

constexpr std::string_view kFormat = "moesweep-tokens";
constexpr int kVersion = 1;

template <class Value, std::size_t N>
Value by_name(const std::array<std::pair<std::string_view, Value>, N>& names, const std::string& name) {
  for (const auto& [known, value] : names)
    if (known == name) return value;
  throw std::out_of_range("unknown name \"" + name + "\"");
}

constexpr std::array<std::pair<std::string_view, Encoding>, 3> kEncodings{
    {{"raw", Encoding::raw}, {"npy", Encoding::npy}, {"megatron", Encoding::megatron}}};
constexpr std::array<std::pair<std::string_view, TokenType>, 6> kTypes{{{"u8", TokenType::u8},
                                                                        {"u16", TokenType::u16},
                                                                        {"i16", TokenType::i16},
                                                                        {"u32", TokenType::u32},
                                                                        {"i32", TokenType::i32},
                                                                        {"i64", TokenType::i64}}};

SplitEntry parse_split(const Json& json, const std::filesystem::path& store) {
  SplitEntry entry;
  entry.domain = json.at("domain").get<std::string>();
  entry.split = json.at("split").get<std::string>();
  entry.file = store / json.at("file").get<std::string>();  // an absolute path stays as it is
  entry.encoding = by_name(kEncodings, json.at("encoding").get<std::string>());
  entry.type = by_name(kTypes, json.at("dtype").get<std::string>());
  entry.offset_bytes = json.at("offset_bytes").get<std::int64_t>();
  entry.first = json.at("first").get<std::int64_t>();
  entry.tokens = json.at("tokens").get<std::int64_t>();
  if (!json.at("text_bytes").is_null()) entry.text_bytes = json.at("text_bytes").get<std::int64_t>();
  entry.sha256 = json.at("sha256").get<std::string>();
  constexpr std::int64_t most = std::int64_t{1} << 56;  // sums and products of these stay in range
  for (const auto size : {entry.offset_bytes, entry.first, entry.tokens})
    if (size < 0 || size > most) throw std::out_of_range("the size " + std::to_string(size));
  return entry;
}

/// What differs between the config and the manifest, one phrase each.
std::vector<std::string> differences(const DataConfig& config, const Manifest& manifest) {
  std::vector<std::string> found;
  const auto differ = [&found](const char* key, const std::string& wanted, const std::string& there) {
    found.push_back(fmt::format("data.{} is {}, the store has {}", key, wanted, there));
  };
  if (config.domains != manifest.domains)
    differ("domains", fmt::format("[{}]", fmt::join(config.domains, ", ")), fmt::format("[{}]", fmt::join(manifest.domains, ", ")));
  if (!config.sources.empty() && config.sources != manifest.sources)
    differ("sources", fmt::format("[{}]", fmt::join(config.sources, ", ")), fmt::format("[{}]", fmt::join(manifest.sources, ", ")));
  if (config.tokenizer != manifest.tokenizer) {
    // A tokenizer.json may lie elsewhere than where the store was built: then its content decides.
    const bool is_file = config.tokenizer != "bytes" && config.tokenizer != "bpe" && std::filesystem::is_regular_file(config.tokenizer);
    if (!is_file || sha256_of_file(config.tokenizer) != manifest.tokenizer_sha256) differ("tokenizer", config.tokenizer, manifest.tokenizer);
  }
  if (config.vocabulary != manifest.vocabulary) differ("vocabulary", std::to_string(config.vocabulary), std::to_string(manifest.vocabulary));
  if (config.validation_share != manifest.validation_share)
    differ("validation_share", fmt::format("{}", config.validation_share), fmt::format("{}", manifest.validation_share));
  return found;
}

}  // namespace

std::int64_t size_of(TokenType type) {
  switch (type) {
    case TokenType::u8: return 1;
    case TokenType::u16:
    case TokenType::i16: return 2;
    case TokenType::u32:
    case TokenType::i32: return 4;
    case TokenType::i64: return 8;
  }
  return 0;
}

std::string name_of(TokenType type) {
  for (const auto& [name, value] : kTypes)
    if (value == type) return std::string(name);
  return "";
}

const SplitEntry& Manifest::find(const std::string& domain, const std::string& split) const {
  for (const auto& entry : splits)
    if (entry.domain == domain && entry.split == split) return entry;
  throw Error(ErrorKind::corrupt, fmt::format("has no {} split of domain {}", split, domain), (store / "manifest.json").string());
}

std::filesystem::path data_folder() {
  if (const char* chosen = std::getenv("MOESWEEP_DATA"); chosen != nullptr && *chosen != '\0') return chosen;
  std::error_code ignored;
  const auto here = std::filesystem::current_path(ignored);
  for (auto folder = here; !folder.empty(); folder = folder.parent_path()) {
    if (std::filesystem::is_regular_file(folder / "CMakeLists.txt", ignored) && std::filesystem::is_directory(folder / "configs", ignored))
      return folder / "build" / "data";
    if (folder == folder.parent_path()) break;
  }
  return here / "build" / "data";
}

std::filesystem::path store_folder(const DataConfig& config) { return data_folder() / config.store; }

std::string build_hint(const DataConfig& config) {
  return fmt::format(
      "make it: moesweep-data build configs/data/{}.yaml (or the file that holds this data section); $MOESWEEP_DATA says where stores lie",
      std::filesystem::path(config.store).filename().string());
}

Manifest read_manifest(const DataConfig& config) {
  Manifest manifest;
  manifest.store = store_folder(config);
  const auto path = manifest.store / "manifest.json";
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored))
    throw Error(ErrorKind::data, "there is no token store here", manifest.store.string(), build_hint(config));
  const std::string text = read_text(path);
  manifest.digest = sha256_hex(text);
  Json json;
  try {
    json = Json::parse(text);
    if (json.at("format").get<std::string>() != kFormat || json.at("version").get<int>() != kVersion)
      throw Error(ErrorKind::data,
                  fmt::format("is {} version {}, this program reads {} version {}", json.at("format").get<std::string>(),
                              json.at("version").get<int>(), kFormat, kVersion),
                  path.string(), build_hint(config));
    manifest.domains = json.at("domains").get<std::vector<std::string>>();
    manifest.sources = json.at("sources").get<std::vector<std::string>>();
    const Json& tokenizer = json.at("tokenizer");
    manifest.tokenizer = tokenizer.at("name").get<std::string>();
    if (!tokenizer.at("sha256").is_null()) manifest.tokenizer_sha256 = tokenizer.at("sha256").get<std::string>();
    manifest.vocabulary = json.at("vocabulary").get<std::int64_t>();
    manifest.validation_share = json.at("validation_share").get<double>();
    for (const auto& split : json.at("splits")) manifest.splits.push_back(parse_split(split, manifest.store));
  } catch (const Json::exception& error) {
    throw Error(ErrorKind::corrupt, fmt::format("is no manifest of a token store: {}", error.what()), path.string(), build_hint(config));
  } catch (const std::out_of_range& error) {
    throw Error(ErrorKind::corrupt, fmt::format("is no manifest of a token store: {}", error.what()), path.string(), build_hint(config));
  }
  if (const auto found = differences(config, manifest); !found.empty())
    throw Error(ErrorKind::data, fmt::format("the token store was made by another config: {}", fmt::join(found, "; ")), manifest.store.string(),
                build_hint(config));
  return manifest;
}

}  // namespace moesweep::data
