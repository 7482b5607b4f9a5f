// See expand.hpp. Every value of every axis is converted once; a trial then costs a copy of the config and a few assignments.
#include "expand.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cctype>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>

#include "expression.hpp"
#include "keys.hpp"
#include "moesweep/core/hash.hpp"
#include "predicate.hpp"
#include "values.hpp"

namespace moesweep::spec {

namespace {

constexpr int kExplicit = std::numeric_limits<int>::max();

/// One assignment to a leaf. `depth` orders those of a trial's axes: whole sections first, outer before inner, single keys last.
struct Op {
  std::size_t leaf = 0;
  int depth = kExplicit;
  Json value;
  Mark mark;
  std::vector<std::pair<std::string, Mark>> elements = {};  ///< of section lists and maps: where each one was written, by path
  std::shared_ptr<const Expression> derived = {};           ///< in place of `value`
};

/// One value of an axis, compiled.
struct Choice {
  std::vector<Op> ops;
  std::vector<std::pair<std::size_t, std::size_t>> sets;  ///< (group, set)
  std::string words;                                      ///< `routing.top_k = 2`, for messages
};

struct Axis {
  std::vector<std::string> keys;  ///< as written; for points, the leaves and groups that they give
  std::vector<Choice> choices;
};

/// A config whose leaves are set by index; the leaves stay bound to it.
class Workbench {
 public:
  Workbench() : leaves_(leaves_of(fields_of(config))) {
    for (const Leaf& leaf : leaves_) identity_defaults_.push_back(identity_of(leaf));
  }
  Workbench(const Workbench&) = delete;
  Workbench& operator=(const Workbench&) = delete;

  train::TrialConfig config;

  const std::vector<Leaf>& leaves() const { return leaves_; }

  void set(std::size_t leaf, const Json& value) {
    const Field& field = leaves_[leaf].field;
    if (field.type == FieldType::section_list) {
      const auto lists = field.resize(value.size());
      for (std::size_t i = 0; i < lists.size(); ++i) load(lists[i], value[i]);
    } else if (field.type == FieldType::section_map) {
      std::vector<std::string> names;
      for (const auto& [name, element] : value.items()) names.push_back(name);
      const auto lists = field.rename(names);
      for (std::size_t i = 0; i < lists.size(); ++i) load(lists[i], value.at(names[i]));
    } else {
      field.set(value);
    }
  }

  /// As `train::id_of`, without listing the fields anew.
  std::string id() const {
    Json differing = Json::object();
    auto& members = differing.get_ref<Json::object_t&>();
    for (std::size_t i = 0; i < leaves_.size(); ++i) {
      if (leaves_[i].field.role == Role::execution) continue;
      Json value = identity_of(leaves_[i]);
      if (value != identity_defaults_[i]) members.emplace_back(leaves_[i].path, std::move(value));
    }
    return sha256_hex(canonical(differing)).substr(0, 16);
  }

 private:
  /// As `Leaf::identity_value`, without listing an element's fields where there is no element: most trials have none.
  static Json identity_of(const Leaf& leaf) {
    if (holds_sections(leaf.field))
      if (Json value = leaf.field.get(); value.empty()) return value;
    return leaf.identity_value();
  }

  std::vector<Leaf> leaves_;
  std::vector<Json> identity_defaults_;
};

std::string words_of(const Node& node) {
  if (node.is_scalar()) return node.text;
  if (node.is_map() && node.whole) return place(node.mark);
  std::string words;
  for (const Entry& entry : node.entries) words += (words.empty() ? "" : ", ") + entry.key + ": " + words_of(entry.value);
  for (const Node& item : node.items) words += (words.empty() ? "" : ", ") + words_of(item);
  return node.is_map() ? "{" + words + "}" : "[" + words + "]";
}

class Compiler {
 public:
  explicit Compiler(const Document& document) : document_(document), groups_(document.groups()) {}

  const std::vector<std::string>& groups() const { return groups_; }

