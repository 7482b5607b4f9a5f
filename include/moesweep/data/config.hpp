// Where tokens come from; no torch here.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "moesweep/core/fields.hpp"

namespace moesweep::data {

enum class DataKind { store, synthetic };

/// Domains made by seeded Markov chains over their own parts of the vocabulary, of known entropy rate.
struct SyntheticConfig {
  double entropy = 2.0;        ///< entropy rate in nats per token, at most log(vocabulary / domains)
  double shared_share = 0.25;  ///< share of the vocabulary that all domains use
  std::int64_t seed = 0;

  void list(FieldList& fields);
};

struct DataConfig {
  DataKind kind = DataKind::synthetic;
  std::string store;                 ///< folder of the token store, below $MOESWEEP_DATA unless absolute
  std::vector<std::string> domains;  ///< names, in the order of their numbers
  std::vector<std::string> sources;  ///< one per domain: `debian:PACKAGE`, a path or glob of text files, `megatron:PREFIX` or `npy:FILE`
  std::string tokenizer = "bpe";     ///< `bytes`, `bpe`, or the path of a tokenizer.json
  std::int64_t vocabulary = 256;
  std::int64_t sequence_length = 64;
  double validation_share = 0.05;  ///< share of documents, by a hash of their key
  SyntheticConfig synthetic;

  void list(FieldList& fields);
};

/// Why the combination makes no sense; empty when it does.
std::string refusal(const DataConfig& config);

}  // namespace moesweep::data

namespace moesweep {
template <>
struct EnumNames<data::DataKind> {
  static constexpr std::array names{"store", "synthetic"};
};
}  // namespace moesweep
