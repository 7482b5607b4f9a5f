"""The answer in a sentence, computed from the data: which balancing scope lets experts specialise, for each method and size.

How a range of purity over scopes is judged, against the spread over seeds (sample standard deviation within scopes, pooled):
  more than twice the spread                      -> it depends on scope
  the same, but under 5 % of the way from the random to the reference router -> it depends on scope only slightly
  at most twice the spread                        -> it hardly depends on scope
  one seed a scope                                -> the range is told, nothing is claimed
A trial whose validation loss is that of uniform guessing is named as such, and so is every mean that it is part of.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from moesweep.results.effects import axis_effects, bootstrap_mean, pooled_spread, spread
from moesweep.results.settings import SEED, scope_rank
from moesweep.results.sweep import NO_BETTER

PURITY = "purity_expert"
GREEDY_LOSS = "greedy.loss"
TIMES_SPREAD = 2.0
SLIGHT_SHARE = 0.05

#: The warning `no_better_than_uniform` in words.
GUESSING = "no better than uniform guessing"

PHRASES = {
    "depends": "it depends on scope",
    "slightly": "it depends only slightly on scope",
    "hardly": "it hardly depends on scope",
    "unknown": "one seed a scope says nothing",
}
SCOPE_WORDS = {
    "sequence": "each sequence",
    "micro_batch": "each micro-batch",
    "global_batch": "the global batch",
    "group": "the group of micro-batches at hand",
    "running": "the step so far",
    "history": "past steps",
}


def guessing(table: pd.DataFrame) -> pd.Series[bool]:
    """Which trials are no better than uniform guessing, by the table's index; none where it has no column `warnings`."""
    if "warnings" not in table.columns:
        return pd.Series(False, index=table.index, dtype=bool)
    return table["warnings"].map(lambda text: NO_BETTER in str(text).split(",")).astype(bool)


def remark(guessed: int, count: int) -> str:
    """How many of `count` trials are no better than uniform guessing, in brackets; empty for none."""
    if guessed == 0:
        return ""
    return f" ({GUESSING})" if guessed == count else f" ({guessed} of {count} {GUESSING})"


@dataclass
class ScopeCell:
    """The seeds of one method at one scope; `guessed` of them are no better than uniform guessing."""

    scope: str
    mean: float
    spread: float
    values: list[float]
    guessed: int = 0

    @property
    def remark(self) -> str:
        return remark(self.guessed, len(self.values))


@dataclass
class ScopeEffect:
    """How purity moves over the scopes of one method, all else equal."""

    method: str
    parameters: float
    scale: float
    extra: dict[str, str]
    cells: list[ScopeCell]
    verdict: str = ""
    range: float = math.nan
    spread: float = math.nan
    loss: float = math.nan

    @property
    def lowest(self) -> ScopeCell:
        return min(self.cells, key=lambda cell: cell.mean)

    @property
    def highest(self) -> ScopeCell:
        return max(self.cells, key=lambda cell: cell.mean)

    @property
    def remark(self) -> str:
        return remark(sum(cell.guessed for cell in self.cells), sum(len(cell.values) for cell in self.cells))


def judge(range_: float, spread_: float, room: float) -> str:
    """`depends`, `slightly`, `hardly` or `unknown`; `room` is the purity from the random to the reference router."""
    if math.isnan(spread_):
        return "unknown"
    if range_ <= TIMES_SPREAD * spread_ or range_ == 0:
        return "hardly"
    return "slightly" if range_ < SLIGHT_SHARE * room else "depends"


def scope_effects(table: pd.DataFrame, metric: str = PURITY) -> list[ScopeEffect]:
    """One effect for each method, size and combination of further axes that has at least two scopes; smallest size first.

    `table` joins `describe_trials` with the metrics, finished trials only.
    """
    if metric not in table.columns:
        return []
    known = table.dropna(subset=[metric])
    effects: list[ScopeEffect] = []
    scoped = known[known["scope"].notna()]
    keys = [
        (str(method), -1.0 if math.isnan(parameters) else float(parameters), tuple(sorted(extra.items())))
        for method, parameters, extra in zip(scoped["method"], scoped["parameters"], scoped["extra"], strict=True)
    ]
    for key in sorted(set(keys)):
        cell = scoped[[k == key for k in keys]]
        scopes = sorted({str(scope) for scope in cell["scope"]}, key=scope_rank)
        if len(scopes) < 2:
            continue
        by_scope = {scope: cell[cell["scope"] == scope] for scope in scopes}
        cells = [
            ScopeCell(
                s,
                float(g[metric].mean()),
                spread(g[metric].to_numpy()),
                [float(v) for v in g[metric]],
                int(guessing(g).sum()),
            )
            for s, g in by_scope.items()
        ]
        effect = ScopeEffect(
            key[0], float(cell["parameters"].iloc[0]), float(cell["scale"].iloc[0]), dict(key[2]), cells
        )
        effect.range = effect.highest.mean - effect.lowest.mean
        effect.spread = pooled_spread([c.values for c in cells])
        effect.verdict = judge(effect.range, effect.spread, _room(known, effect.parameters, metric))
        effect.loss = float(cell[GREEDY_LOSS].mean()) if GREEDY_LOSS in cell.columns else math.nan
        effects.append(effect)
    return effects


