// See expression.hpp. A number is a Json integer or a Json float all the way, so that integers stay integers.
#include "expression.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <utility>

#include "limits.hpp"

namespace moesweep::spec {

namespace {

using Term = std::function<Json(const Expression::Lookup&)>;

/// The text, and how to point into it.
struct Text {
  std::string text;
  Mark mark;
  bool quoted = false;

  [[noreturn]] void fail_at(std::size_t start, const std::string& sentence, const std::string& hint = {}) const {
    Mark at = mark;
    if (at.line > 0 && text.find('\n') == std::string::npos) at.column += static_cast<int>(start) + (quoted ? 1 : 0);
    spec::fail(at, fmt::format("in \"{}\": {}", text, sentence), hint);
  }
};

using Where = std::shared_ptr<const Text>;

double real(const Json& number) { return number.get<double>(); }
bool whole(const Json& number) { return number.is_number_integer(); }

Json finite(double value, const Text& text, std::size_t at) {
  if (!std::isfinite(value)) text.fail_at(at, "the result is no finite number");
  return value;
}

constexpr const char* kTooLarge = "the result is too large for an integer, which is at most 9223372036854775807";

/// A float without a fraction as an integer, where one can hold it.
Json integer_of(double value, const Text& text, std::size_t at) {
  if (!(value >= -0x1p63 && value < 0x1p63)) text.fail_at(at, kTooLarge);
  return static_cast<std::int64_t>(value);
}

Json combined(char name, const Json& a, const Json& b, const Text& text, std::size_t at) {
  const bool divides = name == '/' || name == 'd' || name == '%';
  if (divides && real(b) == 0) text.fail_at(at, "division by zero");
  if (whole(a) && whole(b)) {
    const auto x = a.get<std::int64_t>(), y = b.get<std::int64_t>();
    std::int64_t result = 0;
    bool overflow = false;
    if (divides) {
      if (y == -1) {  // the one quotient that may not fit
        overflow = __builtin_sub_overflow(std::int64_t{0}, x, &result);
        if (name == '%') result = 0, overflow = false;
      } else {
        const std::int64_t rest = x % y;
        const bool borrow = rest != 0 && (rest < 0) != (y < 0);
        if (name == '/' && rest != 0) return finite(real(a) / real(b), text, at);
        result = name == '%' ? rest + (borrow ? y : 0) : x / y - (name == 'd' && borrow ? 1 : 0);
      }
    } else {
      overflow = name == '+'   ? __builtin_add_overflow(x, y, &result)
                 : name == '-' ? __builtin_sub_overflow(x, y, &result)
                               : __builtin_mul_overflow(x, y, &result);
    }
    if (overflow) text.fail_at(at, kTooLarge);
    return result;
  }
  const double x = real(a), y = real(b);
  switch (name) {
    case '+': return finite(x + y, text, at);
    case '-': return finite(x - y, text, at);
    case '*': return finite(x * y, text, at);
    case '/': return finite(x / y, text, at);
    case 'd': return finite(std::floor(x / y), text, at);
    default: return finite(x - y * std::floor(x / y), text, at);
  }
}

class Parser {
 public:
  Parser(const Node& node, std::vector<std::size_t>& leaves)
      : where_(std::make_shared<const Text>(Text{node.text, node.mark, node.quoted})), text_(where_->text), leaves_(leaves) {}

  Term parse() {
    if (text_.size() > kLongestText)
      spec::fail(where_->mark, fmt::format("a derived value of {} characters: {} are the most", text_.size(), kLongestText));
    Term term = sum(0);
    if (at_ < text_.size()) where_->fail_at(at_, fmt::format("expected an operator or the end but found {}", found()));
    return term;
  }

 private:
  void skip_space() { at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size()); }

  bool accept(std::string_view word) {
    skip_space();
    if (text_.compare(at_, word.size(), word) != 0) return false;
    at_ += word.size();
    return true;
  }

  void expect(std::string_view word) {
    if (!accept(word)) where_->fail_at(at_, fmt::format("expected '{}' but found {}", word, found()));
  }

  std::string found() const { return at_ < text_.size() ? fmt::format("'{}'", text_.substr(at_, text_[at_] == '$' ? 2 : 1)) : "the end"; }

  static bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

  Term binary(char name, Term left, Term right, std::size_t start) const {
    return [name, a = std::move(left), b = std::move(right), start, where = where_](const Expression::Lookup& lookup) {
      return combined(name, a(lookup), b(lookup), *where, start);
    };
  }

  Term sum(int depth) {
    Term left = product(depth);
    for (;;) {
      skip_space();
      const std::size_t start = at_;
      if (accept("+")) left = binary('+', std::move(left), product(depth), start);
      else if (accept("-")) left = binary('-', std::move(left), product(depth), start);
      else return left;
    }
  }

  Term product(int depth) {
    Term left = factor(depth);
    for (;;) {
      skip_space();
      const std::size_t start = at_;
      if (accept("//")) left = binary('d', std::move(left), factor(depth), start);
      else if (accept("/")) left = binary('/', std::move(left), factor(depth), start);
      else if (accept("*")) left = binary('*', std::move(left), factor(depth), start);
      else if (accept("%")) left = binary('%', std::move(left), factor(depth), start);
      else return left;
    }
  }

  Term factor(int depth) {
    skip_space();
    const std::size_t start = at_;
    if (depth > kDeepestTerms) where_->fail_at(start, "nested too deep");
    if (accept("-"))
      return binary(
          '-', [](const Expression::Lookup&) { return Json(std::int64_t{0}); }, factor(depth + 1), start);
    if (accept("(")) {
      Term inner = sum(depth + 1);
      expect(")");
      return inner;
    }
    if (accept("${")) return key(start);
    if (at_ < text_.size() && std::isdigit(static_cast<unsigned char>(text_[at_])) != 0) return number();
    if (at_ < text_.size() && std::isalpha(static_cast<unsigned char>(text_[at_])) != 0) return call(depth);
    where_->fail_at(at_, fmt::format("expected a number, ${{key}}, a function or '(' but found {}", found()));
  }