  /// The value of `path` (empty: a mapping of a trial's keys) into the choice.
  void compile(const Node& value, const std::string& path, Choice& choice, int depth = kExplicit) const {
    if (const auto group = std::ranges::find(groups_, path); group != groups_.end()) {
      const auto& sets = document_.sets.find(path)->entries;
      const auto set = std::ranges::find(sets, value.text, &Entry::key);
      choice.sets.emplace_back(static_cast<std::size_t>(group - groups_.begin()), static_cast<std::size_t>(set - sets.begin()));
      return;
    }
    const Key* key = path.empty() ? nullptr : Keys::instance().find(path);
    if (key != nullptr && !key->is_section) {
      if (Expression::is_one(key->field, value)) {
        choice.ops.push_back({key->first, depth, Json(), value.mark, {}, std::make_shared<const Expression>(Expression::parse(value))});
        return;
      }
      Op op{key->first, depth, convert(key->field, value, path), value.mark};
      if (key->field.type == FieldType::section_list)
        for (std::size_t i = 0; i < value.items.size(); ++i) op.elements.emplace_back(fmt::format("{}[{}]", path, i), value.items[i].mark);
      if (key->field.type == FieldType::section_map)
        for (const Entry& entry : value.entries) op.elements.emplace_back(path + "." + entry.key, entry.mark);
      choice.ops.push_back(std::move(op));
      return;
    }
    if (key != nullptr && value.whole) {
      depth = std::min(depth, static_cast<int>(std::ranges::count(path, '.')) + 1);
      for (std::size_t leaf = key->first; leaf < key->last; ++leaf)
        choice.ops.push_back({leaf, depth, Keys::instance().default_value(leaf), value.mark});
    }
    for (const Entry& entry : value.entries) compile(entry.value, path.empty() ? entry.key : path + "." + entry.key, choice, depth);
  }

  std::vector<Axis> axes_of(const Block& block) const {
    std::vector<Axis> axes;
    if (block.points) {
      Axis axis;
      for (const Node& point : block.points->items) {
        Choice choice;
        compile(point, "", choice);
        for (const Entry& entry : point.entries) add_words(choice, entry.key, entry.value);
        axis.choices.push_back(std::move(choice));
      }
      axes.push_back(std::move(axis));
    }
    for (const auto& rows : {block.zip, block.sample ? std::optional<Node>(draw(*block.sample, document_.limits.values)) : std::nullopt}) {
      if (!rows) continue;
      Axis axis;
      const Entry& first = rows->entries.front();
      axis.choices.resize(first.value.items.size());
      for (const Entry& entry : rows->entries) {
        if (entry.value.items.size() != axis.choices.size())
          fail(entry.mark, fmt::format("zip.{} has {} values and zip.{} has {}: lists in a zip are of one length", entry.key,
                                       entry.value.items.size(), first.key, axis.choices.size()));
        axis.keys.push_back(entry.key);
        for (std::size_t i = 0; i < axis.choices.size(); ++i) {
          compile(entry.value.items[i], entry.key, axis.choices[i]);
          add_words(axis.choices[i], entry.key, entry.value.items[i]);
        }
      }
      axes.push_back(std::move(axis));
    }
    if (block.grid)
      for (const Entry& entry : block.grid->entries) {
        Axis axis;
        axis.keys.push_back(entry.key);
        for (const Node& item : entry.value.items) {
          Choice choice;
          compile(item, entry.key, choice);
          add_words(choice, entry.key, item);
          axis.choices.push_back(std::move(choice));
        }
        axes.push_back(std::move(axis));
      }
    refuse_conflicts(block, axes);
    return axes;
  }

 private:
  /// The same leaf (or group, or whole section) given by two axes of a block: one of them would be lost.
  void refuse_conflicts(const Block& block, const std::vector<Axis>& axes) const {
    std::map<std::pair<int, std::string>, std::size_t> givers;
    const auto give = [&](std::pair<int, std::string> what, std::size_t axis, const Mark& mark) {
      const auto [found, added] = givers.emplace(what, axis);
      if (!added && found->second != axis) fail(mark, fmt::format("{} is given by two axes of the block: one of them would be lost", what.second));
    };
    for (std::size_t i = 0; i < axes.size(); ++i)
      for (const Choice& choice : axes[i].choices) {
        for (const Op& op : choice.ops) give({op.depth, Keys::instance().leaves()[op.leaf].path}, i, op.mark);
        for (const auto& [group, set] : choice.sets) give({0, groups_[group]}, i, block.mark);
      }
  }

