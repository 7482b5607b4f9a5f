// See include/moesweep/spec/sweep.hpp.
#include "moesweep/spec/sweep.hpp"

#include <algorithm>
#include <array>
#include <cctype>

#include "document.hpp"
#include "expand.hpp"
#include "files.hpp"
#include "overrides.hpp"

namespace moesweep::spec {

namespace {

/// A text as a YAML scalar: plain where no reader can take it for anything else, else in double quotes.
std::string scalar(const std::string& text) {
  constexpr std::array kOtherTypes{"true", "false", "yes", "no", "on", "off", "y", "n", "null"};
  std::string lower;
  for (const char c : text) lower += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  const auto plain = [](unsigned char c) { return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '/' || c == '.'; };
  const bool word = !text.empty() && std::isalpha(static_cast<unsigned char>(text[0])) != 0 && std::ranges::all_of(text, plain) &&
                    std::ranges::find(kOtherTypes, lower) == kOtherTypes.end();
  return word ? text : Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// A value on one line.
std::string on_one_line(const Json& value) {
  if (value.is_null()) return "none";
  if (value.is_string()) return scalar(value.get_ref<const std::string&>());
  if (!value.is_structured()) return canonical(value);
  std::string text;
  for (const auto& [key, item] : value.items())
    text += (text.empty() ? "" : ", ") + (value.is_object() ? scalar(key) + ": " : "") + on_one_line(item);
  return value.is_array() ? "[" + text + "]" : "{" + text + "}";
}

void write_section(const Json& section, std::size_t indent, std::string& text) {
  const std::string blanks(indent, ' ');
  for (const auto& [key, value] : section.items()) {
    text.append(blanks).append(scalar(key)).append(":");
    if (value.is_object() && !value.empty()) {
      text += "\n";
      write_section(value, indent + 2, text);
    } else if (value.is_array() && !value.empty() && value.front().is_structured()) {
      text += "\n";
      for (const Json& item : value) text.append(blanks).append("  - ").append(on_one_line(item)).append("\n");
    } else {
      text.append(" ").append(on_one_line(value)).append("\n");
    }
  }
}

}  // namespace

Sweep load_sweep(const std::string& path, const std::vector<std::string>& overrides, const Selection& selection) {
  Document document = load_document(find_named(path, "sweeps"), FileKind::sweep);
  apply_overrides(document, overrides, FileKind::sweep);
  return expand(document, selection);
}

train::TrialConfig load_trial(const std::string& path, const std::vector<std::string>& overrides) {
  Document document = load_document(find_named(path, "trials"), FileKind::trial);
  apply_overrides(document, overrides, FileKind::trial);
  return expand_trial(document);
}

std::string yaml_text(const Json& object) {
  std::string text;
  write_section(object, 0, text);
  return text;
}

std::string trial_yaml(const train::TrialConfig& config) {
  train::TrialConfig mine = config;
  return "# moesweep trial " + train::id_of(config) + "\n" + yaml_text(fields_of(mine).dump());
}

struct Axes::Parts {
  train::TrialConfig bench;  // the leaves are bound to it
  std::vector<Leaf> leaves = leaves_of(fields_of(bench));
  std::vector<Json> first;
  std::vector<std::size_t> same, differing;
};

Axes::Axes() : parts_(std::make_unique<Parts>()) {}
Axes::~Axes() = default;
Axes::Axes(Axes&&) noexcept = default;
Axes& Axes::operator=(Axes&&) noexcept = default;

void Axes::see(const train::TrialConfig& config) {
  Parts& parts = *parts_;
  parts.bench = config;
  if (parts.first.empty()) {
    for (std::size_t i = 0; i < parts.leaves.size(); ++i) {
      parts.first.push_back(parts.leaves[i].field.get());
      parts.same.push_back(i);
    }
    return;
  }
  const auto changed = [&](std::size_t leaf) { return parts.leaves[leaf].field.get() != parts.first[leaf]; };
  if (std::ranges::none_of(parts.same, changed)) return;
  for (const std::size_t leaf : parts.same)
    if (changed(leaf)) parts.differing.push_back(leaf);
  std::erase_if(parts.same, changed);
}

std::map<std::string, Json> Axes::of(const train::TrialConfig& config) const {
  Parts& parts = *parts_;
  parts.bench = config;
  std::map<std::string, Json> values;
  for (const std::size_t leaf : parts.differing) {  // of a mapping of sections what it says, not every default in it
    const Leaf& here = parts.leaves[leaf];
    values.emplace(here.path, here.field.type == FieldType::section_map ? here.identity_value() : here.field.get());
  }
  return values;
}

std::vector<std::map<std::string, Json>> axes_of(const std::vector<Trial>& trials) {
  Axes axes;
  for (const Trial& trial : trials) axes.see(trial.config);
  std::vector<std::map<std::string, Json>> values;
  values.reserve(trials.size());
  for (const Trial& trial : trials) values.push_back(axes.of(trial.config));
  return values;
}

struct TrialStream::Parts {
  Document document;
  Selection selection;
  std::string name;
};

TrialStream::TrialStream(const std::string& path, const std::vector<std::string>& overrides, Selection selection)
    : parts_(std::make_unique<Parts>()) {
  parts_->document = load_document(find_named(path, "sweeps"), FileKind::sweep);
  apply_overrides(parts_->document, overrides, FileKind::sweep);
  parts_->selection = std::move(selection);
  parts_->name = parts_->document.sweep_name();
}
TrialStream::~TrialStream() = default;
TrialStream::TrialStream(TrialStream&&) noexcept = default;
TrialStream& TrialStream::operator=(TrialStream&&) noexcept = default;

const std::string& TrialStream::name() const { return parts_->name; }

Counts TrialStream::for_each(const Visit& visit) const { return expand_each(parts_->document, parts_->selection, visit); }

}  // namespace moesweep::spec
