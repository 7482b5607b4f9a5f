// Every invalid sweep file here is one line: what is wrong, the file, the command line's overrides, and the exact message that it must give.
// clang-format off
#include "spec/support.hpp"

namespace moesweep::spec {

namespace {

struct Case {
  const char* name;
  const char* text;
  std::vector<std::string> overrides;
  const char* message;
};

const std::vector<Case> kCases{
    {"scope without a method", "routing.balance.scope: sequence", {}, "sweep.yaml:1:24: routing.balance.scope = sequence says nothing with routing.balance.method = none: leave the scope out (`when` or `exclude` keep it from that method)"},
    {"further term without a method", "routing.balance.also: [{}]", {}, "sweep.yaml:1:23: routing.balance.also[0] names no method"},
    {"unknown key", "seed: 1\nmodel: {widht: 3}", {}, "sweep.yaml:2:9: unknown key 'model.widht': did you mean 'model.width'?"},
    {"unknown key at the top", "modle: {width: 32}", {}, "sweep.yaml:1:1: unknown key 'modle': did you mean 'model'?"},
    {"unknown dotted key", "routing.balance.sope: sequence", {}, "sweep.yaml:1:1: unknown key 'routing.balance.sope': did you mean 'routing.balance.scope'?"},
    {"key of another section", "width: 32", {}, "sweep.yaml:1:1: unknown key 'width': did you mean 'model.width'?"},
    {"key of another section, nested", "model: {top_k: 2}", {}, "sweep.yaml:1:9: unknown key 'model.top_k': did you mean 'routing.top_k'?"},
    {"unknown key like no other", "colour: red", {}, "sweep.yaml:1:1: unknown key 'colour'\n  `moesweep schema --markdown` lists every key; a group of sets is a key where `sets` names it"},
    {"unknown key in a section below a leaf", "seed.x: 1", {}, "sweep.yaml:1:1: unknown key 'seed.x': did you mean 'seed'?"},
    {"unknown key with a trailing dot", "model.: 1", {}, "sweep.yaml:1:1: unknown key 'model.': did you mean 'model'?"},
    {"unknown axis", "grid:\n  model.experst: [1, 2]", {}, "sweep.yaml:2:3: unknown key 'model.experst': did you mean 'model.experts'?"},
    {"unknown zip axis", "zip: {train.step: [1]}", {}, "sweep.yaml:1:7: unknown key 'train.step': did you mean 'train.steps'?"},
    {"unknown key in points", "points:\n  - {seed: 1}\n  - {sede: 2}", {}, "sweep.yaml:3:6: unknown key 'sede': did you mean 'seed'?"},
    {"unknown key in a set", "sets: {scale: {x1: {model.layer: 1}}}", {}, "sweep.yaml:1:21: unknown key 'model.layer': did you mean 'model.layers'?"},
    {"unknown key in a block", "blocks:\n  - {gird: {seed: [1]}}", {}, "sweep.yaml:2:6: unknown key 'gird' in a block: did you mean 'grid'?\n  a block holds grid, zip, points, exclude and when"},
    {"unknown key in a list of sections", "routing.balance.also: [{method: aux_loss, scop: sequence}]", {}, "sweep.yaml:1:43: unknown key 'scop' in routing.balance.also[0]: did you mean 'scope'?"},
    {"unknown key in a referenced file", "routing: bad_router.yaml", {}, "bad_router.yaml:1:1: unknown key 'routing.selekt': did you mean 'routing.select'?"},
    {"duplicate key", "seed: 1\nmodel: {width: 32}\nseed: 2", {}, "sweep.yaml:3:1: duplicate key 'seed', first given at sweep.yaml:1:1"},
    {"duplicate key below", "model:\n  width: 32\n  width: 64", {}, "sweep.yaml:3:3: duplicate key 'width', first given at sweep.yaml:2:3"},
    {"duplicate key, dotted and nested", "model.width: 32\nmodel: {width: 64}", {}, "sweep.yaml:1:1: duplicate key 'model.width', first given at sweep.yaml:2:16"},
    {"duplicate axis", "grid: {seed: [1], seed: [2]}", {}, "sweep.yaml:1:19: duplicate key 'seed', first given at sweep.yaml:1:8"},
    {"text for an integer", "model.width: wide", {}, "sweep.yaml:1:14: model.width: expected integer >= 2 and <= 65536 but found wide"},
    {"real for an integer", "train.steps: 1.5", {}, "sweep.yaml:1:14: train.steps: expected integer >= 1 but found 1.5"},
    {"exponent for an integer", "train.steps: 1e3", {}, "sweep.yaml:1:14: train.steps: expected integer >= 1 but found 1e3"},
    {"leading zero", "train.steps: 010", {}, "sweep.yaml:1:14: train.steps: expected integer >= 1 but found 010\n  numbers are decimal, without leading zeros"},
    {"hexadecimal", "seed: 0x10", {}, "sweep.yaml:1:7: seed: expected integer >= 0 but found 0x10"},
    {"integer too large", "seed: 99999999999999999999", {}, "sweep.yaml:1:7: seed: expected integer >= 0 but found 99999999999999999999"},
    {"quoted number", "seed: \"1\"", {}, "sweep.yaml:1:7: seed: expected integer >= 0 but found the text \"1\"\n  a quoted value is text: leave the quotes out"},
    {"leading zero in a real", "train.learning_rate: 010.5", {}, "sweep.yaml:1:22: train.learning_rate: expected number > 0 but found 010.5\n  numbers are decimal, without leading zeros"},
    {"infinity", "train.learning_rate: .inf", {}, "sweep.yaml:1:22: train.learning_rate: expected number > 0 but found .inf"},
    {"real too large", "train.learning_rate: 1e999", {}, "sweep.yaml:1:22: train.learning_rate: expected number > 0 but found 1e999"},
    {"not a number", "train.learning_rate: .nan", {}, "sweep.yaml:1:22: train.learning_rate: expected number > 0 but found .nan"},
    {"yes is no boolean", "model.tied_embeddings: yes", {}, "sweep.yaml:1:24: model.tied_embeddings: expected true or false but found yes"},
    {"capital boolean", "model.tied_embeddings: True", {}, "sweep.yaml:1:24: model.tied_embeddings: expected true or false but found True"},
    {"unknown choice", "routing.balance.scope: global", {}, "sweep.yaml:1:24: routing.balance.scope: expected one of sequence, micro_batch, global_batch but found global"},
    {"misspelt choice", "routing.select: refrence", {}, "sweep.yaml:1:17: routing.select: expected one of top_k, reference, random but found refrence\n  did you mean 'reference'?"},
    {"none where a value is needed", "train.steps: none", {}, "sweep.yaml:1:14: train.steps: expected integer >= 1 but found none"},
    {"nothing where none is meant", "train.tokens:", {}, "sweep.yaml:1:1: train.tokens: expected integer >= 1 or none but found nothing\n  an absent value is written none"},
    {"null where none is meant", "train.tokens: null", {}, "sweep.yaml:1:15: train.tokens: expected integer >= 1 or none but found nothing\n  an absent value is written none"},
    {"nothing", "model.width:", {}, "sweep.yaml:1:1: model.width: expected integer >= 2 and <= 65536 but found nothing"},
    {"list for a scalar", "model.width: [32, 64]", {}, "sweep.yaml:1:14: model.width: expected integer >= 2 and <= 65536 but found a list\n  several values are an axis: write them under grid"},
    {"mapping for a scalar", "model.width: {a: 1}", {}, "sweep.yaml:1:14: model.width: expected integer >= 2 and <= 65536 but found a mapping"},
    {"list for a section", "model: [1]", {}, "sweep.yaml:1:8: model: expected a mapping or the name of a file but found a list"},
    {"scalar for a list", "data.domains: de", {}, "sweep.yaml:1:15: data.domains: expected list of texts but found de"},
    {"list inside a text list", "data.domains: [[de], en]", {}, "sweep.yaml:1:16: data.domains: expected text but found a list"},
    {"mapping for a list of sections", "routing.balance.also: {method: aux_loss}", {}, "sweep.yaml:1:23: routing.balance.also: expected list of mappings but found a mapping"},
    {"wrong value in a list of sections", "routing.balance.also: [{method: aux_loss, weight: -1}]", {}, "sweep.yaml:1:51: routing.balance.also[0].weight: expected number >= 0 but found -1"},
    {"below the range", "model.width: 1", {}, "sweep.yaml:1:14: model.width: expected integer >= 2 and <= 65536 but found 1"},
    {"above the range", "train.beta1: 1", {}, "sweep.yaml:1:14: train.beta1: expected number >= 0 and <= 0.9999999 but found 1"},
    {"at an open end", "train.learning_rate: 0", {}, "sweep.yaml:1:22: train.learning_rate: expected number > 0 but found 0"},
    {"out of range in a grid", "grid: {routing.top_k: [1, 0]}", {}, "sweep.yaml:1:27: routing.top_k: expected integer >= 1 but found 0"},
    {"wrong type in points", "points: [{train.steps: 2}, {train.steps: two}]", {}, "sweep.yaml:1:42: train.steps: expected integer >= 1 but found two"},
    {"wrong type in a set", "sets:\n  scale:\n    x1: {model.width: a}", {}, "sweep.yaml:3:23: model.width: expected integer >= 2 and <= 65536 but found a"},
    {"wrong though replaced later", "base: ok.yaml\nseed: one", {"seed=1"}, "sweep.yaml:2:7: seed: expected integer >= 0 but found one"},
    {"missing base", "base: models/testbed-tiney.yaml", {}, "sweep.yaml:1:7: no file 'models/testbed-tiney.yaml': did you mean 'models/testbed-tiny.yaml'?\n  looked in ., CONFIGS"},
    {"missing base like no other", "base: qqqqqqqqqq.yaml", {}, "sweep.yaml:1:7: no file 'qqqqqqqqqq.yaml'\n  looked in ., CONFIGS"},
    {"missing reference", "routing: routers/refrence.yaml", {}, "sweep.yaml:1:10: no file 'routers/refrence.yaml': did you mean 'routers/reference.yaml'?\n  looked in ., CONFIGS"},
    {"missing reference in points", "points:\n  - {routing: nowhere_at_all.yaml}", {}, "sweep.yaml:2:15: no file 'nowhere_at_all.yaml'\n  looked in ., CONFIGS"},
    {"base that is no name", "base: {a: 1}", {}, "sweep.yaml:1:7: base: expected a file's name but found a mapping"},
    {"base names itself", "base: sweep.yaml", {}, "sweep.yaml:1:7: files name each other in a circle: sweep.yaml -> sweep.yaml"},
    {"bases in a circle", "base: circle_a.yaml", {}, "circle_b.yaml:1:7: files name each other in a circle: sweep.yaml -> circle_a.yaml -> circle_b.yaml -> circle_a.yaml"},
    {"empty grid", "grid: {}", {}, "sweep.yaml:1:7: grid is empty: name an axis, or leave grid out"},
    {"empty axis", "grid: {seed: []}", {}, "sweep.yaml:1:14: grid.seed is empty: no trial would be left"},
    {"axis without a list", "grid: {seed: 1}", {}, "sweep.yaml:1:14: grid.seed: expected a list of values but found 1"},
    {"grid that is a list", "grid: [seed]", {}, "sweep.yaml:1:7: grid: expected a mapping of axes to lists but found a list"},
    {"empty zip", "zip: {}", {}, "sweep.yaml:1:6: zip is empty: name an axis, or leave zip out"},
    {"unequal zip", "zip:\n  seed: [1, 2, 3]\n  model.width: [32, 64]", {}, "sweep.yaml:3:3: zip.model.width has 2 values and zip.seed has 3: lists in a zip are of one length"},
    {"empty points", "points: []", {}, "sweep.yaml:1:9: points is empty: no trial would be left"},
    {"points that is a mapping", "points: {seed: 1}", {}, "sweep.yaml:1:9: points: expected a list of mappings but found a mapping"},
    {"points of scalars", "points: [1]", {}, "sweep.yaml:1:10: points: expected a mapping but found 1"},
    {"empty blocks", "blocks: []", {}, "sweep.yaml:1:9: blocks is empty: no trial would be left"},
    {"blocks that is a mapping", "blocks: {grid: {seed: [1]}}", {}, "sweep.yaml:1:9: blocks: expected a list but found a mapping"},
    {"block that is a scalar", "blocks: [x]", {}, "sweep.yaml:1:10: blocks: expected a mapping but found x"},
    {"block without axes", "blocks:\n  - {exclude: seed == 1}", {}, "sweep.yaml:2:5: a block without grid, zip or points: no trial would come of it"},
    {"grid beside blocks", "grid: {seed: [1]}\nblocks: [{grid: {seed: [2]}}]", {}, "sweep.yaml:1:1: 'grid' stands beside 'blocks': make it a block of its own"},
    {"axis in grid and points", "grid: {seed: [1, 2]}\npoints: [{seed: 3}]", {}, "sweep.yaml:1:15: seed is given by two axes of the block: one of them would be lost"},
    {"axis in grid and zip", "grid: {seed: [1, 2]}\nzip: {seed: [3]}", {}, "sweep.yaml:1:15: seed is given by two axes of the block: one of them would be lost"},
    {"set in grid and points", "sets: {scale: {x1: {}}}\ngrid: {scale: [x1]}\npoints: [{scale: x1}]", {}, "sweep.yaml:1:1: scale is given by two axes of the block: one of them would be lost"},
    {"unknown set", "sets: {scale: {x1: {}, x35: {}}}\ngrid: {scale: [x1, x36]}", {}, "sweep.yaml:2:20: scale: no set 'x36' in sets.scale: did you mean 'x35'?"},
    {"set that is a list", "sets: {scale: {x1: {}}}\ngrid: {scale: [[x1]]}", {}, "sweep.yaml:2:16: scale: expected the name of a set but found a list"},
    {"group without sets", "sets: {scale: {}}", {}, "sweep.yaml:1:15: sets.scale: expected a mapping of set names to keys but found an empty one"},
    {"group named as a key", "sets: {model: {x1: {}}}", {}, "sweep.yaml:1:8: sets.model: a group needs a name of its own, without dots and not a key"},
    {"group with a dot", "sets: {my.scale: {x1: {}}}", {}, "sweep.yaml:1:8: sets.my.scale: a group needs a name of its own, without dots and not a key"},
    {"sets that is a list", "sets: [x1]", {}, "sweep.yaml:1:7: sets: expected a mapping of groups but found a list"},
    {"set that is a scalar", "sets: {scale: {x1: big}}", {}, "sweep.yaml:1:20: sets.scale.x1: expected a mapping of keys but found big"},
    {"group that no sets name", "grid: {scale: [x1]}", {}, "sweep.yaml:1:8: unknown key 'scale'\n  `moesweep schema --markdown` lists every key; a group of sets is a key where `sets` names it"},
    {"bad name", "sweep: ../x", {}, "sweep.yaml:1:8: sweep: expected a name of letters, digits, '-', '_' and '.' but found ../x"},
    {"name with a command", "sweep: \"$(rm -rf x)\"", {}, "sweep.yaml:1:8: sweep: expected a name of letters, digits, '-', '_' and '.' but found the text \"$(rm -rf x)\""},
    {"nothing but a scalar", "hello", {}, "sweep.yaml:1:1: expected a mapping of keys but found hello"},
    {"a list", "- seed: 1", {}, "sweep.yaml:1:1: expected a mapping of keys but found a list"},
    {"unclosed bracket", "grid: {seed: [1, 2}", {}, "sweep.yaml:1:19: not valid YAML: illegal flow end"},
    {"tab", "model:\n\twidth: 3", {}, "sweep.yaml:2:7: not valid YAML: illegal map value\n  YAML indents by spaces, not by tabs"},
    {"unclosed quote", "sweep: \"abc", {}, "sweep.yaml:2:21: not valid YAML: illegal EOF in scalar"},
    {"bad indentation", "model:\n  width: 32\n heads: 2", {}, "sweep.yaml:3:2: not valid YAML: end of map not found"},
    {"two documents", "seed: 1\n---\nseed: 2", {}, "sweep.yaml:2:1: a second YAML document begins here: a file holds one"},
    {"tag", "seed: !!int 1", {}, "sweep.yaml:1:7: the tag tag:yaml.org,2002:int has no meaning here"},
    {"unknown alias", "seed: *one", {}, "sweep.yaml:1:7: not valid YAML: the referenced anchor is not defined"},
    {"alias in itself", "data.domains: &a [*a]", {}, "sweep.yaml:1:19: an alias inside the value that it names"},
    {"a list as a key", "[a, b]: 1", {}, "sweep.yaml:1:1: a key must be plain text"},
    {"deep nesting", "model: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]", {}, "sweep.yaml:1:39: nested more than 32 deep"},
    {"no domains", "data: {kind: synthetic, domains: []}", {}, "sweep.yaml:1:34: data.domains is empty: name at least one domain"},
    {"heads do not divide", "model:\n  width: 64\n  heads: 3", {}, "sweep.yaml:3:10: model.width = 64 over model.heads = 3 must be an even whole number (rotary positions turn pairs)"},
    {"more choices than experts", "grid:\n  routing.top_k: [1, 2]\n  model.experts: [4, 1]", {}, "sweep.yaml:3:22: routing.top_k = 2 is more than model.experts = 1\n  in the trial of routing.top_k = 2, model.experts = 1"},
    {"sign rule without sigmoid", "routing.balance.method: expert_bias", {}, "sweep.yaml:1:25: routing.balance.method = expert_bias with routing.balance.rule = sign needs routing.score = sigmoid (set it, or rule = proportional)"},
    {"balance of a fixed choice", "routing: {select: random, balance: {method: aux_loss}}", {}, "sweep.yaml:1:45: routing.balance.method = aux_loss has nothing to balance with routing.select = random: the choice does not depend on the logits"},
    {"second bias", "routing: {score: sigmoid, balance: {method: expert_bias, also: [{method: expert_bias}]}}", {}, "sweep.yaml:1:64: routing.balance and routing.balance.also name expert_bias more than once: a router has one bias"},
    {"micro-batches do not divide", "train: {batch_sequences: 64}\ngrid: {train.micro_batch_sequences: [4, 3]}", {}, "sweep.yaml:2:41: train.batch_sequences = 64 must be whole micro-batches of train.micro_batch_sequences = 3\n  in the trial of train.micro_batch_sequences = 3"},
    {"refused in a set", "sets:\n  scale:\n    odd: {model.heads: 7}\nscale: odd", {}, "sweep.yaml:3:24: model.width = 64 over model.heads = 7 must be an even whole number (rotary positions turn pairs)"},
    {"refused by the command line", "seed: 1", {"model.heads=7"}, "command line: model.width = 64 over model.heads = 7 must be an even whole number (rotary positions turn pairs)"},
    {"dense layers leave nothing", "model.dense_layers: 2", {}, "sweep.yaml:1:21: model.dense_layers = 2 leaves no MoE layer of model.layers = 2"},
    {"condition nested too deep", "exclude: ((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((", {}, "sweep.yaml:1:75: in the condition \"((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((\": nested too deep"},
    {"vocabulary too small", "data: {domains: [a, b], vocabulary: 2}", {}, "sweep.yaml:1:37: data.vocabulary = 2 is too small for 2 synthetic domains"},
    {"sources for other domains", "data: {kind: store, store: x, domains: [a, b], sources: [s]}", {}, "sweep.yaml:1:57: data.sources has 1 entries for 2 domains: give one per domain"},
    {"store without a folder", "data: {kind: store, domains: [a, b]}", {}, "sweep.yaml:1:14: data.kind = store needs data.store, the folder of the token store"},
    {"domains do not divide", "data: {domains: [a, b, c]}", {}, "sweep.yaml:1:1: train.batch_sequences = 64 must give each of the 3 domains the same share"},
    {"override by a mapping for a scalar", "seed: 1", {"seed={a: 1}"}, "command line: seed: expected integer >= 0 but found a mapping"},
    {"override by an axis with a wrong value", "seed: 1", {"train.steps=[1,0]"}, "command line: train.steps: expected integer >= 1 but found 0"},
    {"entropy too high", "data.synthetic.entropy: 9", {}, "sweep.yaml:1:25: data.synthetic.entropy = 9 is above the most that a domain's 160 tokens allow, 5.075 nats"},
    {"all excluded", "grid: {seed: [1, 2]}\nexclude: seed >= 1", {}, "sweep.yaml:1:1: no trial is left: exclude drops all 2"},
    {"condition on no key", "exclude: sead == 1", {}, "sweep.yaml:1:10: in the condition \"sead == 1\": 'sead' is not a key: did you mean 'seed'?"},
    {"condition without an operator", "exclude: seed", {}, "sweep.yaml:1:14: in the condition \"seed\": expected ==, !=, <, <=, >, >= or 'in' after seed but found the end"},
    {"condition cut short", "exclude: seed ==", {}, "sweep.yaml:1:17: in the condition \"seed ==\": expected a value of seed but found the end"},
    {"condition with an impossible choice", "exclude: routing.balance.scope == gobal_batch", {}, "sweep.yaml:1:35: in the condition \"routing.balance.scope == gobal_batch\": routing.balance.scope is one of sequence, micro_batch, global_batch, never 'gobal_batch': did you mean 'global_batch'?"},
    {"condition with a wrong type", "exclude: seed == one", {}, "sweep.yaml:1:18: in the condition \"seed == one\": seed is compared with a number, not with 'one'"},
    {"condition with an order of words", "exclude: routing.score < sigmoid", {}, "sweep.yaml:1:24: in the condition \"routing.score < sigmoid\": routing.score has no order: use == or !="},
    {"condition with an open bracket", "exclude: (seed == 1", {}, "sweep.yaml:1:20: in the condition \"(seed == 1\": expected ')' but found the end"},
    {"condition with one word too many", "exclude: seed == 1 seed == 2", {}, "sweep.yaml:1:20: in the condition \"seed == 1 seed == 2\": expected 'and', 'or' or the end but found 'seed'"},
    {"condition with an open quote", "exclude: [\"seed == 1\", \"data.store == 'x\"]", {}, "sweep.yaml:1:39: in the condition \"data.store == 'x\": a quote is not closed"},
    {"condition on a list", "exclude: data.domains == a", {}, "sweep.yaml:1:10: in the condition \"data.domains == a\": data.domains is a list and has no comparison"},
    {"condition that compares text and number", "exclude: seed == routing.score", {}, "sweep.yaml:1:18: in the condition \"seed == routing.score\": seed and routing.score cannot be compared"},
    {"condition on an unknown set", "sets: {scale: {x1: {}}}\nexclude: scale == x2", {}, "sweep.yaml:2:19: in the condition \"scale == x2\": scale is one of x1, never 'x2': did you mean 'x1'?"},
    {"condition that is a list", "exclude: [[a]]", {}, "sweep.yaml:1:11: expected a condition but found a list"},
    {"when for no axis", "grid: {seed: [1, 2]}\nwhen: {model.width: seed == 1}", {}, "sweep.yaml:2:8: when.model.width: not an axis of the block's grid"},
    {"when that is a scalar", "grid: {seed: [1]}\nwhen: seed == 1", {}, "sweep.yaml:2:7: when: expected a mapping of axes to conditions but found seed == 1"},
    {"override of an unknown key", "seed: 1", {"model.widht=32"}, "command line: unknown key 'model.widht': did you mean 'model.width'?"},
    {"override without a value", "seed: 1", {"seed"}, "command line: 'seed' is no override\n  write key=value, key=[a,b], +key=value or ~key"},
    {"override without a key", "seed: 1", {"=1"}, "command line: '=1' is no override\n  write key=value, key=[a,b], +key=value or ~key"},
    {"override of the wrong type", "seed: 1", {"seed=one"}, "command line: seed: expected integer >= 0 but found one"},
    {"override out of range", "seed: 1", {"train.steps=0"}, "command line: train.steps: expected integer >= 1 but found 0"},
    {"override by an empty axis", "seed: 1", {"seed=[]"}, "command line: seed=[] is empty: no trial would be left"},
    {"override that is no YAML", "seed: 1", {"seed=[1,"}, "command line: '[1,' is not valid YAML\n  a key must be plain text"},
    {"override of the name", "sweep: a", {"sweep=b"}, "command line: the name of a sweep is its file's: 'sweep' takes no override"},
    {"override by an unknown set", "sets: {scale: {x1: {}}}", {"scale=x2"}, "command line: scale: no set 'x2' in sets.scale: did you mean 'x1'?"},
    {"override by a missing file", "seed: 1", {"routing=routers/missing_router.yaml"}, "command line: no file 'routers/missing_router.yaml'\n  looked in ., CONFIGS"},
    {"removal of what is not there", "seed: 1", {"~model.width"}, "command line: ~model.width: the file does not give it"},
    {"removal of no conditions", "seed: 1", {"~exclude"}, "command line: ~exclude: the file does not give it"},
    {"removal of an unknown key", "seed: 1", {"~sed"}, "command line: unknown key 'sed': did you mean 'seed'?"},
    {"addition of what is there", "seed: 1", {"+seed=2"}, "command line: +seed: already given at sweep.yaml:1:7\n  seed=... replaces it"},
    {"addition of nothing", "routing.balance.also: [{method: aux_loss}]", {"+routing.balance.also=[]"}, "command line: +routing.balance.also=[] adds nothing\n  routing.balance.also=[] empties it"},
    {"addition to a zip", "zip: {seed: [1, 2]}", {"+seed=3"}, "command line: +seed: it is an axis of a zip, which cannot grow alone\n  seed=... replaces it"},
};

}  // namespace

class Invalid : public InFolder {};

TEST_F(Invalid, EachFileGivesItsMessage) {
  write("ok.yaml", "seed: 3\n");
  write("bad_router.yaml", "selekt: top_k\n");
  write("circle_a.yaml", "base: circle_b.yaml\n");
  write("circle_b.yaml", "base: circle_a.yaml\n");
  const std::string folder = std::filesystem::canonical(config_folders().back()).string();
  for (const Case& c : kCases) {
    std::string text = c.text;
    if (text.find("data.domains") == std::string::npos && text.find("data:") == std::string::npos && text.find(": ") != std::string::npos && !text.starts_with("-")) text += "\ndata.domains: [a, b]";
    std::string message = message_of([&] { sweep(text, c.overrides); });
    if (const auto at = message.find(folder); at != std::string::npos) message.replace(at, folder.size(), "CONFIGS");
    EXPECT_EQ(message, c.message) << "case: " << c.name;
  }
  EXPECT_GE(kCases.size(), 40u);
}

}  // namespace moesweep::spec
