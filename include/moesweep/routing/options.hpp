// Options of strategies that are registered by name, as values that list their fields; no torch here.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "moesweep/core/fields.hpp"

namespace moesweep::routing {

enum class StrategyKind { selection, balance };

/// A strategy's own options, type-erased: copyable through `clone`, comparable through its fields.
class Options {
 public:
  virtual ~Options() = default;
  virtual std::unique_ptr<Options> clone() const = 0;
  /// Takes the values of `other`, which is of the same type, in place: fields stay bound.
  virtual void assign(const Options& other) = 0;
  virtual void list(FieldList& fields) = 0;
};

/// The options struct `Config` (with a `list` member) as Options.
template <class Config>
class OptionsOf final : public Options {
 public:
  std::unique_ptr<Options> clone() const override { return std::make_unique<OptionsOf>(*this); }
  void assign(const Options& other) override { value = dynamic_cast<const OptionsOf&>(other).value; }
  void list(FieldList& fields) override { value.list(fields); }

  Config value;
};

/// One set of options for each registered strategy of a kind that has any: a config section named after the strategy. Copies are deep, and
/// assignment happens in place, so that fields listed before stay bound.
class OptionSets {
 public:
  OptionSets() = default;
  OptionSets(const OptionSets& other) { *this = other; }
  OptionSets& operator=(const OptionSets& other);

  /// The defaults of every strategy registered so far.
  static OptionSets of(StrategyKind kind);

  void list(FieldList& fields);
  /// The options of that strategy; it must have been registered with a `Config`.
  template <class Config>
  const Config& get(const std::string& name) const {
    return dynamic_cast<const OptionsOf<Config>&>(*sets_.at(name)).value;
  }

 private:
  std::map<std::string, std::unique_ptr<Options>> sets_;
};

/// Makes the name known to the config: the values of `routing.select` or of `routing.balance.method`, in the order of registration behind
/// the built-in ones. `options` may be null. Register before the first config is read; a name twice is an `internal` error.
void register_strategy_name(StrategyKind kind, const std::string& name, std::unique_ptr<Options> options);
/// Built-in and registered names.
std::vector<std::string> strategy_names(StrategyKind kind);

}  // namespace moesweep::routing