  static void add_words(Choice& choice, const std::string& key, const Node& value) {
    if (!choice.words.empty()) choice.words += ", ";
    if (value.is_map() && !value.whole && !value.entries.empty()) {
      bool first = true;
      for (const Entry& entry : value.entries) {
        if (!std::exchange(first, false)) choice.words += ", ";
        choice.words += key + "." + entry.key + " = " + words_of(entry.value);
      }
    } else {
      choice.words += key + " = " + words_of(value);
    }
  }

  const Document& document_;
  std::vector<std::string> groups_;
};

class Expander {
 public:
  explicit Expander(const Document& document, const Selection& selection = {}, Visit visit = {})
      : document_(document), compiler_(document), visit_(std::move(visit)) {
    compiler_.compile(document.trial, "", root_);
    std::ranges::stable_sort(root_.ops, {}, &Op::depth);
    for (const Op& op : root_.ops) assign(op);
    base_ = bench_.config;
    base_derived_ = derived_;
    only_ = compiled(selection.only, "--only");
    skip_ = compiled(selection.skip, "--skip");
    for (const Entry& group : document.sets.entries) {
      auto& compiled = sets_.emplace_back();
      for (const Entry& set : group.value.entries) {
        Choice choice;
        compiler_.compile(set.value, "", choice);
        std::ranges::stable_sort(choice.ops, {}, &Op::depth);
        compiled.push_back({set.key, std::move(choice)});
      }
    }
  }

  /// All blocks; what `chosen` passes over is not visited.
  void run(const std::vector<bool>* chosen = nullptr) {
    chosen_by_earlier_walk_ = chosen;
    refuse_too_many();
    if (document_.blocks)
      for (const Block& block : *document_.blocks) run(block);
    else run(document_.top);
    if (counts.trials == 0) fail(document_.mark, fmt::format("no trial is left: exclude drops all {}", counts.excluded));
  }

  void run(const Block& block) {
    axes_ = compiler_.axes_of(block);
    std::vector<Predicate> excludes;
    for (const Block* source : {&block, &document_.top})
      if (source->exclude && (source == &block || document_.blocks))
        for (const Node& text : source->exclude->items) excludes.push_back(Predicate::parse(text, document_));
    std::vector<std::pair<std::size_t, Predicate>> whens;
    for (const Block* source : {&block, &document_.top})
      if (source->when && (source == &block || document_.blocks))
        for (const Entry& entry : source->when->entries) {
          const auto axis = std::ranges::find_if(axes_, [&](const Axis& a) { return a.keys.size() == 1 && a.keys.front() == entry.key; });
          if (axis == axes_.end()) {
            if (source == &block) fail(entry.mark, fmt::format("when.{}: not an axis of the block's grid", entry.key));
            continue;
          }
          whens.emplace_back(static_cast<std::size_t>(axis - axes_.begin()), Predicate::parse(entry.value, document_));
        }

    turn_.assign(axes_.size(), 0);
    do {
      active_.assign(axes_.size(), true);
      build();
      for (const auto& [axis, condition] : whens)
        if (!holds(condition)) {
          active_[axis] = false;
          build();
        }
      finish(excludes);
    } while (next());
  }

  /// What the file's own keys give, before any block.
  const train::TrialConfig& base() {
    axes_.clear();
    bench_.config = base_;
    derived_ = base_derived_;
    derive();
    if (failure_) throw Error(*failure_);
    return bench_.config;
  }

  /// Which of the trials, by number, the selection chooses; one that chooses none is an error.
  std::vector<bool> select() {
    for (const auto* terms : {&only_, &skip_})
      for (const Term& term : *terms)
        if (!term.condition && !term.found) fail(term.mark, fmt::format("no trial's id begins with {}", term.id), "`moesweep plan` lists them");
    std::vector<bool> chosen(static_cast<std::size_t>(counts.trials), true);
    if (!has_selection()) return chosen;
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      chosen[i] = (only_.empty() || wanted_[i]) && !unwanted_[i];
      counts.passed_over += chosen[i] ? 0 : 1;
    }
    if (counts.passed_over == counts.trials)
      fail({std::make_shared<const std::string>("command line"), 0, 0}, fmt::format("none of {} trials is left by --only and --skip", counts.trials));
    return chosen;
  }

