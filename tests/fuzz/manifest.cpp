// The manifest of a token store, and token files: the input is manifest.json, then a.npy and b.idx, parted by lines of %%%%. In the manifest @FILE
// stands for the digest of a file of the store, so that changed files are read too. What is opened gives tokens of the vocabulary.
#include "data/manifest.hpp"

#include <algorithm>

#include "data/token_file.hpp"
#include "moesweep/core/hash.hpp"
#include "moesweep/data/source.hpp"
#include "reading.hpp"

using namespace moesweep;        // NOLINT
using namespace moesweep::fuzz;  // NOLINT
using namespace moesweep::data;  // NOLINT

namespace {

std::filesystem::path store() { return scratch() / "store"; }

void replace_all(std::string& text, const std::string& what, const std::string& with) {
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + with.size())) text.replace(at, what.size(), with);
}

/// A store of raw files for both splits of a domain, beside what an input brings.
void make_store() {
  std::filesystem::create_directory(store());
  ::setenv("MOESWEEP_DATA", scratch().c_str(), 1);
  ::setenv("XDG_CACHE_HOME", (scratch() / "cache").c_str(), 1);
  std::string counting;
  for (int i = 0; i < 200; ++i) counting += {static_cast<char>(i), '\0'};
  spill(store() / "t.u16", counting);
  spill(store() / "v.u16", counting.substr(0, 130));
  spill(store() / "b.bin", counting.substr(0, 200));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const bool once = (make_store(), true);
  static_cast<void>(once);
  auto parts = parts_of(data, size);
  parts.resize(3);
  spill(store() / "a.npy", parts[1]);
  spill(store() / "b.idx", parts[2]);
  std::string& text = parts[0];
  for (const char* name : {"t.u16", "v.u16", "a.npy", "b.bin"})
    if (text.find(std::string("@") + name) != std::string::npos) replace_all(text, std::string("@") + name, sha256_of_file(store() / name));
  if (text.size() > (std::size_t{1} << 20)) return 0;
  spill(store() / "manifest.json", text);

  Manifest manifest;
  if (refusal([&] { manifest = parse_manifest(text, store(), "build it again"); }, {ErrorKind::corrupt, ErrorKind::data})) return 0;
  constexpr std::int64_t kMostPart = 64;
  const auto in_vocabulary = [&](const auto& tokens) {
    return std::ranges::all_of(tokens, [&](std::int64_t token) { return token >= 0 && token < manifest.vocabulary; });
  };
  const auto kinds = {ErrorKind::corrupt, ErrorKind::data, ErrorKind::io};  // a file that a manifest names may not be there
  for (const SplitEntry& entry : manifest.splits) {
    if (entry.file.is_absolute() && !entry.file.string().starts_with(store().string())) continue;  // files of this machine are no part of the input
    refusal(
        [&] {
          const TokenFile file(entry, manifest.vocabulary);
          require(file.tokens() >= 0 && file.tokens() <= file.file().bytes(), "more tokens than bytes");
          std::vector<std::int32_t> tokens(static_cast<std::size_t>(std::min(file.tokens(), kMostPart)));
          file.copy(file.tokens() - std::ssize(tokens), tokens);
          require(in_vocabulary(tokens), "a token outside the vocabulary");
        },
        kinds);
  }
  if (std::ranges::any_of(manifest.splits, [](const SplitEntry& entry) { return !entry.file.string().starts_with(store().string()); })) return 0;

  DataConfig config;
  config.kind = DataKind::store;
  config.store = "store";
  config.domains = manifest.domains;
  config.sources = manifest.sources;
  config.tokenizer = manifest.tokenizer;
  config.vocabulary = manifest.vocabulary;
  config.validation_share = manifest.validation_share;
  config.sequence_length = 4;
  refusal(
      [&] {
        const auto source = open_source(config, DigestCheck::always);
        require(source->vocabulary() == manifest.vocabulary && source->domains() == static_cast<std::int64_t>(manifest.domains.size()),
                "another store");
        for (std::int64_t domain = 0; domain < source->domains(); ++domain)
          require(source->bytes_per_token(domain) > 0, "a domain without bytes per token");
        const std::int64_t sequences = 2 * source->domains();
        const Batch batch = source->training(1, 2, sequences, 0, sequences);
        require(batch.sequences() == sequences && std::ssize(batch.tokens) == 5 * sequences && in_vocabulary(batch.tokens), "a wrong batch");
        const std::int64_t some = source->validation_sequences(1);
        require(in_vocabulary(source->validation(0, some).tokens), "a wrong validation batch");
      },
      kinds);
  return 0;
}
