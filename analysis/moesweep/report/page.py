"""Builds report.html: gathers what the page shows from a sweep into one JSON block and puts it beside its style and script."""

from __future__ import annotations

import html
import json
import math
import re
import shlex
from collections import Counter
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from moesweep.publish import check_target, published
from moesweep.report.contrasts import contrasts, front
from moesweep.report.headline import GUESSING, ScopeEffect, guessing, headline, scope_effects, words
from moesweep.report.series import by_turns, curves, expert_losses, finite, heat
from moesweep.results.settings import describe_trials, scope_rank, value_text
from moesweep.results.sweep import THROUGHPUT, Sweep
from moesweep.text import printable

#: Parts of the script, in the order of the page; they share one scope.
SCRIPTS = ("base", "overview", "ranking", "curves", "experts", "record")
#: A number that stands alone, not a part of a name or a hash.
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?!\w)", re.ASCII)
#: What JSON need not escape, and a terminal or a reader of the text should not meet: DEL, C1, signs of writing direction, line ends.
CONTROL = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
#: What a reader looks for first among the trials' provenance.
PROVENANCE_FIRST = ["command_line", "version", "git", "host", "ranks", "start", "end", "data_digest"]


#: Sentences that the page opens with; of more than MOST_SENTENCES it shows FEWEST_SENTENCES and folds the others.
MOST_SENTENCES, FEWEST_SENTENCES = 5, 3


