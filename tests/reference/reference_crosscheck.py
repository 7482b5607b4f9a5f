#!/usr/bin/env python3
"""Computes the oracles' cases again with PyTorch in double precision: its operators and its autograd in place of our loops.

    reference_crosscheck.py DUMP      DUMP is the program that prints the cases (reference_dump)

Exits with 77 (skipped) where Python has no torch.
"""
import json
import subprocess
import sys

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    print("no torch in this Python: nothing to compare with")
    sys.exit(77)

torch.set_default_dtype(torch.float64)
worst = {}


def compare(what, ours, theirs, tolerance=1e-11):
    """|ours - theirs| relative to the larger of 1 and theirs."""
    ours, theirs = torch.as_tensor(ours, dtype=torch.float64).flatten(), torch.as_tensor(theirs, dtype=torch.float64).detach().flatten()
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)} values, PyTorch has {tuple(theirs.shape)}"
    error = ((ours - theirs).abs() / theirs.abs().clamp(min=1)).max().item()
    worst[what] = max(worst.get(what, 0.0), error)
    assert error <= tolerance, f"{what} differs by {error}"


def scored(x, score):
    return torch.sigmoid(x) if score == "sigmoid" else torch.softmax(x, -1)


def gate(x, chosen, score, scale):
    if score == "softmax_selected":
        return scale * torch.softmax(x.gather(-1, chosen), -1)
    weights = scored(x, score).gather(-1, chosen)
    if score == "sigmoid" and chosen.shape[-1] > 1:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return scale * weights


def check_routing(case):
    E, k, score = case["experts"], case["top_k"], case["score"]
    x = torch.tensor(case["logits"]).view(-1, E).requires_grad_()
    keep = torch.tensor(case["mask"], dtype=torch.bool)
    chosen = x.topk(k).indices  # random logits have no ties
    weights = gate(x, chosen, score, case["scale"])
    for t in range(case["tokens"]):
        assert case["chosen"][t] == (chosen[t].tolist() if keep[t] else []), f"choice of token {t}"
        if keep[t]:
            compare("weights", case["weights"][t], weights[t])
    (gradient,) = torch.autograd.grad((weights * torch.tensor(case["upstream"]))[keep].sum(), x, retain_graph=True)
    compare("gradient of weights", case["weights_gradient"], gradient)

    s = scored(x, score)
    p = s / s.sum(-1, keepdim=True)
    hits = F.one_hot(chosen, E).sum(1).double()
    for scope, units in case["units"].items():
        units, loss = torch.tensor(units), 0.0
        for unit in units.unique():
            mine = (units == unit) & keep
            f = hits[mine].mean(0) / k
            loss = loss + mine.sum() / keep.sum() * case["aux_weight"] * E * (f * p[mine].mean(0)).sum()
        (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
        compare("aux loss", case["aux_loss"][scope]["value"], loss)
        compare("gradient of aux loss", case["aux_loss"][scope]["gradient"], gradient)
    loss = case["z_weight"] * x[keep].logsumexp(-1).square().mean()
    (gradient,) = torch.autograd.grad(loss, x)
    compare("z-loss", case["z_loss"]["value"], loss)
    compare("gradient of z-loss", case["z_loss"]["gradient"], gradient)


def rotary(x, base):
    """Rotate-half by complex multiplication: channel i with i + head_dim/2 is one complex number."""
    length, size = x.shape[-2:]
    angle = torch.arange(length)[:, None] * base ** (-torch.arange(size // 2) * 2.0 / size)
    turned = torch.complex(x[..., : size // 2], x[..., size // 2 :]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], -1)


def swiglu(x, gate_up, down):
    gate_part, up = (x @ gate_up).chunk(2, -1)
    return (F.silu(gate_part) * up) @ down


def check_transformer(case):
    d, f, heads, eps = case["width"], case["expert_width"], case["heads"], case["norm_epsilon"]
    B, S = case["sequences"], case["length"]
    raw = {name: torch.tensor(values) for name, values in case["parameters"].items()}

    def weight(name, *shape):
        return raw[name].view(*shape)

    embedding = weight("embedding", case["vocabulary"], d)
    x = embedding[torch.tensor(case["token_ids"])].view(B, S, d)
    for layer in range(case["layers"]):
        at = f"layers.{layer}."
        h = F.rms_norm(x, (d,), raw[at + "attention_norm"], eps)
        q, k, v = F.linear(h, weight(at + "qkv", 3 * d, d)).view(B, S, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        if d // heads > 1:
            q, k = rotary(q, case["rotary_base"]), rotary(k, case["rotary_base"])
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, S, d)
        x = x + F.linear(mixed, weight(at + "attention_output", d, d))
        h = F.rms_norm(x, (d,), raw[at + "moe_norm"], eps)
        if layer < case["dense_layers"]:
            x = x + swiglu(h, weight(at + "dense.gate_up", d, -1), weight(at + "dense.down", -1, d))
            continue
        logits = F.linear(h, weight(at + "router", case["experts"], d))
        compare("router logits", case["router"][str(layer)], logits)
        chosen = logits.topk(case["top_k"]).indices
        share = torch.zeros_like(logits).scatter(-1, chosen, gate(logits, chosen, case["score"], case["scale"]))
        every = torch.stack([swiglu(h, weight(f"{at}experts.{e}.gate_up", d, 2 * f), weight(f"{at}experts.{e}.down", f, d))
                             for e in range(case["experts"])], -2)
        x = x + (share.unsqueeze(-1) * every).sum(-2)
        if case["shared_experts"]:
            x = x + swiglu(h, weight(at + "shared.gate_up", d, -1), weight(at + "shared.down", -1, d))
    head = embedding if case["tied"] else weight("head", case["vocabulary"], d)
    logits = F.linear(F.rms_norm(x, (d,), raw["final_norm"], eps), head)
    compare("logits", case["logits"], logits)
    compare("loss", case["loss"], F.cross_entropy(logits.flatten(0, 1), torch.tensor(case["targets"])))


def main():
    cases = json.loads(subprocess.run([sys.argv[1]], check=True, capture_output=True, text=True).stdout)
    for case in cases["routing"]:
        check_routing(case)
    for case in cases["transformers"]:
        check_transformer(case)
    print(f"{len(cases['routing'])} routing cases, {len(cases['transformers'])} transformers; worst differences:")
    for what, error in worst.items():
        print(f"  {what:24} {error:.1e}")


if __name__ == "__main__":
    main()