def _room(table: pd.DataFrame, parameters: float, metric: str) -> float:
    """Purity of the reference router above the random one at that size; 1 where either is missing."""
    same = table if math.isnan(parameters) else table[table["parameters"] == parameters]
    reference, random = same[same["method"] == "reference"][metric], same[same["method"] == "random"][metric]
    if len(reference) == 0 or len(random) == 0:
        return 1.0
    return max(0.0, float(reference.mean() - random.mean()))


def number(value: float) -> str:
    """Three decimals, more for a small number; the page keeps full precision beside it."""
    if math.isnan(value):
        return "unknown"
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.0005 else f"{value:.1g}"


def _joined(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _main(effects: list[ScopeEffect]) -> ScopeEffect:
    """The setting to quote: the one of lowest greedy loss, the first where none is known."""
    return min(effects, key=lambda e: (math.isnan(e.loss), e.loss if not math.isnan(e.loss) else 0.0))


def words(name: str) -> str:
    """A config value as people say it."""
    return name.replace("micro_batch", "micro-batch").replace("_", " ")


def _verdicts(effects: dict[str, ScopeEffect]) -> str:
    """The verdict on every method in one sentence."""
    by: dict[str, list[str]] = {"depends": [], "slightly": [], "hardly": [], "unknown": []}
    for method, effect in effects.items():
        by[effect.verdict].append(words(method) + effect.remark)
    forms = {
        "depends": "depends on the balancing scope with {}",
        "slightly": "depends only slightly on the balancing scope with {}",
        "hardly": "hardly depends on the balancing scope with {}",
    }
    short = {"slightly": "only slightly with {}", "hardly": "hardly with {}"}
    parts: list[str] = []
    for verdict, form in forms.items():
        if by[verdict]:
            parts.append((short[verdict] if parts else form).format(_joined(by[verdict])))
    if parts:
        return f"How far experts specialise {', '.join(parts)}."
    moved = ", ".join(
        f"{number(effect.range)} with {words(method)}{effect.remark}" for method, effect in effects.items()
    )
    return f"Expert purity moves over the balancing scopes by {moved}; with one seed a scope there is no spread to judge it by."


def _clause(method: str, effects: list[ScopeEffect]) -> str:
    """What one method does at the smallest size, over its settings."""
    shown = _main(effects)
    low, high = shown.lowest, shown.highest
    extras = [f"{axis} {value}" for axis, value in shown.extra.items()]
    same = sum(effect.verdict == shown.verdict for effect in effects)
    notes = [f"range {number(shown.range)}"]
    notes.append("one seed a scope" if math.isnan(shown.spread) else f"spread over seeds {number(shown.spread)}")
    if extras:
        notes.append(f"at {', '.join(extras)}")
    if len(effects) > 1:
        notes.append(f"alike in {same} of {len(effects)} settings")
    note = "; ".join(notes)
    name = words(method)
    name = name[0].upper() + name[1:]
    if shown.verdict == "hardly":
        return f"{name}{shown.remark}: expert purity stays between {number(low.mean)} and {number(high.mean)} at every scope ({note})."
    return (
        f"{name}: expert purity is {number(high.mean)} balanced over {SCOPE_WORDS.get(high.scope, words(high.scope))}{high.remark}"
        f" and {number(low.mean)} over {SCOPE_WORDS.get(low.scope, words(low.scope))}{low.remark} ({note})."
    )


def _best(effects: list[ScopeEffect]) -> str:
    """The purest scope of each of the three purest methods, with 95 % bootstrap intervals over seeds."""
    ranked = sorted(((effect, effect.highest) for effect in effects), key=lambda pair: -pair[1].mean)[:3]
    parts = []
    for effect, cell in ranked:
        text = f"{words(effect.method)} over {SCOPE_WORDS.get(cell.scope, words(cell.scope))} with {number(cell.mean)}{cell.remark}"
        low, high = bootstrap_mean(np.asarray(cell.values), resamples=4000)
        parts.append(text if math.isnan(low) else f"{text} ({number(low)} to {number(high)})")
    seeds = sorted({len(cell.values) for _, cell in ranked})
    several = seeds[-1] > 1
    over = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    note = f"; in brackets 95 % intervals over {over} seeds" if several else ""
    return f"Purest experts: {', then '.join(parts)}{note}."


def _scale_clause(effects: list[ScopeEffect]) -> str:
    """Whether each method's verdict holds at the largest size."""
    sizes = sorted({e.scale for e in effects if not math.isnan(e.scale)})
    if len(sizes) < 2:
        return ""
    small, large = sizes[0], sizes[-1]
    parts: list[str] = []
    same: list[str] = []
    for method in dict.fromkeys(e.method for e in effects):
        first = [e for e in effects if e.method == method and e.scale == small]
        last = [e for e in effects if e.method == method and e.scale == large]
        if not first or not last:
            continue
        a, b = _main(first), _main(last)
        holds = a.verdict == b.verdict and (a.verdict == "hardly" or a.highest.scope == b.highest.scope)
        ranges = f"range {number(b.range)}, {number(a.range)} at the smallest size"
        if holds:
            same.append(words(method) + b.remark)
        word = "it is the same" if holds else PHRASES[b.verdict]
        if not holds and b.verdict in ("depends", "slightly"):
            word += f", purest over {SCOPE_WORDS.get(b.highest.scope, words(b.highest.scope))}"
        parts.append(f"with {words(method)} {word} ({ranges}){b.remark}")
    if len(same) > 2:
        others = [part for part in parts if not " it is the same (" in part]
        parts = [f"with {_joined(same)} it is the same", *others]
    return f"At {large:.3g} times the parameters, {_joined(parts)}." if parts else ""


def headline(table: pd.DataFrame, states: pd.Series[Any], axes: list[str], effects: list[ScopeEffect]) -> list[str]:
    """The answer as sentences, the first the most important. `table` holds finished trials, `states` those of all."""
    if len(states) == 0:
        return ["The sweep has no trials."]
    if len(table) == 0:
        counts = states.value_counts()
        return [f"No trial has finished yet: {_joined([f'{n} {state}' for state, n in counts.items()])}."]
    if effects:
        smallest = min((e.scale for e in effects if not math.isnan(e.scale)), default=math.nan)
        first = [e for e in effects if math.isnan(smallest) or e.scale == smallest]
        by_method: dict[str, list[ScopeEffect]] = {}
        for effect in first:
            by_method.setdefault(effect.method, []).append(effect)
        order = {"depends": 0, "slightly": 1, "unknown": 2, "hardly": 3}
        methods = sorted(by_method, key=lambda m: (order[_main(by_method[m]).verdict], -_main(by_method[m]).range))
        sentences = [_verdicts({method: _main(by_method[method]) for method in methods}), _guessed(table)]
        sentences += [_best([_main(by_method[method]) for method in methods]), _scale_clause(effects), *_bounds(table)]
        sentences += [_clause(method, by_method[method]) for method in methods]
        return [sentence for sentence in sentences if sentence]
    first_sentence, *others = _without_scope(table, axes)
    return [sentence for sentence in (first_sentence, _guessed(table), *others, *_bounds(table)) if sentence]


def _guessed(table: pd.DataFrame) -> str:
    """How many finished trials are no better than uniform guessing, and which."""
    mine = table[guessing(table)]
    if len(mine) == 0:
        return ""
    labels = list(dict.fromkeys(words(str(label)) for label in mine["label"]))
    which = _joined(labels if len(labels) <= 4 else [*labels[:3], f"{len(labels) - 3} other settings"])
    verb, owner = ("is", "its") if len(mine) == 1 else ("are", "their")
    return (
        f"{len(mine)} of {len(table)} finished trials {verb} {GUESSING} ({which}):"
        f" {owner} validation loss is at least ln V - 0.01, V the vocabulary, so {owner} other numbers say nothing of a trained model."
    )


def _bounds(table: pd.DataFrame) -> list[str]:
    """Where the random and the reference router stand."""
    if PURITY not in table.columns:
        return []
    parts = []
    for method, words in (("random", "the random router"), ("reference", "the reference router")):
        values = table[table["method"] == method][PURITY].dropna()
        if len(values):
            mine = table.loc[values.index]
            parts.append(f"{words} is at {number(float(values.mean()))}{remark(int(guessing(mine).sum()), len(mine))}")
    if not parts:
        return []
    text = _joined(parts)
    return [text[0].upper() + text[1:] + "."]


def _without_scope(table: pd.DataFrame, axes: list[str]) -> list[str]:
    """The strongest axis on purity; for a single setting its numbers."""
    if PURITY not in table.columns or table[PURITY].notna().sum() == 0:
        return [
            f"{len(table)} {'trial has' if len(table) == 1 else 'trials have'} finished; none recorded expert purity."
        ]
    usable = [axis for axis in axes if axis != SEED and axis in table.columns]
    found = axis_effects(
        table,
        PURITY,
        ["method", *[a for a in usable if not a.startswith("routing.balance.") and a != "routing.select"], SEED],
    )
    if len(found) == 0:
        values = table[PURITY].dropna()
        text = f"Expert purity is {number(float(values.mean()))}"
        if len(values) > 1:
            text += f" (spread {number(spread(values.to_numpy()))} over {len(values)} trials)"
        return [text + "; the sweep has nothing to compare it with."]
    best = found.iloc[0]
    name = "the routing method" if best["axis"] == "method" else str(best["axis"])
    known = "" if math.isnan(best["spread"]) else f" against a spread over seeds of {number(float(best['spread']))}"
    strength = judge(float(best["range"]), float(best["spread"]), 1.0)
    if strength == "hardly":
        moved = f"{name}, by {number(float(best['range']))}{known}"
        return [f"No axis moves expert purity beyond the spread over seeds: the strongest, {moved}."]
    subject = "The routing method" if best["axis"] == "method" else name
    moved = f"by {number(float(best['range']))}, from {best['lowest']} to {best['highest']}{known}"
    return [f"{subject} moves expert purity most: {moved}."]