def build_page(sweep: Sweep) -> str:
    """The whole report as one HTML text, without a reference to anything outside it."""
    data = gather(sweep)
    assets = resources.files("moesweep.report") / "assets"
    text = (assets / "report.html").read_text(encoding="utf-8")
    block = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False).replace("<", "\\u003c")
    block = CONTROL.sub(lambda match: f"\\u{ord(match.group()):04x}", block)
    first, *rest = data["headline"]
    parts = {
        "title": _shown(f"{sweep.name or sweep.path.stem} · moesweep"),
        "name": _shown(sweep.name or sweep.path.stem),
        "summary": _shown(data["summary"]),
        "headline": _shown(first),
        "support": _support(rest),
        "style": (assets / "report.css").read_text(encoding="utf-8"),
        "script": '"use strict";\n(() => {\n'
        + "".join((assets / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
        + "})();",
        "data": block,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], text)


def _shown(text: str) -> str:
    """A text of the file as HTML."""
    return html.escape(printable(text))


def _support(sentences: list[str]) -> str:
    """What stands under the answer; what would push the first figure off the screen is folded away."""
    texts = [f"<p>{_shown(sentence)}</p>" for sentence in sentences]
    if len(texts) <= MOST_SENTENCES:
        return "".join(texts)
    folded = "".join(texts[FEWEST_SENTENCES:])
    return (
        "".join(texts[:FEWEST_SENTENCES])
        + f'<details class="more"><summary>Each method in numbers</summary>{folded}</details>'
    )


PAGE = "a report of moesweep-report"
#: How pages of this command are known: this version's say it in their head, those of earlier ones by their first line.
GENERATOR = b'<meta name="generator" content="moesweep-report">'
EYEBROW = '<p class="eyebrow">moesweep · <span id="sweep-name">'.encode()
MOST_HEAD_BYTES = 1 << 20


def is_page(file: BinaryIO) -> bool:
    """Whether a file is a report of this command."""
    head = file.read(MOST_HEAD_BYTES)
    return head.startswith(b"<!doctype html>") and (GENERATOR in head[:4096] or EYEBROW in head)


def write_page(sweep: Sweep, path: Path) -> int:
    """Writes the report and returns its size in bytes. OSError when `path` is anything but free or an earlier report."""
    check_target(path, is_page, PAGE)
    text = build_page(sweep).encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    with published(path, is_page, PAGE) as out:
        out.write(text)
    return len(text)


def gather(sweep: Sweep) -> dict[str, Any]:
    """Everything the page shows, as plain JSON values."""
    trials = sweep.trials
    described = describe_trials(sweep)
    measured = [m for m in [*sweep.metrics, THROUGHPUT] if m in trials.columns]
    metrics = trials[list(dict.fromkeys(measured))]
    axes = trials[[axis for axis in sweep.axes if axis != "seed"]]
    table = described.join(trials[["state", "warnings"]])
    # What the study calls its own columns is not replaced by an axis or a metric of that name.
    table = table.join(trials[[name for name in [*axes.columns, *metrics.columns] if name not in table.columns]])
    done = table[table["state"] == "done"]
    effects = scope_effects(done)
    ranking = _ranking(table)
    domain_sets, domain_of = _domains(sweep)
    settings = [int(setting) for setting in described["setting"]]
    start = _start(described, done)
    order = _order(described, ranking, settings, start)
    shown = curves(sweep, order)
    maps, left_out = heat(sweep, by_turns(order, settings), order)
    methods = _ordered_methods(described)
    counts = trials["state"].value_counts()
    return {
        "name": sweep.name,
        "headline": headline(done, trials["state"], sweep.axes, effects),
        "summary": _summary(sweep, counts, done, domain_sets),
        "methods": methods,
        "scopes": sorted({str(s) for s in described["scope"] if s is not None}, key=scope_rank),
        "trials": {
            "id": sweep.ids,
            "state": list(trials["state"]),
            "reason": list(trials["reason"]),
            "warnings": list(trials["warnings"]),
            "method": list(described["method"]),
            "scope": list(described["scope"]),
            "seed": [None if seed is None else value_text(seed) for seed in described["seed"]],
            "parameters": [finite(p) for p in described["parameters"]],
            "scale": [finite(s) for s in described["scale"]],
            "extra": list(described["extra"]),
            "label": list(described["label"]),
            "setting": settings,
            "domains": domain_of,
            "command": [reproduce(trial, state) for trial, state in zip(sweep.ids, trials["state"], strict=True)],
        },
        "axes": {axis: [value_text(value) for value in trials[axis]] for axis in sweep.axes},
        "metrics": {metric: [finite(value) for value in trials[metric]] for metric in metrics.columns},
        "ranking": ranking,
        "start": start,
        "effects": [_effect(effect) for effect in effects],
        "domains": domain_sets,
        "contrasts": contrasts(done),
        "front": front(done),
        "curves": shown.rows,
        "grids": shown.grids,
        "bin_steps": shown.widest_bin,
        "series_left_out": shown.left_out,
        "heat": maps,
        "heat_left_out": left_out,
        "expert_loss": expert_losses(sweep, order),
        "failures": _failures(trials),
        "provenance": _provenance(sweep),
    }


def reproduce(trial: str, state: str) -> str | None:
    """The command that runs the trial again, from the sweep's folder; None for one that never started."""
    path = f"trials/{trial[:2]}/{trial}/config.yaml"
    return None if state in ("pending", "skipped") else f"moesweep train {shlex.quote(path)}"


def _summary(sweep: Sweep, counts: pd.Series[Any], done: pd.DataFrame, domain_sets: list[list[str]]) -> str:
    parts = [f"{len(sweep)} {'trial' if len(sweep) == 1 else 'trials'}"]
    if len(counts):
        parts[0] += ": " + ", ".join(f"{count} {words(state)}" for state, count in counts.items())
    if guessed := int(guessing(done).sum()):
        parts.append(f"{guessed} {GUESSING}")
    seeds = {value_text(seed) for seed in done["seed"] if seed is not None}
    if len(seeds) > 1:
        parts.append(f"{len(seeds)} seeds")
    sizes = sorted({p for p in done["parameters"] if not math.isnan(p)})
    if sizes:
        parts.append(
            " and ".join(f"{_engineering(p)} parameters" for p in (sizes if len(sizes) < 3 else [sizes[0], sizes[-1]]))
        )
    if len(domain_sets) == 1 and domain_sets[0]:
        parts.append(f"{len(domain_sets[0])} domains ({', '.join(domain_sets[0])})")
    return " · ".join(parts)


def _engineering(count: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.3g}"


def _ranking(table: pd.DataFrame) -> list[int]:
    """Rows from the lowest greedy loss (the training reading's where there is none) up; trials without a loss come last."""
    loss = pd.Series(math.nan, index=table.index)
    for metric in ("loss", "greedy.loss"):
        if metric in table.columns:
            loss = table[metric].where(table[metric].notna(), loss)
    order = pd.DataFrame({"done": table["state"] != "done", "loss": loss, "id": table["id"]})
    return [int(row) for row in order.sort_values(["done", "loss", "id"], na_position="last").index]


def _start(described: pd.DataFrame, done: pd.DataFrame) -> dict[str, str]:
    """The value of each further axis that the page opens with: the one of most finished trials that have a scope."""
    start: dict[str, str] = {}
    for axis in described["extra"].iloc[0] if len(described) else []:
        scoped = done[done["scope"].notna()] if done["scope"].notna().any() else done
        values = [extra[axis] for extra in (scoped if len(scoped) else described)["extra"]]
        start[axis] = Counter(values).most_common(1)[0][0]
    return start


def _order(described: pd.DataFrame, ranking: list[int], settings: list[int], start: dict[str, str]) -> list[int]:
    """Whose arrays the page holds first: what it opens with, at the smallest size, one trial a setting, the same seed of each; then by rank."""
    smallest = described["scale"].isna() | (described["scale"] == described["scale"].min())
    opens = [bool(small) and extra == start for small, extra in zip(smallest, described["extra"], strict=True)]
    seeds = [str(seed) for seed in described["seed"]]
    turns = by_turns(sorted(ranking, key=lambda row: (len(seeds[row]), seeds[row])), settings)
    return sorted(turns, key=lambda row: not opens[row])


def _ordered_methods(described: pd.DataFrame) -> list[str]:
    """Balancing methods first, then what has no scope; reference and random last."""
    scoped = set(described[described["scope"].notna()]["method"])
    last = {"none": 1, "reference": 2, "random": 3}
    return sorted(set(described["method"]), key=lambda m: (m not in scoped, last.get(m, 0), m))


def _domains(sweep: Sweep) -> tuple[list[list[str]], list[int]]:
    sets: list[list[str]] = []
    of: list[int] = []
    for trial in sweep.ids:
        names = sweep.domains(trial)
        if names not in sets:
            sets.append(names)
        of.append(sets.index(names))
    return sets, of


def _effect(effect: ScopeEffect) -> dict[str, Any]:
    return {"method": effect.method, "verdict": effect.verdict, "range": finite(effect.range)}


def _failures(trials: pd.DataFrame) -> list[dict[str, Any]]:
    """Trials that are not done, by state and reason, the largest group first; reasons that differ in numbers alone are one."""
    groups: dict[tuple[str, str], list[int]] = {}
    reasons = list(trials["reason"])
    for row, (state, reason) in enumerate(zip(trials["state"], trials["reason"], strict=True)):
        if state != "done":
            groups.setdefault((state, NUMBER.sub("\0", reason)), []).append(row)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {"state": state, "reason": _shared([reasons[r] for r in rows]), "rows": rows} for (state, _), rows in ordered
    ]


