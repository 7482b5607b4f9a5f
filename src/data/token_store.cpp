// See token_store.hpp.
#include "token_store.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "digests.hpp"
#include "manifest.hpp"
#include "moesweep/core/error.hpp"
#include "sequence_order.hpp"
#include "token_file.hpp"

namespace moesweep::data {

namespace {

class TokenStore final : public Source {
 public:
  TokenStore(const DataConfig& config, DigestCheck check) : manifest_(read_manifest(config)), length_(config.sequence_length) {
    for (const auto& domain : manifest_.domains) {
      train_.emplace_back(manifest_.find(domain, "train"), manifest_.vocabulary);
      validation_.emplace_back(manifest_.find(domain, "validation"), manifest_.vocabulary);
      if (train_.back().tokens() <= length_)
        throw Error(ErrorKind::data,
                    fmt::format("domain {} has {} training tokens, too few for a sequence of {}", domain, train_.back().tokens(), length_),
                    manifest_.store.string(), "give more text, or a smaller data.sequence_length");
      windows_ = std::min(windows_, (validation_.back().tokens() - 1) / length_);
    }
    check_files(check);
  }

  std::int64_t vocabulary() const override { return manifest_.vocabulary; }
  std::int64_t domains() const override { return static_cast<std::int64_t>(train_.size()); }
  std::string digest() const override { return manifest_.digest; }

  double bytes_per_token(std::int64_t domain) const override {
    const auto& entry = validation_.at(static_cast<std::size_t>(domain)).entry();
    return entry.text_bytes.value_or(0) > 0 && entry.tokens > 0 ? static_cast<double>(*entry.text_bytes) / static_cast<double>(entry.tokens) : 1;
  }

  Batch training(std::int64_t seed, std::int64_t step, std::int64_t batch_sequences, std::int64_t first, std::int64_t count) const override {
    Batch batch = empty(count);
    for (const auto& slot : training_slots(seed, step, batch_sequences, domains(), first, count)) {
      const std::int64_t index = first + batch.sequences();
      const TokenFile& file = train_[static_cast<std::size_t>(slot.domain)];
      append(batch, slot.domain, index, file, training_start(seed, step, index, file.tokens() - length_));
    }
    return batch;
  }

  Batch validation(std::int64_t first, std::int64_t count) const override {
    Batch batch = empty(count);
    for (const auto& slot : validation_slots(domains(), first, count)) {
      if (slot.number >= windows_) throw too_small(first + count);
      const TokenFile& file = validation_[static_cast<std::size_t>(slot.domain)];
      const std::int64_t windows = (file.tokens() - 1) / length_;
      append(batch, slot.domain, first + batch.sequences(), file, spread_window(slot.number, windows) * length_);
    }
    return batch;
  }

  std::int64_t validation_sequences(std::int64_t tokens) const override {
    const std::int64_t sequences = validation_sequences_for(tokens, length_, domains());
    if (sequences / domains() > windows_) throw too_small(sequences);
    return sequences;
  }

 private:
  /// Compares every file that the manifest lists with its digest, by the descriptors that batches are read from.
  void check_files(DigestCheck check) const {
    std::map<std::string, ListedFile> listed;
    for (const auto* files : {&train_, &validation_})
      for (const TokenFile& file : *files) {
        const SplitEntry& entry = file.entry();
        const auto [known, is_new] = listed.emplace(entry.name, ListedFile{&file.file(), entry.name, entry.sha256});
        if (!is_new && known->second.sha256 != entry.sha256)
          throw Error(ErrorKind::corrupt, fmt::format("gives {} two digests", entry.name), (manifest_.store / "manifest.json").string(),
                      manifest_.hint);
      }
    std::optional<RegularFile> tokenizer;
    if (!manifest_.tokenizer_file.empty()) {
      tokenizer.emplace(manifest_.store / manifest_.tokenizer_file);
      listed.emplace(manifest_.tokenizer_file, ListedFile{&*tokenizer, manifest_.tokenizer_file, manifest_.tokenizer_sha256});
    }
    std::vector<ListedFile> files;
    for (const auto& [name, file] : listed) files.push_back(file);
    check_digests(manifest_.store, files, {.check = check});
  }

  Batch empty(std::int64_t count) const {
    Batch batch{.length = length_, .tokens = {}, .domains = {}, .index = {}};
    batch.tokens.reserve(static_cast<std::size_t>(count * (length_ + 1)));
    return batch;
  }

  void append(Batch& batch, std::int64_t domain, std::int64_t index, const TokenFile& file, std::int64_t start) const {
    const std::size_t row = batch.tokens.size();
    const auto width = static_cast<std::size_t>(length_ + 1);
    batch.tokens.resize(row + width);
    file.copy(start, std::span(batch.tokens).subspan(row, width));
    batch.domains.push_back(static_cast<std::int32_t>(domain));
    batch.index.push_back(index);
  }

  Error too_small(std::int64_t sequences) const {
    std::size_t smallest = 0;
    for (std::size_t d = 1; d < validation_.size(); ++d)
      if (validation_[d].tokens() < validation_[smallest].tokens()) smallest = d;
    const std::int64_t most = windows_ / kValidationBlockPerDomain * kValidationBlockPerDomain * domains() * length_;
    return {ErrorKind::data,
            fmt::format("{} validation sequences of {} tokens are asked for, but domain {} has {} of them in its validation split, and {} of each "
                        "domain are needed",
                        sequences, length_, manifest_.domains[smallest], windows_, (sequences + domains() - 1) / domains()),
            manifest_.store.string(), fmt::format("validate on at most {} tokens, or build the store with a larger data.validation_share", most)};
  }

  Manifest manifest_;
  std::int64_t length_;
  std::vector<TokenFile> train_, validation_;                        ///< [domains]
  std::int64_t windows_ = std::numeric_limits<std::int64_t>::max();  ///< validation windows of the domain that has the fewest
};

}  // namespace

std::unique_ptr<Source> open_token_store(const DataConfig& config, DigestCheck check) { return std::make_unique<TokenStore>(config, check); }

}  // namespace moesweep::data
