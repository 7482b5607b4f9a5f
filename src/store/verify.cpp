// `moesweep verify`: reads everything of a file, and says what is wrong instead of stopping at the first problem.
#include <algorithm>
#include <cstring>
#include <set>

#include "layout.hpp"
#include "moesweep/core/checked.hpp"
#include "moesweep/core/foreign_json.hpp"
#include "moesweep/store/aggregate.hpp"
#include "ragged.hpp"

namespace moesweep::store {

namespace {

class Verifier {
 public:
  explicit Verifier(const std::filesystem::path& path) : path_(path) {}

  Verification run() {
    attempt([&] {
      require_hdf5(path_);
      file_ = h5::open_file(path_);
      const auto name = format_of(file_.get());
      for (const auto& format : {kTrialFormat, kTraceFormat, kCheckpointFormat, kSweepFormat})
        if (name == format.name) {
          require_format(file_.get(), format, path_);
          format_ = name;
        }
      if (format_.empty()) throw Error(ErrorKind::corrupt, name.empty() ? "not a file of moesweep" : "unknown format " + name);
    });
    if (format_.empty()) return result_;
    std::vector<std::string> paths;
    attempt([&] { paths = h5::dataset_paths(file_.get()); });
    for (const auto& path : paths) attempt([&] { read(path); });
    result_.datasets = paths.size();
    if (result_.problems.empty()) attempt([&] { check_digest(); });
    if (format_ == kTrialFormat.name || format_ == kTraceFormat.name) check_record("");
    if (format_ == kTraceFormat.name) check_trace();
    if (format_ == kCheckpointFormat.name) check_checkpoint();
    if (format_ == kSweepFormat.name) check_sweep();
    return result_;
  }

 private:
  /// Runs a check; what it throws becomes a problem. A file that cannot be read at all is an error, not a problem.
  template <class Check>
  void attempt(Check&& check) {
    try {
      as_corrupt(path_, check);
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::io) throw;
      const std::string text = error.where() + ": " + error.message();
      if (std::find(result_.problems.begin(), result_.problems.end(), text) == result_.problems.end()) result_.problems.push_back(text);
    }
  }
  void problem(const std::string& dataset, const std::string& what) {
    result_.problems.push_back(path_.string() + ": dataset " + dataset + ": " + what);
  }

  void read(const std::string& path) {
    {
      const auto dataset = h5::open_dataset(file_.get(), path);
      for (const char* name : {"unit", "description"})
        if (!h5::read_text_attribute(dataset.get(), name)) problem(path, std::string("it has no attribute ") + name);
    }
    const auto d = describe(file_.get(), path);
    contents_.push_back(content_of(block_digests(file_.get(), d, 0, blocks_of(d))));
    descriptions_.push_back(d);
    if (d.content && *d.content != contents_.back()) problem(path, "its digest does not fit its content");
  }

  void check_digest() {
    const auto told = std::ranges::count_if(descriptions_, [](const Description& d) { return d.content.has_value(); });
    for (const auto& d : descriptions_)
      if (told != 0 && !d.content) problem(d.path, "it has no attribute content, and others have one");
    result_.digest = digest_of(root_attributes(file_.get()), descriptions_, contents_);
    const auto stored = h5::read_text_attribute(file_.get(), "digest");
    if (!stored) throw Error(ErrorKind::corrupt, "the file has no digest");
    if (*stored != result_.digest) throw Error(ErrorKind::corrupt, "the digest does not fit the content");
  }

  void check_json(const std::string& path) {
    attempt([&] {
      const auto text = read_text(file_.get(), path);
      if (!text.empty()) static_cast<void>(parse_json(text, path_.string() + ": dataset " + path));
    });
  }

