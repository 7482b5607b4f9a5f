// See extra_experts.hpp.
#include "extra_experts.hpp"

#include <ATen/ATen.h>

namespace moesweep::model {

at::Tensor extra_experts(const at::Tensor& x, const routing::Assignment& assignment, std::int64_t first, const routing::ExtraExperts& extra,
                         const std::vector<ConstantExpert>& constants) {
  routing::Slots slots = assignment.slots;
  for (at::Tensor* part : {&slots.token, &slots.expert, &slots.dropped})
    if (part->defined()) *part = part->to(x.device());
  const at::Tensor weight = assignment.weight.to(x.options());
  // Kept slots of the experts [begin, end).
  const auto slots_of_experts = [&](std::int64_t begin, std::int64_t end) {
    at::Tensor taken = (slots.expert >= begin).logical_and(slots.expert < end);
    if (slots.dropped.defined()) taken = taken.logical_and(slots.dropped.logical_not());
    return taken.nonzero().view({-1});
  };
  const std::int64_t copies = first + extra.zero, constant = copies + extra.copy;
  const at::Tensor copied = slots_of_experts(copies, constant);
  const at::Tensor share = at::zeros({x.size(0)}, x.options()).index_add(0, slots.token.index_select(0, copied), weight.index_select(0, copied));
  at::Tensor sum = x * share.unsqueeze(1);
  for (std::size_t k = 0; k < constants.size(); ++k) {
    const std::int64_t number = constant + static_cast<std::int64_t>(k);
    const at::Tensor taken = slots_of_experts(number, number + 1), token = slots.token.index_select(0, taken);
    const at::Tensor rows = x.index_select(0, token);
    const at::Tensor parts = at::softmax(at::matmul(rows, constants[k].mix.t()), -1) * weight.index_select(0, taken).unsqueeze(1);
    sum = sum.index_add(0, token, rows * parts.narrow(1, 0, 1) + parts.narrow(1, 1, 1) * constants[k].vector);
  }
  return sum;
}

}  // namespace moesweep::model