  Term number() {
    const std::size_t start = at_;
    const auto digits = [&] {
      while (at_ < text_.size() && std::isdigit(static_cast<unsigned char>(text_[at_])) != 0) ++at_;
    };
    digits();
    if (at_ < text_.size() && text_[at_] == '.') ++at_, digits();
    if (at_ < text_.size() && (text_[at_] == 'e' || text_[at_] == 'E')) {
      ++at_;
      if (at_ < text_.size() && (text_[at_] == '-' || text_[at_] == '+')) ++at_;
      digits();
    }
    const std::string word = text_.substr(start, at_ - start);
    Field plain;
    plain.type = word.find_first_of(".eE") == std::string::npos ? FieldType::integer : FieldType::real;
    try {
      return [value = convert(plain, make_scalar(word, where_->mark), "")](const Expression::Lookup&) { return value; };
    } catch (const Error&) {
      where_->fail_at(start, fmt::format("'{}' is no number", word), "numbers are decimal, without leading zeros");
    }
  }

  Term key(std::size_t start) {
    const std::size_t end = text_.find('}', at_);
    if (end == std::string::npos) where_->fail_at(start, "'${' is not closed by '}'");
    std::string path = text_.substr(at_, end - at_);
    path.erase(0, std::min(path.find_first_not_of(' '), path.size()));
    path.erase(path.find_last_not_of(' ') + 1);
    const Key* known = Keys::instance().find(path);
    if (known == nullptr) where_->fail_at(start, fmt::format("'{}' is not a key{}", path, did_you_mean(path, Keys::instance().paths())));
    if (known->is_section || (known->field.type != FieldType::integer && known->field.type != FieldType::real))
      where_->fail_at(start, fmt::format("{} is no number", path));
    at_ = end + 1;
    const std::size_t leaf = known->first;
    if (std::ranges::find(leaves_, leaf) == leaves_.end()) leaves_.push_back(leaf);
    return [leaf, path, start, where = where_](const Expression::Lookup& lookup) {
      Json value = lookup(leaf);
      if (value.is_null()) where->fail_at(start, fmt::format("{} is none", path));
      return value;
    };
  }

  Term call(int depth) {
    const std::size_t start = at_;
    while (at_ < text_.size() && is_word(text_[at_])) ++at_;
    const std::string name = text_.substr(start, at_ - start);
    static const std::vector<std::string> kFunctions{"min", "max", "round", "floor", "ceil", "sqrt"};
    if (std::ranges::find(kFunctions, name) == kFunctions.end()) {
      const bool is_key = Keys::instance().find(name) != nullptr || at_ == text_.size() || text_[at_] == '.';
      where_->fail_at(start, fmt::format("'{}' is no function{}", name, did_you_mean(name, kFunctions)),
                      is_key ? "a key is written ${key}" : "there are min, max, round, floor, ceil and sqrt");
    }
    expect("(");
    std::vector<Term> terms;
    do terms.push_back(sum(depth + 1));
    while (accept(","));
    expect(")");
    if (name == "min" || name == "max")
      return [terms, least = name == "min"](const Expression::Lookup& lookup) {
        Json best = terms.front()(lookup);
        for (std::size_t i = 1; i < terms.size(); ++i)
          if (Json value = terms[i](lookup); least ? value < best : best < value) best = std::move(value);
        return best;
      };
    if (terms.size() != 1) where_->fail_at(start, fmt::format("{} takes one value", name));
    return [term = terms.front(), name, start, where = where_](const Expression::Lookup& lookup) -> Json {
      const Json value = term(lookup);
      if (name == "sqrt") {
        if (real(value) < 0) where->fail_at(start, "the square root of a negative number");
        return std::sqrt(real(value));
      }
      if (whole(value)) return value;
      return integer_of(name == "round"   ? std::round(real(value))
                        : name == "floor" ? std::floor(real(value))
                                          : std::ceil(real(value)),
                        *where, start);
    };
  }

  Where where_;
  const std::string& text_;
  std::vector<std::size_t>& leaves_;
  std::size_t at_ = 0;
};

}  // namespace

bool Expression::is_one(const Field& field, const Node& node) {
  return (field.type == FieldType::integer || field.type == FieldType::real) && node.is_scalar() && node.text.find("${") != std::string::npos;
}

Expression Expression::parse(const Node& text) {
  Expression result;
  result.mark_ = text.mark;
  result.text_ = text.text;
  result.compute_ = Parser(text, result.leaves_).parse();
  return result;
}

Json Expression::value(const Field& field, const std::string& path, const Lookup& lookup) const {
  const Json computed = compute_(lookup);
  Json result = computed;
  if (field.type == FieldType::real) result = real(computed) == 0 ? 0.0 : real(computed);  // -0 is 0
  const bool fraction = field.type == FieldType::integer && !whole(computed) && real(computed) != std::floor(real(computed));
  if (field.type == FieldType::integer && !whole(computed) && !fraction) result = integer_of(real(computed), {text_, mark_, false}, 0);
  const std::string expected = fraction ? fmt::format("expected {}", type_in_words(field)) : check_value(field, result);
  if (!expected.empty())
    fail(mark_, fmt::format("{}: {} but {} is {}", path, expected, text_, canonical(computed)),
         fraction ? "round(), floor() and ceil() make it whole" : "");
  return result;
}

}  // namespace moesweep::spec