  Counts counts;

 private:
  struct NamedSet {
    std::string name;
    Choice choice;
  };

  /// A part of `--only` or `--skip`.
  struct Term {
    std::string id;  ///< the beginning of one
    std::optional<Predicate> condition;
    Mark mark;
    bool found = false;
  };

  bool has_selection() const { return !only_.empty() || !skip_.empty(); }

  static std::int64_t combinations_of(const Block& block, std::int64_t most) {
    std::int64_t product = 1;
    const auto times = [&](std::size_t size) { product = __builtin_mul_overflow(product, size, &product) || product > most ? most + 1 : product; };
    if (block.points) times(block.points->items.size());
    if (block.zip) times(block.zip->entries.front().value.items.size());
    if (block.sample) {
      Field integer;
      integer.type = FieldType::integer;
      times(convert(integer, *block.sample->find("count"), "sample.count").get<std::size_t>());
    }
    if (block.grid)
      for (const Entry& axis : block.grid->entries) times(axis.value.items.size());
    return product;
  }

  void refuse_too_many() const {
    const std::int64_t most = document_.limits.trials;
    std::int64_t sum = 0;
    const auto add = [&](const Block& block) {
      sum += combinations_of(block, most);
      if (sum > most)
        fail(block.mark, fmt::format("more than {} combinations: a sweep has no more trials than that", most),
             "a step, a count or an axis too many? `sample` draws some of many");
    };
    if (document_.blocks)
      for (const Block& block : *document_.blocks) add(block);
    else add(document_.top);
  }

  std::vector<Term> compiled(const std::vector<std::string>& texts, const char* option) const {
    std::vector<Term> terms;
    for (const std::string& text : texts) {
      Term term;
      term.mark.source = std::make_shared<const std::string>(option);
      if (!text.empty() && text.size() <= 16 && text.find_first_not_of("0123456789abcdef") == std::string::npos) term.id = text;
      else term.condition = Predicate::parse(make_scalar(text, term.mark), document_);
      terms.push_back(std::move(term));
    }
    return terms;
  }

  bool any_chooses(std::vector<Term>& terms, const std::string& id) {
    bool chosen = false;
    for (Term& term : terms) {
      const bool here = term.condition ? holds(*term.condition) : id.starts_with(term.id);
      term.found = term.found || here;
      chosen = chosen || here;
    }
    return chosen;
  }

  /// A condition on a derived value that cannot be computed is an error: the value's.
  bool holds(const Predicate& predicate) {
    try {
      return predicate({bench_.leaves(), chosen_, unknown_});
    } catch (const UnknownValue&) {
      fail_derived();
    }
  }

  [[noreturn]] void fail_derived() {
    const std::string words = words_of_trial(), hint = failure_->hint();
    throw Error(failure_->kind(), failure_->message(), failure_->where(),
                words.empty() ? hint : fmt::format("{}{}in the trial of {}", hint, hint.empty() ? "" : "\n  ", words));
  }

  template <class Action>
  void each_choice(Action action) const {
    for (std::size_t i = 0; i < axes_.size(); ++i)
      if (active_[i]) action(axes_[i].choices[turn_[i]]);
  }

  /// The trial's assignments in order: file, sets, axes.
  std::vector<const Op*> assignments() {
    chosen_.assign(sets_.size(), "");
    std::vector<std::size_t> picks(sets_.size(), std::size_t(-1));
    for (const auto& [group, set] : root_.sets) picks[group] = set;
    each_choice([&](const Choice& choice) {
      for (const auto& [group, set] : choice.sets) picks[group] = set;
    });
    std::vector<const Op*> ops;
    for (std::size_t group = 0; group < sets_.size(); ++group) {
      if (picks[group] == std::size_t(-1)) continue;
      const NamedSet& set = sets_[group][picks[group]];
      chosen_[group] = set.name;
      for (const Op& op : set.choice.ops) ops.push_back(&op);
    }
    const auto axes_begin = static_cast<std::ptrdiff_t>(ops.size());
    each_choice([&](const Choice& choice) {
      for (const Op& op : choice.ops) ops.push_back(&op);
    });
    std::stable_sort(ops.begin() + axes_begin, ops.end(), [](const Op* a, const Op* b) { return a->depth < b->depth; });
    return ops;
  }