  void check_record(const std::string& prefix) {
    result_.rows = 1;
    for (const char* name : {"id", "state", "reason"})
      attempt([&] {
        if (!h5::read_text_attribute(file_.get(), name)) throw Error(ErrorKind::corrupt, std::string("the file has no attribute ") + name);
      });
    const auto config = prefix + "header/config", provenance = prefix + "header/provenance";
    check_json(config);
    check_json(provenance);
    for (const auto& d : descriptions_)
      if (d.path.starts_with(prefix) && d.path != config && d.path != provenance && d.type.text_width > 0)
        problem(d.path, "it does not hold numbers");
  }

  /// Every array is of the trace's tokens: its first dimension, or its second behind the layers.
  void check_trace() {
    const auto token = std::ranges::find(descriptions_, "trace/token", &Description::path);
    if (token == descriptions_.end()) return problem("trace/token", "it is missing");
    for (const auto& d : descriptions_)
      if (d.path.starts_with("trace/") && d.path != "trace/step" && d.shape[d.shape.size() == 3 ? 1 : 0] != token->rows())
        problem(d.path, "it does not have one value per token of trace/token");
    result_.rows = static_cast<std::size_t>(token->rows());
  }

  void check_checkpoint() {
    check_record("record/");
    check_json("header/checkpoint");
    for (const auto& d : descriptions_) {
      if (d.path.starts_with("record/") || d.path == "header/checkpoint") continue;
      attempt([&] {
        if (d.shape.size() != 1 || d.type.text_width > 0 || checked_product(d.logical.value_or(std::vector<std::int64_t>{})) != d.elements())
          throw Error(ErrorKind::corrupt, "dataset " + d.path + ": its elements do not fit its shape");
      });
    }
  }

  void check_sweep() {
    std::int64_t rows = -1;
    attempt([&] {
      const auto ids = read_texts(file_.get(), describe(file_.get(), "trials/id"));
      rows = static_cast<std::int64_t>(ids.size());
      result_.rows = ids.size();
      for (std::size_t i = 0; i + 1 < ids.size(); ++i)
        if (ids[i] >= ids[i + 1]) return problem("trials/id", "the ids are not in order, each once");
    });
    if (rows < 0) return;
    attempt([&] { static_cast<void>(read_text(file_.get(), "header/name")); });
    check_json("header/resolved");
    check_json("header/provenance");
    std::set<std::string> paths;
    for (const auto& d : descriptions_) paths.insert(d.path);
    for (const char* needed : {"trials/state", "trials/reason", "texts/config/data", "texts/provenance/data"})
      if (!paths.contains(needed)) problem(needed, "it is missing");
    if (paths.contains("trials/state")) attempt([&] { require_states(read_texts(file_.get(), describe(file_.get(), "trials/state"))); });
    attempt([&] { require_metrics_once(descriptions_); });
    for (const auto& d : descriptions_) {
      const auto starts = [&](const char* folder) { return d.path.starts_with(folder); };
      if ((starts("trials/") || starts("axes/") || starts("metrics/")) && (d.shape.size() != 1 || d.rows() != rows))
        problem(d.path, "it does not have one value per trial");
      attempt([&] { require_column_type(d); });
      if (starts("texts/") && d.path.ends_with("/data")) attempt([&] { check_texts(d, rows); });
      if (starts("arrays/") && d.path.ends_with("/data")) attempt([&] { static_cast<void>(read_places(file_.get(), d, rows)); });
    }
  }

  /// The joined texts of trials: their places, and that each is JSON.
  void check_texts(const Description& data, std::int64_t rows) {
    const auto group = data.path.substr(0, data.path.rfind('/'));
    const auto texts = read_ragged_texts(file_.get(), group, rows);
    for (std::size_t row = 0; row < texts.size(); ++row)
      if (!texts[row].empty())
        attempt([&] { static_cast<void>(parse_json(texts[row], path_.string() + ": dataset " + data.path + ", trial " + std::to_string(row))); });
  }

  std::filesystem::path path_;
  std::string format_;
  h5::Handle file_;
  std::vector<Description> descriptions_;
  std::vector<std::string> contents_;
  Verification result_;
};

}  // namespace

Verification verify(const std::filesystem::path& path) { return Verifier(path).run(); }

}  // namespace moesweep::store
