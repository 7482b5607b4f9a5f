// A selection and a balancing method from outside the library: of moesweep they need this one header.
#include <ATen/ATen.h>

#include "moesweep/routing/strategy.hpp"

namespace {

using namespace moesweep::routing;

/// Neighbouring experts: a token goes to its best expert and the `top_k - 1` behind it in number.
struct NeighboursOptions {
  std::int64_t stride = 1;
  void list(moesweep::FieldList& fields) { fields.add("stride", stride, "distance from one chosen expert to the next").at_least(1); }
};

class Neighbours final : public Selection {
 public:
  explicit Neighbours(std::int64_t stride) : stride_(stride) {}
  Slots choose(const PassView& pass, const at::Tensor& keys) const override {
    const at::Tensor best = keys.argmax(1, /*keepdim=*/true);
    const at::Tensor steps = at::arange(pass.config->top_k, best.options()) * stride_;
    return slots_of((best + steps).remainder(keys.size(1)).contiguous(), pass.tokens().mask);
  }

 private:
  std::int64_t stride_;
};

/// A loss that pulls every unit's mean logits together.
struct LevelOptions {
  double strength = 1.0;
  void list(moesweep::FieldList& fields) { fields.add("strength", strength, "factor on the loss").at_least(0); }
};

class Level final : public BalanceMethod {
 public:
  explicit Level(double strength) : strength_(strength) {}
  bool has_sums() const override { return true; }
  at::Tensor sums(const PassView& pass, const at::Tensor& unit, std::int64_t units) const override {
    return sums_of_features(pass.logits.detach(), pass.tokens(), unit, units);
  }
  std::string loss_name() const override { return "level"; }
  at::Tensor loss(const PassView& pass, const UnitStatistics& units) const override {
    return loss_of_sums(pass.logits, pass.tokens(), units, [&](const at::Tensor& totals, const at::Tensor& tokens) {
      return (totals / tokens.view({-1, 1})).var(1, /*unbiased=*/false) * strength_;
    });
  }

 private:
  double strength_;
};

[[maybe_unused]] const bool kRegistered =
    register_selection<NeighboursOptions>("neighbours",
                                          [](const StrategyContext& context) {
                                            return std::make_unique<Neighbours>(context.routing.options.get<NeighboursOptions>("neighbours").stride);
                                          }) &&
    register_balance_method<LevelOptions>(
        "level", [](const StrategyContext& context) { return std::make_unique<Level>(context.term.options.get<LevelOptions>("level").strength); });

}  // namespace
