// Prints, as JSON, random inputs of the oracles and what they make of them, for reference_crosscheck.py to compute again with PyTorch.
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>

#include "reference/routing_reference.hpp"
#include "reference/transformer_reference.hpp"

namespace {

using namespace moesweep::reference;
using Json = nlohmann::json;

const char* name_of(Score score) { return score == Score::softmax ? "softmax" : score == Score::sigmoid ? "sigmoid" : "softmax_selected"; }

Json loss_json(const Loss& loss) { return {{"value", loss.value}, {"gradient", loss.gradient}}; }

Json routing_case(std::mt19937_64& generator, Score score, std::int64_t E, std::int64_t k) {
  std::normal_distribution<double> normal;
  Input in;
  in.T = 30;
  in.E = E;
  in.k = k;
  std::vector<Vector> upstream;
  for (std::int64_t t = 0; t < in.T; ++t) {
    for (std::int64_t e = 0; e < E; ++e) in.logits.push_back(2 * normal(generator));
    in.sequence.push_back(t / 5);
    in.micro_batch.push_back(t / 10);
    in.mask.push_back(t % 7 == 3 ? 0 : 1);
    upstream.emplace_back();
    for (std::int64_t slot = 0; slot < k; ++slot) upstream.back().push_back(normal(generator));
  }
  const Choice choice = route_top_k(in, score, 1.5);
  return {{"score", name_of(score)},
          {"tokens", in.T},
          {"experts", E},
          {"top_k", k},
          {"scale", 1.5},
          {"logits", in.logits},
          {"mask", in.mask},
          {"units", {{"sequence", in.sequence}, {"micro_batch", in.micro_batch}, {"global_batch", Integers(30, 0)}}},
          {"upstream", upstream},
          {"chosen", choice.experts},
          {"weights", choice.weights},
          {"weights_gradient", weights_gradient(in, choice, upstream, score, 1.5)},
          {"aux_weight", 0.3},
          {"aux_loss",
           {{"sequence", loss_json(aux_loss(in, score, Scope::sequence, 0.3))},
            {"micro_batch", loss_json(aux_loss(in, score, Scope::micro_batch, 0.3))},
            {"global_batch", loss_json(aux_loss(in, score, Scope::global_batch, 0.3))}}},
          {"z_weight", 0.2},
          {"z_loss", loss_json(z_loss(in, 0.2))}};
}

Json transformer_case(std::mt19937_64& generator, TransformerShape shape) {
  std::normal_distribution<double> normal(0, 0.4);
  std::uniform_int_distribution<std::int64_t> draw(0, shape.vocabulary - 1);
  Parameters parameters;
  for (const auto& [name, size] : parameter_sizes(shape))
    for (std::int64_t i = 0; i < size; ++i) parameters[name].push_back(normal(generator));
  const std::int64_t sequences = 3, length = 6;
  Integers tokens, targets;
  for (std::int64_t t = 0; t < sequences * length; ++t) {
    tokens.push_back(draw(generator));
    targets.push_back(draw(generator));
  }
  const Forward result = forward(shape, parameters, tokens, targets, sequences, length);
  Json router = Json::object();
  for (const auto& [layer, in] : result.router) router[std::to_string(layer)] = in.logits;
  return {{"vocabulary", shape.vocabulary},
          {"width", shape.width},
          {"layers", shape.layers},
          {"heads", shape.heads},
          {"experts", shape.experts},
          {"expert_width", shape.expert_width},
          {"top_k", shape.top_k},
          {"shared_experts", shape.shared_experts},
          {"dense_layers", shape.dense_layers},
          {"dense_width", shape.dense_width},
          {"tied", shape.tied_embeddings},
          {"rotary_base", shape.rotary_base},
          {"norm_epsilon", shape.norm_epsilon},
          {"score", name_of(shape.score)},
          {"scale", shape.weight_scale},
          {"sequences", sequences},
          {"length", length},
          {"parameters", parameters},
          {"token_ids", tokens},
          {"targets", targets},
          {"logits", result.logits},
          {"loss", result.loss},
          {"router", router}};
}

}  // namespace

int main() {
  std::mt19937_64 generator(20);
  Json routing = Json::array(), transformers = Json::array();
  for (Score score : {Score::softmax, Score::softmax_selected, Score::sigmoid}) {
    for (auto [E, k] : {std::pair<std::int64_t, std::int64_t>{8, 1}, {8, 2}, {5, 5}, {32, 4}})
      routing.push_back(routing_case(generator, score, E, k));
    TransformerShape shape;
    shape.vocabulary = 11;
    shape.width = 8;
    shape.layers = 2;
    shape.heads = 2;
    shape.experts = 4;
    shape.expert_width = 5;
    shape.top_k = 2;
    shape.score = score;
    transformers.push_back(transformer_case(generator, shape));
    shape.layers = 3;
    shape.heads = 4;
    shape.dense_layers = 1;
    shape.dense_width = 7;
    shape.shared_experts = 2;
    shape.tied_embeddings = true;
    shape.rotary_base = 50;
    shape.norm_epsilon = 1e-2;
    shape.weight_scale = 2.5;
    transformers.push_back(transformer_case(generator, shape));
  }
  std::cout << Json{{"routing", routing}, {"transformers", transformers}} << "\n";
}
