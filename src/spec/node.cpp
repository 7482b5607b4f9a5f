// See node.hpp. Uses yaml-cpp's events, so that every key has its mark and duplicate keys are seen.
#include "node.hpp"

#include <fmt/core.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <sstream>
#include <unordered_set>
#include <utility>

#include "limits.hpp"
#include "moesweep/core/json.hpp"

namespace moesweep::spec {

namespace {

bool is_utf8(const std::string& text) {
  try {
    (void)Json(text).dump();
    return true;
  } catch (const Json::exception&) {
    return false;
  }
}

/// Builds the tree from the parser's events.
class Builder : public YAML::EventHandler {
 public:
  explicit Builder(std::shared_ptr<const std::string> source, Mark fixed) : source_(std::move(source)), fixed_(std::move(fixed)) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (root_) fail(at(mark), "a second YAML document begins here: a file holds one");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override { leaf(make_scalar("", at(mark)), anchor); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) fail(at(mark), "an alias inside the value that it names");
    count(count_nodes(found->second), at(mark));  // aliases of aliases of aliases stop here, before the copy
    leaf(found->second, 0);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, const std::string& value) override {
    if (!tag.empty() && tag != "?" && tag != "!") fail(at(mark), fmt::format("the tag {} has no meaning here", tag));
    if (!is_utf8(value)) fail(at(mark), "the text is not valid UTF-8");  // of a key too: ids and records are JSON
    leaf(make_scalar(value, at(mark), tag == "!"), anchor);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YAML::EmitterStyle::value) override {
    start(make_list(at(mark)), mark, tag, anchor);
  }
  void OnSequenceEnd() override { end(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YAML::EmitterStyle::value) override {
    start(make_map(at(mark)), mark, tag, anchor);
  }
  void OnMapEnd() override { end(); }

  Node take() { return root_ ? std::move(*root_) : make_map({source_, 1, 1}); }

 private:
  struct Open {
    Node node;
    YAML::anchor_t anchor;
    std::optional<std::pair<std::string, Mark>> key;
    std::unordered_set<std::string> keys;
  };

  Mark at(const YAML::Mark& mark) const { return fixed_.source ? fixed_ : Mark{source_, mark.line + 1, mark.column + 1}; }

  void start(Node node, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    if (!tag.empty() && tag != "?" && tag != "!") fail(at(mark), fmt::format("the tag {} has no meaning here", tag));
    if (!open_.empty() && open_.back().node.is_map() && !open_.back().key) fail(at(mark), "a key must be plain text");
    if (open_.size() >= kDeepestNodes) fail(at(mark), fmt::format("nested more than {} deep", kDeepestNodes));
    open_.push_back({std::move(node), anchor, {}, {}});
  }

  void end() {
    Open done = std::move(open_.back());
    open_.pop_back();
    leaf(std::move(done.node), done.anchor);
  }

  void leaf(Node node, YAML::anchor_t anchor) {
    count(1, node.mark);
    if (anchor != 0) {
      count(count_nodes(node), node.mark);  // it is kept a second time
      anchors_.insert_or_assign(anchor, node);
    }
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    Open& open = open_.back();
    if (open.node.is_list()) {
      open.node.items.push_back(std::move(node));
    } else if (!open.key) {
      if (!node.is_scalar()) fail(node.mark, "a key must be plain text");
      if (!open.keys.insert(node.text).second) {
        const auto first = std::ranges::find(open.node.entries, node.text, &Entry::key);
        fail(node.mark, fmt::format("duplicate key '{}', first given at {}", shortened(node.text), place(first->mark)));
      }
      open.key.emplace(node.text, node.mark);
    } else {
      open.node.entries.push_back({std::move(open.key->first), std::move(open.key->second), std::move(node)});
      open.key.reset();
    }
  }

  void count(std::size_t nodes, const Mark& mark) {
    nodes_ += nodes;
    if (nodes_ > kMostNodes) fail(mark, fmt::format("more than {} values, with what anchors and aliases repeat", kMostNodes));
  }

  std::shared_ptr<const std::string> source_;
  Mark fixed_;
  std::optional<Node> root_;
  std::vector<Open> open_;
  std::map<YAML::anchor_t, Node> anchors_;
  std::size_t nodes_ = 0;
};

/// What may be wrong with the line, from 0, that is no YAML.
std::string advice(const std::string& text, int line) {
  std::istringstream in(text);
  std::string words;
  for (int i = 0; i <= line; ++i)
    if (!std::getline(in, words)) return "";
  if (words.substr(0, words.find_first_not_of(" \t")).find('\t') != std::string::npos) return "YAML indents by spaces, not by tabs";
  return words.find("${") != std::string::npos ? "inside {...} and [...] a derived value needs quotes" : "";
}

Node parse(const std::string& text, const std::shared_ptr<const std::string>& source, const Mark& fixed) {
  if (text.size() > kMostFileBytes) fail(fixed.source ? fixed : Mark{source, 0, 0}, fmt::format("more than {} bytes", kMostFileBytes));
  std::istringstream in(text);
  Builder builder(source, fixed);
  try {
    YAML::Parser parser(in);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    const Mark mark = fixed.source ? fixed : Mark{source, error.mark.line + 1, error.mark.column + 1};
    fail(mark, fmt::format("not valid YAML: {}", error.msg), advice(text, error.mark.line));
  }
  return builder.take();
}

}  // namespace

std::string place(const Mark& mark) {
  if (!mark.source) return "";
  return mark.line == 0 ? *mark.source : fmt::format("{}:{}:{}", *mark.source, mark.line, mark.column);
}

void fail(const Mark& mark, const std::string& sentence, const std::string& hint) {
  throw Error(ErrorKind::config, shortened(sentence, 6000), place(mark), shortened(hint, 6000));
}

const Node* Node::find(std::string_view key) const {
  const auto found = std::ranges::find(entries, key, &Entry::key);
  return found == entries.end() ? nullptr : &found->value;
}
Node* Node::find(std::string_view key) { return const_cast<Node*>(std::as_const(*this).find(key)); }
bool Node::erase(std::string_view key) {
  return std::erase_if(entries, [&](const Entry& entry) { return entry.key == key; }) > 0;
}

std::string shortened(const std::string& text, std::size_t most) {
  if (text.size() <= most) return text;
  std::size_t end = most;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // no half of a character
  return fmt::format("{}... ({} bytes)", text.substr(0, end), text.size());
}

std::string Node::in_words() const {
  if (is_map()) return "a mapping";
  if (is_list()) return "a list";
  if (quoted) return fmt::format("the text \"{}\"", shortened(text));
  return text.empty() ? "nothing" : shortened(text);
}

std::size_t count_nodes(const Node& node) {
  std::size_t count = 1;
  for (const Entry& entry : node.entries) count += count_nodes(entry.value);
  for (const Node& item : node.items) count += count_nodes(item);
  return count;
}

Node make_map(const Mark& mark) {
  Node node;
  node.mark = mark;
  return node;
}
Node make_list(const Mark& mark) {
  Node node;
  node.kind = Node::Kind::list;
  node.mark = mark;
  return node;
}
Node make_scalar(std::string text, const Mark& mark, bool quoted) {
  Node node;
  node.kind = Node::Kind::scalar;
  node.text = std::move(text);
  node.quoted = quoted;
  node.mark = mark;
  return node;
}

Node parse_yaml(const std::string& text, const std::string& source) {
  const auto name = std::make_shared<const std::string>(source);
  if (!is_utf8(std::filesystem::path(source).filename().string())) fail({name, 0, 0}, "the file's name is not valid UTF-8");  // a sweep's own, too
  return parse(text, name, {});
}

Node parse_override_value(const std::string& text, const Mark& mark) {
  if (!is_utf8(text)) fail(mark, "the text is not valid UTF-8");
  if (text.empty() || std::string_view("[{\"'").find(text.front()) == std::string_view::npos) return make_scalar(text, mark);
  try {
    return parse(text, mark.source, mark);
  } catch (const Error& error) {
    fail(mark, fmt::format("'{}' is not valid YAML", text), error.message());
  }
}

}  // namespace moesweep::spec
