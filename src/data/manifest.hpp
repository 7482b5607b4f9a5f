// The manifest of a token store (format: analysis/TOKENS.md), and its check against a config.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "moesweep/data/config.hpp"

namespace moesweep::data {

/// How a token file is laid out: a plain run of tokens, a NumPy array, or Megatron's .bin beside its .idx.
enum class Encoding { raw, npy, megatron };
/// Element type of a token file, little-endian.
enum class TokenType { u8, u16, i16, u32, i32, i64 };

std::int64_t size_of(TokenType type);
std::string name_of(TokenType type);

/// Tokens [first, first + tokens) of a file are one split of one domain.
struct SplitEntry {
  std::string domain;
  std::string split;  ///< train or validation
  std::string name;   ///< of the file, as the manifest writes it: below the store, or (`npy`, `megatron`) absolute
  std::filesystem::path file;
  Encoding encoding = Encoding::raw;
  TokenType type = TokenType::u16;
  std::int64_t offset_bytes = 0;  ///< where token 0 of the file begins
  std::int64_t first = 0;
  std::int64_t tokens = 0;
  std::optional<std::int64_t> text_bytes;  ///< bytes of text that the tokens stand for, where known
  std::string sha256;                      ///< of the whole file, 64 hexadecimal digits
};

struct Manifest {
  std::filesystem::path store;
  std::string digest;  ///< SHA-256 of the manifest file
  std::string hint;    ///< what to do when the store is wrong
  std::vector<std::string> domains;
  std::vector<std::string> sources;
  std::string tokenizer;         ///< as the config named it
  std::string tokenizer_file;    ///< below the store; empty for bytes
  std::string tokenizer_sha256;  ///< empty for bytes
  std::int64_t vocabulary = 0;
  double validation_share = 0;
  std::vector<SplitEntry> splits;

  /// The split of a domain; a `corrupt` error when the manifest lacks it.
  const SplitEntry& find(const std::string& domain, const std::string& split) const;
};

/// The sentence that says how a store comes to be.
std::string build_hint(const DataConfig& config);

/// Folder of the store that the config names; a `config` error when a relative name leads out of $MOESWEEP_DATA.
std::filesystem::path store_folder(const DataConfig& config);

/// A manifest's text. `corrupt` errors name the manifest and the field that has a wrong type or range, or contradicts another; a `data` error when
/// it is of another version.
Manifest parse_manifest(const std::string& text, const std::filesystem::path& store, const std::string& hint);

/// Reads the manifest and checks it against the config: `data` errors name every key that differs, the others are those of `parse_manifest`.
Manifest read_manifest(const DataConfig& config);

}  // namespace moesweep::data