def _shared(reasons: list[str]) -> str:
    """One text for reasons that differ in their numbers alone: a number that varies is its range."""
    columns = list(zip(*(NUMBER.findall(reason) for reason in reasons), strict=True))
    ranges = iter(
        column[0] if len(set(column)) == 1 else f"{min(column, key=float)}–{max(column, key=float)}"
        for column in columns
    )
    return NUMBER.sub(lambda _: next(ranges), reasons[0])


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Nested JSON as dotted keys and texts."""
    if isinstance(value, dict):
        flat: dict[str, str] = {}
        for key, inner in value.items():
            flat |= _flat(inner, f"{path}.{key}" if path else str(key))
        return flat
    if isinstance(value, list):
        return {path: " ".join(v if isinstance(v, str) else json.dumps(v) for v in value)}
    return {path: value if isinstance(value, str) else json.dumps(value)}


def _provenance(sweep: Sweep) -> dict[str, Any]:
    """The aggregate's own provenance, and what the trials' say: keys alike in all, and keys that vary."""
    collected: dict[str, set[str]] = {}
    with_any = 0
    for trial in sweep.ids:
        flat = _flat(sweep.provenance(trial))
        with_any += bool(flat)
        for key, text in flat.items():
            collected.setdefault(key, set()).add(text)
    rows = []
    for key in sorted(collected, key=lambda k: (PROVENANCE_FIRST.index(k) if k in PROVENANCE_FIRST else 99, k)):
        values = sorted(collected[key])
        few = len(values) <= (2 if key in ("start", "end") else 4)
        rows.append({"key": key, "values": values if few else [values[0], values[-1]], "distinct": len(values)})
    return {
        "file": [
            ["file", sweep.path.name],
            ["format", f"moesweep-sweep, version {sweep.version}"],
            ["digest", sweep.digest],
        ]
        + [[key, text] for key, text in sorted(_flat(sweep.header).items())]
        + [["report written", datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")]],
        "trials": rows,
        "trials_with_provenance": with_any,
    }