  void build() {
    bench_.config = base_;
    derived_ = base_derived_;
    for (const Op* op : assignments()) assign(*op);
    derive();
  }

  /// Plain values at once; derived ones wait until all others stand.
  void assign(const Op& op) {
    std::erase_if(derived_, [&](const Op* other) { return other->leaf == op.leaf; });
    if (op.derived) derived_.push_back(&op);
    else bench_.set(op.leaf, op.value);
  }

  /// Computes the derived values, each after those that it reads. The first that cannot be computed is kept as `failure_`: it counts
  /// when a condition asks for it, or the trial is not excluded.
  void derive() {
    failure_.reset();
    unknown_.clear();
    if (derived_.empty()) return;
    progress_.assign(derived_.size(), Progress::open);
    for (std::size_t i = 0; i < derived_.size(); ++i) settle(i);
  }

  enum class Progress { open, running, known, unknown };

  void settle(std::size_t index) {
    if (progress_[index] != Progress::open) return;
    progress_[index] = Progress::running;
    reading_.push_back(index);
    const Op& op = *derived_[index];
    bool known = true;
    for (const std::size_t leaf : op.derived->leaves()) {
      const auto found = std::ranges::find(derived_, leaf, &Op::leaf);
      if (found == derived_.end()) continue;
      const auto needed = static_cast<std::size_t>(found - derived_.begin());
      settle(needed);
      if (progress_[needed] == Progress::running) keep_failure([&] { fail_circle(needed); });
      known = known && progress_[needed] == Progress::known;
    }
    if (known) {
      const Leaf& leaf = bench_.leaves()[op.leaf];
      known = keep_failure([&] {
        bench_.set(op.leaf, op.derived->value(leaf.field, leaf.path, [&](std::size_t other) { return bench_.leaves()[other].field.get(); }));
      });
    }
    reading_.pop_back();
    progress_[index] = known ? Progress::known : Progress::unknown;
    if (!known) unknown_.push_back(op.leaf);
  }

  template <class Action>
  bool keep_failure(Action action) {
    try {
      action();
      return true;
    } catch (const Error& error) {
      if (!failure_) failure_.emplace(error);
      return false;
    }
  }

  [[noreturn]] void fail_circle(std::size_t again) const {
    const auto first = std::ranges::find(reading_, again);
    std::string circle;
    for (auto at = first; at != reading_.end(); ++at) circle += bench_.leaves()[derived_[*at]->leaf].path + " -> ";
    const Op& last = *derived_[reading_.back()];
    fail(last.mark, fmt::format("derived values read each other in a circle: {}{}", circle, bench_.leaves()[derived_[again]->leaf].path));
  }

  void finish(const std::vector<Predicate>& excludes) {
    if (std::ranges::any_of(excludes, [&](const Predicate& exclude) { return holds(exclude); })) {
      ++counts.excluded;
      return;
    }
    if (failure_) fail_derived();
    const std::string id = bench_.id();
    const auto [seen, is_new] = seen_.emplace(std::stoull(id, nullptr, 16), static_cast<std::uint32_t>(counts.trials));
    const std::size_t number = seen->second;
    if (has_selection()) {
      if (is_new) {
        wanted_.push_back(false);
        unwanted_.push_back(false);
      }
      if (any_chooses(only_, id)) wanted_[number] = true;
      if (any_chooses(skip_, id)) unwanted_[number] = true;
    }
    if (!is_new) {
      ++counts.duplicates_dropped;
      return;
    }
    if (const std::string reason = train::refusal(bench_.config); !reason.empty()) refuse(reason);
    ++counts.trials;
    if (visit_ && (chosen_by_earlier_walk_ == nullptr || (*chosen_by_earlier_walk_)[number])) visit_(id, bench_.config);
  }

