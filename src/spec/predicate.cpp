// See predicate.hpp.
#include "predicate.hpp"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "document.hpp"
#include "limits.hpp"

namespace moesweep::spec {

namespace {

using Condition = std::function<bool(const Values&)>;
using Term = std::function<Json(const Values&)>;

struct Token {
  std::string text;  ///< empty at the end
  std::size_t start = 0;
  bool quoted = false;

  bool is(std::string_view word) const { return !quoted && text == word; }
};

/// What stands left of an operator.
struct Subject {
  std::string path;
  const Field* field = nullptr;  ///< null for a group of sets
  std::vector<std::string> choices;
  Term term;
};

class Parser {
 public:
  Parser(const Node& node, const Document& document) : node_(node), document_(document), groups_(document.groups()) {
    if (!node.is_scalar() || node.text.empty()) spec::fail(node.mark, fmt::format("expected a condition but found {}", node.in_words()));
    if (node.text.size() > kLongestText)
      spec::fail(node.mark, fmt::format("a condition of {} characters: {} are the most", node.text.size(), kLongestText));
    split();
  }

  Condition parse() {
    Condition condition = expression(0);
    if (next_ + 1 < tokens_.size()) fail_at(peek(), fmt::format("expected 'and', 'or' or the end but found {}", found()));
    return condition;
  }

 private:
  [[noreturn]] void fail_at(const Token& token, const std::string& sentence) const {
    Mark mark = node_.mark;
    if (mark.line > 0 && node_.text.find('\n') == std::string::npos) mark.column += static_cast<int>(token.start) + (node_.quoted ? 1 : 0);
    spec::fail(mark, fmt::format("in the condition \"{}\": {}", node_.text, sentence));
  }

  void split() {
    const std::string& text = node_.text;
    constexpr std::string_view kSpace = " \t\r\n", kSpecial = "()[],=!<>\"'";
    std::size_t at = 0;
    while ((at = text.find_first_not_of(kSpace, at)) != std::string::npos) {
      Token token{"", at, false};
      if (text[at] == '"' || text[at] == '\'') {
        const std::size_t end = text.find(text[at], at + 1);
        if (end == std::string::npos) fail_at(token, "a quote is not closed");
        token.text = text.substr(at + 1, end - at - 1);
        token.quoted = true;
        at = end + 1;
      } else if (kSpecial.find(text[at]) != std::string_view::npos) {
        const bool two = at + 1 < text.size() && text[at + 1] == '=' && std::string_view("=!<>").find(text[at]) != std::string_view::npos;
        token.text = text.substr(at, two ? 2 : 1);
        at += token.text.size();
      } else {
        const std::size_t end = std::min(text.find_first_of(kSpecial, at), text.find_first_of(kSpace, at));
        token.text = text.substr(at, end == std::string::npos ? end : end - at);
        at += token.text.size();
      }
      tokens_.push_back(std::move(token));
    }
    tokens_.push_back({"", text.size(), false});
  }

  const Token& peek() const { return tokens_[next_]; }
  Token take() {
    Token token = tokens_[next_];
    if (next_ + 1 < tokens_.size()) ++next_;
    return token;
  }
  bool accept(std::string_view word) {
    if (!peek().is(word) || next_ + 1 == tokens_.size()) return false;
    ++next_;
    return true;
  }
  void expect(std::string_view word) {
    if (!accept(word)) fail_at(peek(), fmt::format("expected '{}' but found {}", word, found()));
  }
  std::string found() const { return next_ + 1 == tokens_.size() ? "the end" : "'" + peek().text + "'"; }

  Condition expression(int depth) {
    Condition left = conjunction(depth);
    while (accept("or")) left = [a = std::move(left), b = conjunction(depth)](const Values& values) { return a(values) || b(values); };
    return left;
  }

  Condition conjunction(int depth) {
    Condition left = negation(depth);
    while (accept("and")) left = [a = std::move(left), b = negation(depth)](const Values& values) { return a(values) && b(values); };
    return left;
  }

  Condition negation(int depth) {
    if (depth > kDeepestTerms) fail_at(peek(), "nested too deep");
    if (accept("not")) return [a = negation(depth + 1)](const Values& values) { return !a(values); };
    if (accept("(")) {
      Condition inner = expression(depth + 1);
      expect(")");
      return inner;
    }
    return comparison();
  }

  std::optional<Subject> subject_of(const Token& token) const {
    if (token.quoted) return std::nullopt;
    if (const auto group = std::ranges::find(groups_, token.text); group != groups_.end()) {
      Subject subject{token.text, nullptr, {}, {}};
      for (const Entry& set : document_.sets.find(token.text)->entries) subject.choices.push_back(set.key);
      const auto index = static_cast<std::size_t>(group - groups_.begin());
      subject.term = [index](const Values& values) { return values.sets[index].empty() ? Json(nullptr) : Json(values.sets[index]); };
      return subject;
    }
    const Key* key = Keys::instance().find(token.text);
    if (key == nullptr || key->is_section) return std::nullopt;
    return Subject{key->path, &key->field, key->field.choices, [leaf = key->first](const Values& values) {
                     if (std::ranges::find(values.unknown, leaf) != values.unknown.end()) throw UnknownValue{};
                     return values.leaves[leaf].field.get();
                   }};
  }

