// See include/moesweep/data/config.hpp.
#include "moesweep/data/config.hpp"

#include <fmt/core.h>

#include <cmath>

namespace moesweep::data {

void SyntheticConfig::list(FieldList& fields) {
  fields.add("entropy", entropy, "entropy rate of each domain's chain").more_than(0).in_unit("nats per token");
  fields.add("shared_share", shared_share, "share of the vocabulary that all domains use").at_least(0).at_most(1);
  fields.add("seed", seed, "seed of the chains").at_least(0);
}

void DataConfig::list(FieldList& fields) {
  fields.add("kind", kind, "a token store made by moesweep-data, or synthetic Markov domains");
  fields.add("store", store, "folder of the token store, below $MOESWEEP_DATA unless absolute").execution();
  fields.add("domains", domains, "names of the domains, in the order of their numbers");
  fields.add("sources", sources, "one per domain: debian:PACKAGE, a path or glob of text files (.txt, .jsonl, .gz), megatron:PREFIX or npy:FILE");
  fields.add("tokenizer", tokenizer, "bytes, bpe (byte-level, trained on equal bytes a domain), or the path of a tokenizer.json");
  fields.add("vocabulary", vocabulary, "pieces of the tokenizer").at_least(2).at_most(4194304);
  fields.add("sequence_length", sequence_length, "tokens of a training sequence").at_least(2).at_most(1048576).in_unit("tokens");
  fields.add("validation_share", validation_share, "share of documents kept for validation, by a hash of the document's key")
      .more_than(0)
      .at_most(0.5);
  fields.add_section("synthetic", synthetic, "synthetic domains (kind: synthetic)");
}

std::string refusal(const DataConfig& config) {
  if (config.domains.empty()) return "data.domains is empty: name at least one domain";
  if (config.kind == DataKind::store && config.store.empty()) return "data.kind = store needs data.store, the folder of the token store";
  if (config.kind == DataKind::store && !config.sources.empty() && config.sources.size() != config.domains.size())
    return fmt::format("data.sources has {} entries for {} domains: give one per domain", config.sources.size(), config.domains.size());
  if (config.kind == DataKind::synthetic) {
    const double own =
        std::floor(static_cast<double>(config.vocabulary) * (1 - config.synthetic.shared_share) / static_cast<double>(config.domains.size()));
    const double shared = std::floor(static_cast<double>(config.vocabulary) * config.synthetic.shared_share);
    if (own + shared < 2) return fmt::format("data.vocabulary = {} is too small for {} synthetic domains", config.vocabulary, config.domains.size());
    if (config.synthetic.entropy > std::log(own + shared))
      return fmt::format("data.synthetic.entropy = {} is above the most that a domain's {} tokens allow, {:.4g} nats", config.synthetic.entropy,
                         own + shared, std::log(own + shared));
  }
  return "";
}

}  // namespace moesweep::data