  /// The reason, at the last of the places that gave one of the keys it names: an axis before a set before the file.
  [[noreturn]] void refuse(const std::string& reason) {
    std::vector<const Op*> ops;
    for (const Op& op : root_.ops) ops.push_back(&op);
    for (const Op* op : assignments()) ops.push_back(op);
    Mark mark = document_.mark;
    std::optional<Mark> part_mark;
    for (const Op* op : ops) {
      const std::string& path = Keys::instance().leaves()[op->leaf].path;
      // What is wrong with one part is said as "routing.layers.0-2: why": the rest of the sentence is about that part's own keys.
      const auto part = std::ranges::find_if(
          op->elements, [&](const auto& element) { return reason.starts_with(element.first + ":") || reason.starts_with(element.first + "."); });
      if (part != op->elements.end()) part_mark = part->second;
      const auto named = std::ranges::find_if(op->elements, [&](const auto& element) { return names(reason, element.first); });
      if (named != op->elements.end()) mark = named->second;
      else if (names(reason, path)) mark = op->mark;
    }
    if (part_mark) mark = *part_mark;
    const std::string words = words_of_trial();
    fail(mark, reason, words.empty() ? "" : fmt::format("in the trial of {}", words));
  }

  std::string words_of_trial() const {
    std::string words;
    each_choice([&](const Choice& choice) {
      if (!choice.words.empty()) words += (words.empty() ? "" : ", ") + choice.words;
    });
    return words;
  }

  static bool names(const std::string& sentence, const std::string& path) {
    const auto is_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
    for (std::size_t at = sentence.find(path); at != std::string::npos; at = sentence.find(path, at + 1)) {
      const std::size_t end = at + path.size();
      const bool starts = at == 0 || (!is_word(sentence[at - 1]) && sentence[at - 1] != '.');
      const bool ends =
          end == sentence.size() || (!is_word(sentence[end]) && !(sentence[end] == '.' && end + 1 < sentence.size() && is_word(sentence[end + 1])));
      if (starts && ends) return true;
    }
    return false;
  }

  bool next() {
    for (std::size_t i = turn_.size(); i-- > 0;) {
      if (++turn_[i] < axes_[i].choices.size()) return true;
      turn_[i] = 0;
    }
    return false;
  }

