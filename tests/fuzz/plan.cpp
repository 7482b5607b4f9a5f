// plan.json. What is read has a form that is read back to the same; the outline of a plan that is read is read too.
#include "moesweep/core/foreign_json.hpp"
#include "moesweep/launch/folder.hpp"
#include "reading.hpp"

using namespace moesweep;          // NOLINT
using namespace moesweep::fuzz;    // NOLINT
using namespace moesweep::launch;  // NOLINT

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  spill(scratch() / "plan.json", {reinterpret_cast<const char*>(data), size});
  SweepPlan plan;
  PlanOutline outline;
  const auto refused = refusal([&] { plan = read_plan(scratch()); });
  const auto not_outlined = refusal([&] { outline = read_outline(scratch()); });
  for (const auto& trial : outline.trials)
    require(is_trial_id(trial.id) && trial.steps >= 0 && trial.training_tokens >= 0 && trial.seconds >= 0, "a trial of an outline is impossible");
  if (refused) return 0;
  for (const auto& trial : plan.trials) {
    require(trial_file(scratch(), trial.id).string().starts_with(scratch().string()), "a trial outside the folder");
    require(trial.cost.ranks >= 1 && trial.cost.seconds >= 0 && trial.config.steps() >= 0, "a trial of a plan is impossible");
  }
  require(not_outlined || outline.trials.size() == plan.trials.size(), "the outline has other trials");
  const std::string printed = plan.json().dump();
  std::string again;
  require(!refusal([&] { again = plan_of_json(parse_json(printed, "plan.json")).json().dump(); }),
          "a plan that was read is refused when it was written: " + printed);
  require(again == printed, "another plan when it was written and read:\n" + printed + "\n" + again);
  spill(scratch() / "plan.json", printed);
  require(!refusal([&] { outline = read_outline(scratch()); }), "a plan that was written has no outline");
  require(outline.trials.size() == plan.trials.size() && outline.name == plan.name, "the outline has other trials");
  return 0;
}
