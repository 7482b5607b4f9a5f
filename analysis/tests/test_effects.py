"""Comparisons over seeds and Pareto fronts, against closed forms, invariants and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesweep.results import OBJECTIVES, compare, effect_table, paired_differences, pareto_front, seed_summary

numbers = st.floats(-100, 100).map(lambda x: round(x, 3))


def grid(a: float, b: float, interaction: float = 0.0, noise: float = 0.0, seeds: int = 4) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    shared = rng.normal(0, 5, seeds)
    return pd.DataFrame(
        [
            {"seed": s, "a": i, "b": name, "x": shared[s] + a * i + b * (name == "on") + interaction * i * (name == "on")}
            | {"y": rng.normal(0, 1 + noise)}
            for s in range(seeds)
            for i in (0, 1, 2)
            for name in ("off", "on")
        ]
    )  # fmt: skip


@given(a=numbers, b=numbers)
@settings(deadline=None, max_examples=25)
def test_additive_effects_come_out_exactly_whatever_the_seeds_share(a: float, b: float) -> None:
    table = effect_table(grid(a, b), ["x"], ["a", "b"]).set_index(["axis", "value"])
    assert table.loc[("a", 1), "mean"] == pytest.approx(a, abs=1e-9)
    assert table.loc[("a", 2), "mean"] == pytest.approx(2 * a, abs=1e-9)
    assert table.loc[("b", "on"), "mean"] == pytest.approx(b, abs=1e-9)
    assert (table["spread"] < 1e-9).all()
    assert list(table["pairs"]) == [4, 4, 4]
    assert list(table["cells"]) == [2, 2, 3]
    assert (table["low"] <= table["mean"] + 1e-9).all()
    assert (table["high"] >= table["mean"] - 1e-9).all()


def test_an_interaction_is_averaged_over_the_cells() -> None:
    table = effect_table(grid(1.0, 0.0, interaction=4.0), ["x"], ["a", "b"]).set_index(["axis", "value"])
    assert table.loc[("a", 1), "mean"] == pytest.approx(1.0 + 4.0 / 2)
    assert table.loc[("b", "on"), "mean"] == pytest.approx(4.0 * (0 + 1 + 2) / 3)


def test_effects_with_missing_values_baselines_and_lone_values() -> None:
    frame = grid(1.0, 2.0)
    frame.loc[frame["b"] == "off", "b"] = None  # a missing value is a value of its own, and sorts last
    frame.loc[(frame["a"] == 2) & (frame["seed"] == 1), "x"] = math.nan
    table = effect_table(frame, ["x"], ["a", "b"], baselines={"a": 2}).set_index(["axis", "value"])
    assert table.loc[("a", 0), "mean"] == pytest.approx(-2.0)
    assert table.loc[("a", 0), "pairs"] == 3
    assert table[table["baseline"] == "on"]["mean"].iloc[0] == pytest.approx(-2.0)
    assert len(effect_table(frame[frame["a"] == 0], ["x"], ["a"])) == 0
    assert len(effect_table(frame.iloc[:0], ["x"], ["a", "b"])) == 0


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=8))
@settings(deadline=None, max_examples=40)
def test_comparison_is_antisymmetric_and_agrees_with_the_paired_table(pairs: list[tuple[float, float]]) -> None:
    rows = [{"seed": s, "m": side, "x": pair[i]} for s, pair in enumerate(pairs) for i, side in enumerate("ab")]
    frame = pd.DataFrame(rows)
    one, other = compare(frame, "x", {"m": "a"}, {"m": "b"}), compare(frame, "x", {"m": "b"}, {"m": "a"})
    differences = [a - b for a, b in pairs]
    assert one.paired
    assert one.pairs == len(pairs)
    assert one.difference == pytest.approx(np.mean(differences), abs=1e-9)
    assert one.difference == pytest.approx(-other.difference, abs=1e-9)
    assert one.low == pytest.approx(-other.high, abs=1e-9)
    assert min(differences) - 1e-9 <= one.low <= one.high <= max(differences) + 1e-9
    table = paired_differences(frame, "x", "m", "b").iloc[0]
    assert (table["mean"], table["low"], table["high"]) == (one.difference, one.low, one.high)


def test_comparison_without_common_seeds_is_resampled_apart() -> None:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"seed": range(80), "m": ["a"] * 40 + ["b"] * 40, "x": rng.normal(0, 1, 80)})
    frame.loc[frame["m"] == "a", "x"] += 3
    found = compare(frame, "x", {"m": "a"}, {"m": "b"})
    assert not found.paired
    a, b = frame[frame["m"] == "a"]["x"], frame[frame["m"] == "b"]["x"]
    error = math.sqrt(a.var() / 40 + b.var() / 40)
    assert found.low == pytest.approx(a.mean() - b.mean() - 1.96 * error, abs=0.1)
    assert found.high == pytest.approx(a.mean() - b.mean() + 1.96 * error, abs=0.1)
    with pytest.raises(ValueError, match="no trial with x has"):
        compare(frame, "x", {"m": "c"}, {"m": "b"})


def test_summary_has_intervals() -> None:
    summary = seed_summary(grid(0, 0), ["x", "y"], ["b"])
    assert len(summary) == 4
    assert (summary["low"] < summary["mean"]).all()
    assert (summary["mean"] < summary["high"]).all()


@given(st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan])] * 3), max_size=14))
@settings(deadline=None)
def test_front_equals_brute_force(points: list[tuple[float, float, float]]) -> None:
    frame = pd.DataFrame(points, columns=["u", "v", "w"], index=[f"t{i}" for i in range(len(points))])
    front = pareto_front(frame, {"u": "min", "v": "max", "w": "min"})
    signed = [(u, -v, w) for u, v, w in points]
    for name, point in zip(frame.index, signed, strict=True):
        beaten = any(
            all(o <= p for o, p in zip(other, point, strict=True)) and other != point
            for other in signed
            if not any(map(math.isnan, other))
        )
        assert front[name] == (not beaten and not any(map(math.isnan, point)))


@given(st.permutations(range(8)))
def test_front_does_not_depend_on_order_or_on_increasing_maps(order: list[int]) -> None:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(rng.normal(size=(8, 4)), columns=list(OBJECTIVES))
    front = pareto_front(frame)
    assert front.any()
    assert front.equals(pareto_front(frame.iloc[order]).sort_index())
    assert front.equals(pareto_front(np.exp(frame)))


def test_front_of_one_objective_is_the_best_and_of_none_is_empty() -> None:
    frame = pd.DataFrame({"greedy.loss": [3.0, 1.0, 1.0, math.nan]})
    assert list(pareto_front(frame)) == [False, True, True, False]
    assert not pareto_front(pd.DataFrame({"other": [1.0]})).any()
    assert [len(list(g)) for _, g in itertools.groupby(pareto_front(frame))] == [1, 2, 1]
