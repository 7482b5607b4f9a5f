// The reader of token stores against stores that the test writes: content, order, foreign encodings, and what it refuses.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <string>

#include "data/store_writer.hpp"
#include "moesweep/core/error.hpp"

namespace moesweep::data {
namespace {

std::string npy_of(const std::string& type, std::int64_t count, const std::string& bytes, const std::string& shape_end = ",)") {
  std::string header = "{'descr': '" + type + "', 'fortran_order': False, 'shape': (" + std::to_string(count) + shape_end + ", }";
  header.resize((10 + header.size() + 64) / 64 * 64 - 11, ' ');
  header += '\n';
  const auto length = static_cast<std::uint16_t>(header.size());
  return std::string("\x93NUMPY\x01\x00", 8) + std::string(reinterpret_cast<const char*>(&length), 2) + header + bytes;
}

std::string megatron_index(int type, const std::vector<std::int64_t>& lengths) {
  std::string index("MMIDIDX\0\0", 9);
  index += bytes_of<std::uint64_t>({1}) + static_cast<char>(type) + bytes_of<std::uint64_t>({std::ssize(lengths), std::ssize(lengths) + 1});
  index += bytes_of<std::int32_t>(lengths);
  std::vector<std::int64_t> pointers, documents{0};
  std::int64_t at = 0;
  for (const auto length : lengths) {
    pointers.push_back(at);
    at += length * 4;
    documents.push_back(std::ssize(documents));
  }
  return index + bytes_of<std::int64_t>(pointers) + bytes_of<std::int64_t>(documents);
}

/// Row s of a batch counts up from its first token, inside [low, high).
void expect_counting(const Batch& batch, std::int64_t s, std::int32_t low, std::int32_t high) {
  const std::int32_t* row = batch.tokens.data() + s * (batch.length + 1);
  EXPECT_GE(row[0], low);
  EXPECT_LT(row[batch.length], high);
  for (std::int64_t t = 1; t <= batch.length; ++t) EXPECT_EQ(row[t], row[0] + t);
}

TEST(TokenStore, TrainingSequencesAreWindowsOfTheirDomain) {
  const TemporaryData data;
  const TinyStore tiny(data.path());
  const auto source = open_source(tiny.config);
  EXPECT_EQ(source->vocabulary(), 1000);
  EXPECT_EQ(source->domains(), 2);
  EXPECT_DOUBLE_EQ(source->bytes_per_token(0), 3);
  std::set<std::int32_t> starts;
  for (std::int64_t step = 0; step < 300; ++step) {
    const auto batch = source->training(1, step, 12, 0, 12);
    ASSERT_EQ(batch.sequences(), 12);
    ASSERT_EQ(batch.tokens.size(), 12U * 5U);
    EXPECT_EQ(std::count(batch.domains.begin(), batch.domains.end(), 0), 6);
    for (std::int64_t s = 0; s < 12; ++s) {
      const bool first = batch.domains[static_cast<std::size_t>(s)] == 0;
      expect_counting(batch, s, first ? 0 : 500, first ? 200 : 800);
      if (first) starts.insert(batch.tokens[static_cast<std::size_t>(s * 5)]);
    }
  }
  EXPECT_EQ(starts.size(), 196U);  // every start from 0 to 195 comes up, the last window's last target is token 199
  EXPECT_EQ(*starts.rbegin(), 195);
}

TEST(TokenStore, ASliceIsTheSameHoweverItIsCut) {
  const TemporaryData data;
  const TinyStore tiny(data.path());
  const auto source = open_source(tiny.config);
  const auto all = source->training(3, 9, 16, 0, 16);
  for (std::int64_t first = 0; first < 16; first += 4) {
    const auto part = source->training(3, 9, 16, first, 4);
    EXPECT_EQ(part.tokens, std::vector<std::int32_t>(all.tokens.begin() + first * 5, all.tokens.begin() + (first + 4) * 5));
    EXPECT_EQ(part.index.front(), first);
  }
  EXPECT_EQ(source->training(3, 9, 16, 16, 0).sequences(), 0);
}

TEST(TokenStore, ValidationWindowsDoNotOverlapAndLieAllOverTheSplit) {
  const TemporaryData data;
  const TinyStore tiny(data.path());
  const auto source = open_source(tiny.config);
  EXPECT_EQ(source->validation_sequences(1), 16);
  EXPECT_EQ(source->validation_sequences(16 * 4 + 1), 32);
  const auto batch = source->validation(0, 32);
  std::map<std::int32_t, std::set<std::int32_t>> starts;
  for (std::int64_t s = 0; s < 32; ++s) {
    const auto domain = batch.domains[static_cast<std::size_t>(s)];
    expect_counting(batch, s, domain == 0 ? 200 : 800, domain == 0 ? 265 : 901);
    const auto start = batch.tokens[static_cast<std::size_t>(s * 5)] - (domain == 0 ? 200 : 800);
    EXPECT_EQ(start % 4, 0);
    EXPECT_TRUE(starts[domain].insert(start).second) << "window " << start << " comes twice";
  }
  EXPECT_EQ(starts[0].size(), 16U);  // all 16 windows of the smaller split
  EXPECT_EQ(starts[1].size(), 16U);
  EXPECT_GE(*starts[1].rbegin(), 80);  // 16 of 25 windows reach the end of the split
  const auto later = source->validation(20, 7);
  EXPECT_EQ(later.tokens, std::vector<std::int32_t>(batch.tokens.begin() + 20 * 5, batch.tokens.begin() + 27 * 5));
}

TEST(TokenStore, ReadsNpyArraysInPlace) {
  const TemporaryData data;
  TinyStore tiny(data.path());
  const auto reference = open_source(tiny.config)->training(1, 2, 8, 0, 8);
  const auto values = TinyStore::counting(-7, 215);  // the split begins at token 7 of the file
  const std::map<std::string, std::pair<std::string, std::string>> types{{"i64", {"<i8", bytes_of<std::int64_t>(values)}},
                                                                         {"i32", {"<i4", bytes_of<std::int32_t>(values)}},
                                                                         {"i16", {"<i2", bytes_of<std::int16_t>(values)}}};
  for (const auto& [name, type] : types) {
    const auto npy = npy_of(type.first, 215, type.second);
    const auto path = data.path() / ("a." + name + ".npy");
    write_bytes(path, npy);
    auto& entry = tiny.split("a", "train");
    entry["file"] = path.string();
    entry["encoding"] = "npy";
    entry["dtype"] = name;
    entry["offset_bytes"] = npy.size() - type.second.size();
    entry["first"] = 7;
    entry["sha256"] = sha256_hex(npy);
    tiny.save();
    EXPECT_EQ(open_source(tiny.config)->training(1, 2, 8, 0, 8).tokens, reference.tokens) << name;
  }
}

TEST(TokenStore, ReadsMegatronFilesInPlace) {
  const TemporaryData data;
  TinyStore tiny(data.path());
  const auto reference = open_source(tiny.config)->training(1, 2, 8, 0, 8);
  const auto bytes = bytes_of<std::int32_t>(TinyStore::counting(-10, 220));
  write_bytes(data.path() / "text.bin", bytes);
  write_bytes(data.path() / "text.idx", megatron_index(4, {10, 100, 60, 50}));
  auto& entry = tiny.split("a", "train");
  entry["file"] = (data.path() / "text.bin").string();
  entry["encoding"] = "megatron";
  entry["dtype"] = "i32";
  entry["first"] = 10;
  entry["text_bytes"] = nullptr;
  entry["sha256"] = sha256_hex(bytes);
  tiny.save();
  EXPECT_EQ(open_source(tiny.config)->training(1, 2, 8, 0, 8).tokens, reference.tokens);
}

TEST(TokenStore, AFileThatIsCutShortWhileInUseIsAnIoError) {
  const TemporaryData data;
  TinyStore tiny(data.path());
  const auto tokens = TinyStore::counting(0, 40000);  // many pages
  tiny.config.vocabulary = tiny.manifest["vocabulary"] = 65536;
  const auto bytes = bytes_of<std::uint16_t>(tokens);
  write_bytes(tiny.folder / "a.train.u16", bytes);
  tiny.split("a", "train").update({{"tokens", tokens.size()}, {"sha256", sha256_hex(bytes)}});
  tiny.save();
  const auto source = open_source(tiny.config);
  source->training(1, 0, 64, 0, 64);
  std::filesystem::resize_file(tiny.folder / "a.train.u16", 0);
  try {
    source->training(1, 0, 64, 0, 64);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(name_of(error.kind()), std::string("io"));
    EXPECT_NE(error.message().find("it was cut short meanwhile"), std::string::npos) << error.message();
    EXPECT_EQ(error.where(), (tiny.folder / "a.train.u16").string());
  }
}

TEST(TokenStore, AStoreIsBelowTheDataFolderOrAbsolute) {
  const TemporaryData data;
  TinyStore tiny(data.path());
  std::filesystem::create_directory(data.path() / "inner");
  const auto reference = open_source(tiny.config)->training(1, 2, 8, 0, 8);
  for (const auto& name : {tiny.folder.string(), std::string("inner/../tiny"), std::string("./tiny/")}) {
    tiny.config.store = name;
    EXPECT_EQ(open_source(tiny.config)->training(1, 2, 8, 0, 8).tokens, reference.tokens) << name;
  }
  ::setenv("MOESWEEP_DATA", (data.path() / "inner").c_str(), 1);
  for (const auto& name : {std::string("../tiny"), std::string("x/../../tiny"), std::string("tiny\0", 5)}) {
    tiny.config.store = name;
    try {
      open_source(tiny.config);
      FAIL() << "no error for " << name;
    } catch (const Error& error) {
      EXPECT_EQ(name_of(error.kind()), std::string("config"));
      EXPECT_NE(error.message().find("data.store leads out of"), std::string::npos) << error.message();
    }
  }
}

TEST(TokenStore, TextBytesOfZeroAreNotKnown) {
  const TemporaryData data;
  TinyStore tiny(data.path());
  tiny.split("a", "validation")["text_bytes"] = 0;
  tiny.save();
  EXPECT_EQ(open_source(tiny.config)->bytes_per_token(0), 1);  // bits per byte stay finite
}

TEST(TokenStore, DigestIsThatOfTheManifest) {
  const TemporaryData data;
  TinyStore tiny(data.path());
  EXPECT_EQ(open_source(tiny.config)->digest(), sha256_hex(tiny.manifest.dump(1)));
}

TEST(TokenStore, WithoutMoesweepDataStoresLieInTheCheckout) {
  ::unsetenv("MOESWEEP_DATA");
  const char* checkout = std::getenv("MOESWEEP_SOURCE_DIR");
  if (checkout == nullptr) GTEST_SKIP() << "ctest sets MOESWEEP_SOURCE_DIR";
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(std::filesystem::path(checkout) / "configs");
  const auto folder = data_folder();
  std::filesystem::current_path(before);
  EXPECT_TRUE(std::filesystem::equivalent(folder.parent_path().parent_path(), checkout)) << folder;
  EXPECT_EQ(folder.filename(), "data");
}

// --- what is refused: a line per case

struct Refusal {
  const char* name;
  std::function<void(TinyStore&)> spoil;
  ErrorKind kind;
  const char* message;
};

void use(TinyStore& tiny) {
  const auto source = open_source(tiny.config);
  source->validation_sequences(64);
  for (std::int64_t step = 0; step < 50; ++step) source->training(0, step, 8, 0, 8);
}

void as_npy(TinyStore& tiny, const std::string& npy) {
  auto& entry = tiny.split("a", "train");
  write_bytes(tiny.folder / "a.npy", npy);
  entry["file"] = "a.npy";
  entry["encoding"] = "npy";
  entry["offset_bytes"] = 128;
  entry["sha256"] = sha256_hex(npy);
}

std::string patched(std::string bytes, std::size_t at, const std::string& with) { return bytes.replace(at, with.size(), with); }

void as_megatron(TinyStore& tiny, const std::string& index) {
  auto& entry = tiny.split("a", "train");
  const auto bytes = bytes_of<std::uint16_t>(TinyStore::counting(0, 200));
  write_bytes(tiny.folder / "a.bin", bytes);
  write_bytes(tiny.folder / "a.idx", index);
  entry["file"] = "a.bin";
  entry["encoding"] = "megatron";
  entry["sha256"] = sha256_hex(bytes);
}

const std::vector<Refusal>& refusals() {
  static const auto u16 = [](std::int64_t count) { return bytes_of<std::uint16_t>(TinyStore::counting(0, count)); };
  static const std::vector<Refusal> list{
      {"Missing", [](TinyStore& t) { t.config.store = "other"; }, ErrorKind::data, "there is no token store here"},
      {"NoJson", [](TinyStore& t) { write_bytes(t.folder / "manifest.json", "{"); }, ErrorKind::corrupt, "this is no JSON"},
      {"NoUtf8", [](TinyStore& t) { write_bytes(t.folder / "manifest.json", "{\"format\": \"\xff\"}"); }, ErrorKind::corrupt, "this is not UTF-8"},
      {"Deep", [](TinyStore& t) { write_bytes(t.folder / "manifest.json", std::string(1 << 20, '[')); }, ErrorKind::corrupt, "nested deeper than"},
      {"Long", [](TinyStore& t) { write_bytes(t.folder / "manifest.json", std::string((1 << 24) + 1, ' ')); }, ErrorKind::corrupt,
       "a manifest has at most 16777216"},
      {"AList", [](TinyStore& t) { write_bytes(t.folder / "manifest.json", "[]"); }, ErrorKind::corrupt, "expected an object but found an array"},
      {"KeyMissing", [](TinyStore& t) { t.manifest.erase("vocabulary"), t.save(); }, ErrorKind::corrupt, "vocabulary is missing"},
      {"UnknownEncoding", [](TinyStore& t) { t.split("a", "train")["encoding"] = "zip", t.save(); }, ErrorKind::corrupt,
       "splits[0].encoding: expected one of raw, npy, megatron but found \"zip\""},
      {"UnknownType", [](TinyStore& t) { t.split("a", "train")["dtype"] = "f32", t.save(); }, ErrorKind::corrupt,
       "splits[0].dtype: expected one of u8"},
      {"NegativeFirst", [](TinyStore& t) { t.split("a", "train")["first"] = -1, t.save(); }, ErrorKind::corrupt,
       "splits[0].first: expected an integer"},
      {"NegativeTokens", [](TinyStore& t) { t.split("b", "validation")["tokens"] = -200, t.save(); }, ErrorKind::corrupt,
       "splits[3].tokens: expected an integer from 0 to 72057594037927936 but found -200"},
      {"NegativeOffset", [](TinyStore& t) { t.split("a", "train")["offset_bytes"] = -2, t.save(); }, ErrorKind::corrupt, "splits[0].offset_bytes"},
      {"HugeTokens", [](TinyStore& t) { t.split("a", "train")["tokens"] = std::uint64_t{1} << 63, t.save(); }, ErrorKind::corrupt,
       "splits[0].tokens"},
      {"BrokenTokens", [](TinyStore& t) { t.split("a", "train")["tokens"] = 200.5, t.save(); }, ErrorKind::corrupt,
       "splits[0].tokens: expected an integer"},
      {"TokensAsText", [](TinyStore& t) { t.split("a", "train")["tokens"] = "200", t.save(); }, ErrorKind::corrupt,
       "splits[0].tokens: expected an integer"},
      {"NegativeTextBytes", [](TinyStore& t) { t.split("a", "validation")["text_bytes"] = -7, t.save(); }, ErrorKind::corrupt,
       "splits[1].text_bytes: expected an integer from 0 to 72057594037927936 but found -7"},
      {"ShortDigest", [](TinyStore& t) { t.split("a", "train")["sha256"] = "abc", t.save(); }, ErrorKind::corrupt,
       "splits[0].sha256: expected 64 hexadecimal digits"},
      {"OtherSplit", [](TinyStore& t) { t.split("a", "train")["split"] = "test", t.save(); }, ErrorKind::corrupt,
       "splits[0].split: expected train or validation"},
      {"StrangeDomain", [](TinyStore& t) { t.split("a", "train")["domain"] = "c", t.save(); }, ErrorKind::corrupt,
       "splits[0].domain: expected one of the domains but found \"c\""},
      {"SplitTwice", [](TinyStore& t) { t.add("a", "train", TinyStore::counting(0, 9)), t.save(); }, ErrorKind::corrupt,
       "splits[4]: expected the only train split of a"},
      {"DomainTwice",
       [](TinyStore& t) {
         t.manifest["domains"] = {"a", "a"}, t.save();
       },
       ErrorKind::corrupt, "domains: expected names of domains, each once"},
      {"SourceMissing", [](TinyStore& t) { t.manifest["sources"] = {"a.txt"}, t.save(); }, ErrorKind::corrupt,
       "sources: expected 2 texts, one per domain"},
      {"SmallVocabulary", [](TinyStore& t) { t.manifest["vocabulary"] = 1, t.save(); }, ErrorKind::corrupt, "vocabulary: expected an integer from 2"},
      {"HugeVocabulary", [](TinyStore& t) { t.manifest["vocabulary"] = 4194305, t.save(); }, ErrorKind::corrupt, "to 4194304 but found 4194305"},
      {"LargeShare", [](TinyStore& t) { t.manifest["validation_share"] = 0.6, t.save(); }, ErrorKind::corrupt,
       "validation_share: expected a number above 0"},
      {"TokenizerAbove",
       [](TinyStore& t) {
         t.manifest["tokenizer"].update({{"file", "../t"}, {"sha256", std::string(64, '0')}}), t.save();
       },
       ErrorKind::corrupt, "tokenizer.file: expected the name of a file below the store"},
      {"RawElsewhere",
       [](TinyStore& t) {
         const auto elsewhere = t.folder.parent_path() / "secret.u16";
         std::filesystem::copy_file(t.folder / "a.train.u16", elsewhere);
         t.split("a", "train")["file"] = elsewhere.string();
         t.save();
       },
       ErrorKind::corrupt, "splits[0].file: expected the name of a file below the store, without .."},
      {"RawAbove",
       [](TinyStore& t) {
         std::filesystem::copy_file(t.folder / "a.train.u16", t.folder.parent_path() / "secret.u16");
         t.split("a", "train")["file"] = "x/../../secret.u16";
         t.save();
       },
       ErrorKind::corrupt, "splits[0].file: expected the name of a file below the store, without .."},
      {"NpyAbove", [](TinyStore& t) { as_npy(t, npy_of("<u2", 200, u16(200))), t.split("a", "train")["file"] = "../tiny/a.npy", t.save(); },
       ErrorKind::corrupt, "or an absolute path, without .."},
      {"OtherVersion", [](TinyStore& t) { t.manifest["version"] = 2, t.save(); }, ErrorKind::data,
       "is moesweep-tokens version 2, this program reads moesweep-tokens version 1"},
      {"Domains",
       [](TinyStore& t) {
         t.config.domains = {"b", "a"};
       },
       ErrorKind::data, "data.domains is [b, a], the store has [a, b]"},
      {"Sources",
       [](TinyStore& t) {
         t.config.sources = {"a.txt", "c.txt"};
       },
       ErrorKind::data, "data.sources is [a.txt, c.txt], the store has [a.txt, b.txt]"},
      {"Tokenizer", [](TinyStore& t) { t.config.tokenizer = "bpe"; }, ErrorKind::data, "data.tokenizer is bpe, the store has bytes"},
      {"Vocabulary", [](TinyStore& t) { t.config.vocabulary = 1024; }, ErrorKind::data, "data.vocabulary is 1024, the store has 1000"},
      {"Share", [](TinyStore& t) { t.config.validation_share = 0.1; }, ErrorKind::data, "data.validation_share is 0.1, the store has 0.25"},
      {"SplitMissing", [](TinyStore& t) { t.manifest["splits"].erase(3), t.save(); }, ErrorKind::corrupt, "has no validation split of domain b"},
      {"CutShort", [](TinyStore& t) { std::filesystem::resize_file(t.folder / "b.train.u16", 598); }, ErrorKind::corrupt,
       "has 598 bytes, the manifest says 600"},
      {"FileMissing", [](TinyStore& t) { std::filesystem::remove(t.folder / "b.train.u16"); }, ErrorKind::io, "cannot read: No such file"},
      {"FileIsAPipe",
       [](TinyStore& t) {
         std::filesystem::remove(t.folder / "b.train.u16");
         ASSERT_EQ(::mkfifo((t.folder / "b.train.u16").c_str(), 0600), 0);
       },
       ErrorKind::io, "it is a pipe, not a regular file"},
      {"LongSequences", [](TinyStore& t) { t.config.sequence_length = 200; }, ErrorKind::data,
       "domain a has 200 training tokens, too few for a sequence of 200"},
      {"SmallValidation", [](TinyStore& t) { t.config.sequence_length = 10; }, ErrorKind::data,
       "16 validation sequences of 10 tokens are asked for, but domain a has 6 of them in its validation split, and 8 of each domain are needed"},
      {"OutsideVocabulary", [](TinyStore& t) { t.config.vocabulary = 600, t.manifest["vocabulary"] = 600, t.save(); }, ErrorKind::corrupt,
       "of the train split of b is outside the vocabulary of 600"},
      {"OtherBytes", [](TinyStore& t) { write_bytes(t.folder / "b.validation.u16", std::string(202, '\0')); }, ErrorKind::corrupt,
       "has another digest than the manifest says"},
      {"NoNpy", [](TinyStore& t) { as_npy(t, u16(200)), t.save(); }, ErrorKind::corrupt, "is no .npy file"},
      {"NpyOtherType", [](TinyStore& t) { as_npy(t, npy_of("<u4", 200, u16(400))), t.save(); }, ErrorKind::corrupt,
       "holds u32 tokens, the manifest says u16"},
      {"NpyBigEndian", [](TinyStore& t) { as_npy(t, npy_of(">u2", 200, u16(200))), t.save(); }, ErrorKind::corrupt, "not little-endian integers"},
      {"NpyNegative", [](TinyStore& t) { as_npy(t, npy_of("<u2", -200, u16(200))), t.save(); }, ErrorKind::corrupt, "is no one-dimensional"},
      {"NpyHuge", [](TinyStore& t) { as_npy(t, npy_of("<u2", std::int64_t{1} << 62, u16(200))), t.save(); }, ErrorKind::corrupt,
       "a size is negative or too large"},
      {"NpyHugeHeader",
       [](TinyStore& t) {
         as_npy(t, patched(npy_of("<u2", 200, u16(200)), 6, {"\x02\0\xf0\xff\xff\xff", 6})), t.save();
       },
       ErrorKind::corrupt, "has an .npy header of 4294967280 bytes"},
      {"NpyOtherVersion", [](TinyStore& t) { as_npy(t, patched(npy_of("<u2", 200, u16(200)), 6, "\x09")), t.save(); }, ErrorKind::corrupt,
       "is an .npy file of version 9"},
      {"NpyMatrix", [](TinyStore& t) { as_npy(t, npy_of("<u2", 20, u16(200), ", 10)")), t.save(); }, ErrorKind::corrupt, "is no one-dimensional"},
      {"NpyCutShort", [](TinyStore& t) { as_npy(t, npy_of("<u2", 200, u16(150))), t.save(); }, ErrorKind::corrupt, "its header says"},
      {"NoMegatron", [](TinyStore& t) { as_megatron(t, "MMIDIDX"), t.save(); }, ErrorKind::corrupt, "is no Megatron index"},
      {"MegatronOtherType", [](TinyStore& t) { as_megatron(t, megatron_index(4, {200})), t.save(); }, ErrorKind::corrupt,
       "holds i32 tokens, the manifest says u16"},
      {"MegatronFloats", [](TinyStore& t) { as_megatron(t, megatron_index(7, {200})), t.save(); }, ErrorKind::corrupt, "names element type 7"},
      {"MegatronLengths", [](TinyStore& t) { as_megatron(t, megatron_index(8, {150})), t.save(); }, ErrorKind::corrupt, "its header says 300"},
      {"MegatronNegativeLength",
       [](TinyStore& t) {
         as_megatron(t, megatron_index(8, {300, -100})), t.save();
       },
       ErrorKind::corrupt, "names a sequence of -100 tokens"},
      {"MegatronHugeCount",
       [](TinyStore& t) { as_megatron(t, patched(megatron_index(8, {200}), 18, bytes_of<std::uint64_t>({std::int64_t{1} << 60}))), t.save(); },
       ErrorKind::corrupt, "a size is negative or too large"},
      {"MegatronNegativeCount", [](TinyStore& t) { as_megatron(t, patched(megatron_index(8, {200}), 18, std::string(8, '\xff'))), t.save(); },
       ErrorKind::corrupt, "a size is negative or too large"},
      {"MegatronManyDocuments", [](TinyStore& t) { as_megatron(t, patched(megatron_index(8, {200}), 26, bytes_of<std::uint64_t>({99}))), t.save(); },
       ErrorKind::corrupt, "is cut short"},
      {"MegatronCutShort", [](TinyStore& t) { as_megatron(t, megatron_index(8, {200}).substr(0, 36)), t.save(); }, ErrorKind::corrupt,
       "is cut short"},
  };
  return list;
}

class Refusals : public testing::TestWithParam<std::size_t> {};

TEST_P(Refusals, NameWhatIsWrong) {
  const auto& refusal = refusals()[GetParam()];
  const TemporaryData data;
  TinyStore tiny(data.path());
  use(tiny);
  refusal.spoil(tiny);
  try {
    use(tiny);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(name_of(error.kind()), std::string(name_of(refusal.kind)));
    EXPECT_NE(error.message().find(refusal.message), std::string::npos) << error.message();
    EXPECT_NE(error.where().find(data.path().string()), std::string::npos) << error.where();
    if (refusal.kind == ErrorKind::data && std::string(refusal.message).starts_with("data.")) {
      EXPECT_NE(error.hint().find("moesweep-data build configs/data/tiny.yaml"), std::string::npos) << error.hint();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(TokenStore, Refusals, testing::Range<std::size_t>(0, refusals().size()),
                         [](const auto& test) { return std::string(refusals()[test.param].name); });

}  // namespace
}  // namespace moesweep::data
