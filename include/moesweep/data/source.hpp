// Domain-balanced batches of token sequences, from a token store or from synthetic domains; torch-free.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "moesweep/data/config.hpp"

namespace moesweep::data {

/// Sequences of one length, each from one domain. `tokens` is [sequences, length + 1]: the last token of a row is only ever a target.
struct Batch {
  std::int64_t length = 0;
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> domains;  ///< [sequences]
  std::vector<std::int64_t> index;    ///< [sequences], index of each in the global batch (or validation batch)

  std::int64_t sequences() const { return static_cast<std::int64_t>(domains.size()); }
};

/// Where sequences come from. Every member is a pure function of its arguments and the config, whatever the rank. Several threads may call them.
/// A token store's file that was cut short or cannot be read meanwhile is an `io` error of `training` and `validation`, a token outside the
/// vocabulary a `corrupt` one.
class Source {
 public:
  virtual ~Source() = default;
  virtual std::int64_t vocabulary() const = 0;
  virtual std::int64_t domains() const = 0;
  /// SHA-256 that names the content (of the store's manifest, or of the synthetic config).
  virtual std::string digest() const = 0;
  /// Mean bytes of text per token in that domain's validation split, for bits per byte; 1 for synthetic tokens.
  virtual double bytes_per_token(std::int64_t domain) const = 0;

  /// Sequences [first, first + count) of the global batch of `step`: `batch_sequences` in all, equal domain shares, their order shuffled
  /// by (seed, step) so that micro-batches hold few domains by chance only.
  virtual Batch training(std::int64_t seed, std::int64_t step, std::int64_t batch_sequences, std::int64_t first, std::int64_t count) const = 0;

  /// Sequences [first, first + count) of the fixed validation set (order fixed by the data config alone, domains mixed as in training).
  virtual Batch validation(std::int64_t first, std::int64_t count) const = 0;
  /// How many validation sequences there are for `tokens` tokens, rounded up to whole blocks of 8 of each domain, inside which domains are
  /// shuffled; a `data` error when the validation split is too small.
  virtual std::int64_t validation_sequences(std::int64_t tokens) const = 0;
};

/// When the files of a token store are compared with the digests of its manifest: once a machine, and again when a file's size, inode or times are
/// others; or, whatever is remembered, once in each run of the program.
enum class DigestCheck { cached, always };

/// Opens what the config names. $MOESWEEP_DATA (default build/data) holds relative stores. Missing or mismatching stores are `data` errors
/// whose hint is the `moesweep-data build` command that makes them; files that are not those that the manifest lists are `corrupt`. What is
/// remembered of digests lies in $XDG_CACHE_HOME/moesweep or ~/.cache/moesweep; nothing is written into the store. The first opening of a store on
/// a machine reads all of it; processes of one machine that open it at once take turns.
std::unique_ptr<Source> open_source(const DataConfig& config, DigestCheck check = DigestCheck::cached);

/// Where relative stores lie: $MOESWEEP_DATA, else build/data of the checkout around the current folder, else of the current folder.
std::filesystem::path data_folder();

/// The entropy rate of a synthetic domain in nats per token, from its transition matrix.
double synthetic_entropy_rate(const DataConfig& config, std::int64_t domain);

}  // namespace moesweep::data