  bool is_number(const Subject& subject) const {
    return subject.field != nullptr && (subject.field->type == FieldType::integer || subject.field->type == FieldType::real);
  }

  Json literal(const Subject& subject) {
    const Token token = take();
    if (token.text.empty() && !token.quoted) fail_at(token, fmt::format("expected a value of {} but found the end", subject.path));
    if (!token.quoted && token.text == "none" && std::ranges::find(subject.choices, "none") == subject.choices.end()) {
      if (subject.field == nullptr || subject.field->may_be_none) return nullptr;
    }
    if (!subject.choices.empty()) {
      if (std::ranges::find(subject.choices, token.text) == subject.choices.end())
        fail_at(token, fmt::format("{} is one of {}, never '{}'{}", subject.path, fmt::join(subject.choices, ", "), token.text,
                                   did_you_mean(token.text, subject.choices)));
      return token.text;
    }
    if (subject.field->type == FieldType::text) return token.text;
    Field plain;  // the type without the range: `model.width > 0` is a fair question
    plain.type = subject.field->type == FieldType::integer ? FieldType::real : subject.field->type;
    try {
      return convert(plain, make_scalar(token.text, node_.mark, token.quoted), subject.path);
    } catch (const Error&) {
      fail_at(token, fmt::format("{} is compared with {}, not with '{}'", subject.path, plain.type == FieldType::real ? "a number" : "true or false",
                                 token.text));
    }
  }

  Condition comparison() {
    const Token token = take();
    if (token.text.empty() && !token.quoted) fail_at(token, "expected a key but found the end");
    const std::optional<Subject> subject = subject_of(token);
    if (!subject) {
      std::vector<std::string> candidates = Keys::instance().paths();
      candidates.insert(candidates.end(), groups_.begin(), groups_.end());
      fail_at(token, fmt::format("'{}' is not a key{}", token.text, did_you_mean(token.text, candidates)));
    }
    if (subject->field != nullptr && (subject->field->type == FieldType::text_list || holds_sections(*subject->field)))
      fail_at(token,
              fmt::format("{} is a {} and has no comparison", subject->path, subject->field->type == FieldType::section_map ? "mapping" : "list"));
    const bool negated = accept("not");
    if (accept("in")) return membership(*subject, negated);
    if (negated) fail_at(peek(), fmt::format("expected 'in' but found {}", found()));

    static constexpr std::array kOperators{"==", "!=", "<", "<=", ">", ">="};
    const auto operation = std::ranges::find_if(kOperators, [&](const char* text) { return accept(text); });
    if (operation == kOperators.end()) {
      if (subject->field != nullptr && subject->field->type == FieldType::boolean)
        return [term = subject->term](const Values& values) { return term(values).get<bool>(); };
      fail_at(peek(), fmt::format("expected ==, !=, <, <=, >, >= or 'in' after {} but found {}", subject->path, found()));
    }
    const std::string_view name = *operation;
    const bool ordered = name[0] == '<' || name[0] == '>';
    if (ordered && !is_number(*subject)) fail_at(tokens_[next_ - 1], fmt::format("{} has no order: use == or !=", subject->path));
    Term right;
    if (const std::optional<Subject> other = subject_of(peek())) {
      if (is_number(*other) != is_number(*subject) || (other->field != nullptr && holds_sections(*other->field)))
        fail_at(peek(), fmt::format("{} and {} cannot be compared", subject->path, other->path));
      take();
      right = other->term;
    } else {
      right = [value = literal(*subject)](const Values&) { return value; };
    }
    return [left = subject->term, right, name, ordered](const Values& values) {
      const Json a = left(values), b = right(values);
      if (name == "==") return a == b;
      if (name == "!=") return a != b;
      if (ordered && (a.is_null() || b.is_null())) return false;  // an absent value has no order
      return name == "<" ? a < b : name == "<=" ? a <= b : name == ">" ? a > b : a >= b;
    };
  }

  Condition membership(const Subject& subject, bool negated) {
    expect("[");
    std::vector<Json> members;
    do members.push_back(literal(subject));
    while (accept(","));
    expect("]");
    return [term = subject.term, members, negated](const Values& values) {
      const Json value = term(values);
      return (std::ranges::find(members, value) != members.end()) != negated;
    };
  }

  const Node& node_;
  const Document& document_;
  std::vector<std::string> groups_;
  std::vector<Token> tokens_;
  std::size_t next_ = 0;
};

}  // namespace

Predicate Predicate::parse(const Node& text, const Document& document) {
  Predicate predicate;
  predicate.holds_ = Parser(text, document).parse();
  return predicate;
}

}  // namespace moesweep::spec