  const Document& document_;
  Compiler compiler_;
  Workbench bench_;
  train::TrialConfig base_;
  Choice root_;
  std::vector<std::vector<NamedSet>> sets_;
  std::vector<Axis> axes_;
  std::vector<std::size_t> turn_;
  std::vector<bool> active_;
  std::vector<std::string> chosen_;
  Visit visit_;
  const std::vector<bool>* chosen_by_earlier_walk_ = nullptr;
  std::unordered_map<std::uint64_t, std::uint32_t> seen_;  // an id is 64 bits -> the trial's number
  std::vector<const Op*> derived_, base_derived_;          // the trial's, the file's own
  std::vector<Progress> progress_;                         // by derived value
  std::vector<std::size_t> reading_;                       // derived values that are being computed, outermost first
  std::vector<std::size_t> unknown_;
  std::optional<Error> failure_;
  std::vector<Term> only_, skip_;
  std::vector<bool> wanted_, unwanted_;  // by trial
};

/// Absent values as a file writes them.
Json with_none(Json value) {
  if (value.is_null()) return "none";
  if (value.is_structured())
    for (Json& inner : value) inner = with_none(std::move(inner));
  return value;
}

Json json_of(const Node& value, const std::string& path, const Document& document) {
  if (document.is_group(path)) return value.text;
  const Key* key = path.empty() ? nullptr : Keys::instance().find(path);
  if (key != nullptr && !key->is_section && Expression::is_one(key->field, value)) return value.text;
  if (key != nullptr && !key->is_section) return with_none(convert(key->field, value, path));
  Json result = Json::object();
  if (key != nullptr && value.whole) {
    result["whole"] = true;
    for (std::size_t leaf = key->first; leaf < key->last; ++leaf) {
      const std::vector<std::string> parts = split_path(Keys::instance().leaves()[leaf].path.substr(path.size() + 1));
      Json* at = &result;
      for (const std::string& part : parts) at = &(*at)[part];
      *at = with_none(Keys::instance().default_value(leaf));
    }
  }
  for (const Entry& entry : value.entries) {
    Json inner = json_of(entry.value, path.empty() ? entry.key : path + "." + entry.key, document);
    if (value.whole && inner.is_object()) result[entry.key].merge_patch(inner);
    else result[entry.key] = std::move(inner);
  }
  return result;
}

Json json_of_block(const Block& block, const Document& document) {
  Json result = Json::object();
  for (const auto& [name, axes] : {std::pair("grid", &block.grid), std::pair("zip", &block.zip)})
    if (*axes)
      for (const Entry& axis : (*axes)->entries)
        for (const Node& item : axis.value.items) result[name][axis.key].push_back(json_of(item, axis.key, document));
  if (block.points)
    for (const Node& point : block.points->items) result["points"].push_back(json_of(point, "", document));
  if (block.sample) {
    Json& sample = result["sample"];
    Field integer, real;
    integer.type = FieldType::integer;
    real.type = FieldType::real;
    for (const char* name : {"count", "seed"})
      if (const Node* number = block.sample->find(name)) sample[name] = convert(integer, *number, name);
    for (const auto& [path, mark, distribution] : block.sample->find("of")->entries) {
      const auto& [kind, kind_mark, values] = distribution.entries.front();
      for (const Node& item : values.items)
        sample["of"][path][kind].push_back(kind == "choice" ? json_of(item, path, document)
                                                            : convert(kind == "integers" ? integer : real, item, path));
    }
  }
  if (block.exclude)
    for (const Node& text : block.exclude->items) result["exclude"].push_back(text.text);
  if (block.when)
    for (const Entry& entry : block.when->entries) result["when"][entry.key] = entry.value.text;
  return result;
}

}  // namespace

Sweep expand(const Document& document, const Selection& selection) {
  Sweep sweep;
  Expander expander(document, selection, [&](const std::string& id, const train::TrialConfig& config) { sweep.trials.push_back({id, config}); });
  expander.run();
  const std::vector<bool> chosen = expander.select();
  for (std::size_t i = 0; i < chosen.size(); ++i)
    if (!chosen[i]) sweep.passed_over.insert(sweep.trials[i].id);
  sweep.duplicates_dropped = expander.counts.duplicates_dropped;
  sweep.excluded = expander.counts.excluded;
  sweep.name = document.sweep_name();
  sweep.resolved = resolved_json(document, sweep.name);
  return sweep;
}

Counts expand_each(const Document& document, const Selection& selection, const Visit& visit) {
  if (selection.only.empty() && selection.skip.empty()) {
    Expander expander(document, {}, visit);
    expander.run();
    return expander.counts;
  }
  std::vector<bool> chosen;
  Counts counts;
  {
    Expander judge(document, selection);
    judge.run();
    chosen = judge.select();
    counts = judge.counts;
  }
  Expander(document, {}, visit).run(&chosen);
  return counts;
}

train::TrialConfig config_of(const Document& document) { return Expander(document).base(); }

train::TrialConfig expand_trial(const Document& document) {
  train::TrialConfig trial;
  Expander expander(document, {}, [&](const std::string&, const train::TrialConfig& config) { trial = config; });
  expander.run(Block{});
  return trial;
}

Json resolved_json(const Document& document, const std::string& name) {
  Json result = Json::object();
  result["sweep"] = name;
  for (const Entry& entry : document.trial.entries) result[entry.key] = json_of(entry.value, entry.key, document);
  for (const Entry& group : document.sets.entries)
    for (const Entry& set : group.value.entries) result["sets"][group.key][set.key] = json_of(set.value, "", document);
  if (document.blocks)
    for (const Block& block : *document.blocks) result["blocks"].push_back(json_of_block(block, document));
  const Json top = json_of_block(document.top, document);
  for (const auto& [key, value] : top.items()) result[key] = value;
  return result;
}

}  // namespace moesweep::spec
