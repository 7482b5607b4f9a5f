"""The report in a real headless browser, offline: what it shows equals sweep.h5, it sorts and filters, and asks for nothing.

Screenshots in light, dark and narrow go to the folder named by MOESWEEP_SCREENSHOTS, when it is set, to be looked at.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from results_writer import Trial, example, fail, metrics_of_counts, study, write_sweep
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from moesweep import Sweep, open_sweep
from moesweep.report.headline import headline, judge, scope_effects
from moesweep.report.page import gather, write_page
from moesweep.results import OBJECTIVES, describe_trials, pareto_front

KINDS = ["empty", "one", "quickstart", "failed", "scale", "large"]


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """sweep.h5 and report.html of every kind of example, by kind."""
    folders: dict[str, Path] = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        write_sweep(folder / "sweep.h5", example(kind), name=kind)
        with open_sweep(folder / "sweep.h5") as sweep:
            write_page(sweep, folder / "report.html")
        folders[kind] = folder
    return folders


class Browser:
    """A headless browser without a network, with everything it logged."""

    def __init__(self) -> None:
        options = Options()
        binary = shutil.which("chromium") or shutil.which("google-chrome")
        driver = shutil.which("chromedriver")
        if binary is None or driver is None:
            pytest.fail("the report's test needs chromium and chromedriver: apt-get install chromium chromium-driver")
        options.binary_location = binary
        for argument in ("no-sandbox", "headless=new", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars"):
            options.add_argument(f"--{argument}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))
        self.cdp("Network.enable")
        self.cdp("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)

    def cdp(self, command: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, arguments)

    def open(self, path: Path, width: int = 1280, dark: bool = False) -> None:
        self.cdp(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.logs()
        self.driver.get(path.as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def click(self, selector: str) -> None:
        node = self.find(selector)
        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", node)
        node.click()

    def logs(self) -> tuple[list[str], list[str]]:
        """Console messages and URLs asked for, since the last call."""
        console = [entry["message"] for entry in self.driver.get_log("browser")]
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return console, asked

    def values(self, selector: str) -> list[tuple[str, str, float]]:
        """(trial, metric, value) of every element that carries all three."""
        script = "return [...document.querySelectorAll(arguments[0])].map(n => [n.dataset.trial, n.dataset.metric, n.dataset.value])"
        return [(trial, metric, float(value)) for trial, metric, value in self.run(script, selector)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    opened = Browser()
    yield opened
    opened.driver.quit()


def frame(folder: Path) -> pd.DataFrame:
    with open_sweep(folder / "sweep.h5") as sweep:
        return sweep.trials.set_index("id")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_opens_offline_without_errors_or_requests(
    browser: Browser, reports: dict[str, Path], kind: str, width: int, dark: bool
) -> None:
    page = reports[kind] / "report.html"
    browser.open(page, width, dark)
    for name in ("greedy", "training"):
        if browser.run("return !document.getElementById('readings').hidden"):
            browser.click(f"[data-reading={name}]")
    console, asked = browser.logs()
    assert console == []
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert browser.run("return document.documentElement.scrollWidth") <= width
    # Light text on a dark page and the other way round, as the reader's own setting asks.
    background = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(int(n) for n in re.findall(r"\d+", background)[:3]) < 200) == dark
    folder = os.environ.get("MOESWEEP_SCREENSHOTS")
    if folder:
        height = browser.run("return document.documentElement.scrollHeight")
        browser.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.driver.save_screenshot(f"{folder}/{kind}-{'dark' if dark else 'light'}-{width}.png")


def test_page_stays_small_at_500_trials(reports: dict[str, Path]) -> None:
    assert len(frame(reports["large"])) == 500
    assert (reports["large"] / "report.html").stat().st_size < 5_000_000


def test_page_names_nothing_outside_itself(reports: dict[str, Path]) -> None:
    text = (reports["quickstart"] / "report.html").read_text()
    assert re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*\"", text) == []
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("kind", ["quickstart", "failed", "scale", "large"])
@pytest.mark.parametrize("reading", ["training", "greedy"])
def test_table_shows_what_the_file_holds(browser: Browser, reports: dict[str, Path], kind: str, reading: str) -> None:
    trials = frame(reports[kind])
    browser.open(reports[kind] / "report.html")
    browser.click(f"[data-reading={reading}]")
    prefix = "greedy." if reading == "greedy" else ""
    shown = browser.values("#trials td[data-value]")
    for trial, metric, value in shown:
        assert value == trials.loc[trial, metric], (trial, metric)
    by_metric = {metric: sum(m == metric for _, m, _ in shown) for _, metric, _ in shown}
    for metric in ("greedy.loss", "loss", f"{prefix}purity_expert", f"{prefix}utilisation"):
        assert by_metric[metric] == trials[metric].notna().sum()
    empty = browser.run(
        "return [...document.querySelectorAll('#trials td[data-metric]:not([data-value])')].map(n => [n.dataset.trial, n.dataset.metric, n.textContent])"
    )
    for trial, metric, text in empty:
        assert math.isnan(trials.loc[trial, metric])
        assert text == "–"
    # What a reader sees is the rounded value.
    texts = browser.run(
        "return [...document.querySelectorAll('#trials td[data-metric=\"greedy.loss\"][data-value]')].map(n => [n.textContent, n.dataset.value])"
    )
    assert all(text == f"{float(value):.4f}" for text, value in texts)


@pytest.mark.parametrize("kind", ["quickstart", "scale", "one"])
def test_figures_show_what_the_file_holds(browser: Browser, reports: dict[str, Path], kind: str) -> None:
    trials = frame(reports[kind])
    browser.open(reports[kind] / "report.html")
    points = browser.values("#scope svg [data-trial]")
    assert {metric for _, metric, _ in points} == {"purity_expert", "utilisation"}
    for trial, metric, value in points:
        assert value == trials.loc[trial, metric]
    scoped = trials["routing.balance.method"] != "none"
    assert len(points) == 2 * (scoped.sum() if kind != "one" else 1)
    if kind == "one":
        return
    means = browser.run(
        "return [...document.querySelectorAll('#scope [data-figure] svg [data-method]')].map(n => [n.dataset.method, n.dataset.scope || null, n.dataset.metric, n.closest('[data-figure]').dataset.parameters, Number(n.dataset.value)])"
    )
    assert len(means) == 2 * 9 * trials["parameters_total"].nunique()
    for method, scope, metric, parameters, value in means:
        mine = trials[trials["parameters_total"] == float(parameters)]
        if scope is None:
            mine = mine[mine["routing.select"] == (method if method != "none" else "top_k")]
            mine = mine[mine["routing.balance.method"] == "none"]
        else:
            mine = mine[(mine["routing.balance.method"] == method) & (mine["routing.balance.scope"] == scope)]
        assert len(mine) == 3
        assert value == pytest.approx(mine[metric].mean(), rel=1e-14)


def test_heat_maps_show_the_last_counts(browser: Browser, reports: dict[str, Path]) -> None:
    browser.open(reports["quickstart"] / "report.html")
    for reading in ("training", "greedy"):
        browser.click(f"[data-reading={reading}]")
        cells = browser.run(
            "return [...document.querySelectorAll('#heat rect[data-value]')].map(n => [n.dataset.trial, Number(n.dataset.layer), Number(n.dataset.domain), Number(n.dataset.expert), Number(n.dataset.value)])"
        )
        assert len(cells) == 3 * 2 * 8 * 32
        with open_sweep(reports["quickstart"] / "sweep.h5") as sweep:
            for trial in {cell[0] for cell in cells}:
                shown = np.zeros((2, 8, 32), dtype=np.int64)
                for _, layer, domain, expert, value in (cell for cell in cells if cell[0] == trial):
                    shown[layer, domain, expert] = value
                counts = sweep.counts(trial, reading)
                assert counts is not None
                assert np.array_equal(shown, counts[-1])
                prefix = "greedy." if reading == "greedy" else ""
                purity = metrics_of_counts(counts)["purity_expert"][-1].mean()
                number = browser.find(f'#heat b[data-trial="{trial}"][data-metric="{prefix}purity_expert"]')
                assert float(number.get_attribute("data-value")) == pytest.approx(purity, rel=1e-12)
    # Another trial in the first place.
    select = browser.find("#heat select[data-slot='0']")
    other = browser.run(
        "const o = [...arguments[0].options].find(o => o.text.startsWith('reference')); return [o.value, o.text]",
        select,
    )
    browser.run("arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change'))", select, other[0])
    assert float(browser.find("#heat b[data-metric='greedy.purity_expert']").get_attribute("data-value")) > 0.99


def order(browser: Browser) -> list[str]:
    return list(browser.run("return [...document.querySelectorAll('#trials tr.trial')].map(n => n.dataset.trial)"))


def test_ranks_by_greedy_loss_and_sorts(browser: Browser, reports: dict[str, Path]) -> None:
    trials = frame(reports["failed"])
    browser.open(reports["failed"] / "report.html")
    done = trials[trials["state"] == "done"]
    ranked = list(done.sort_values("greedy.loss").index)
    assert order(browser)[: len(done)] == ranked
    assert len(order(browser)) == len(trials)
    ranks = browser.run(
        "return [...document.querySelectorAll('#trials tr.trial td:first-child')].map(n => n.textContent)"
    )
    assert ranks == [str(i + 1) for i in range(len(done))] + [""] * (len(trials) - len(done))
    browser.click("[data-sort=purity_expert]")
    shown = [done.loc[trial, "purity_expert"] for trial in order(browser)[: len(done)]]
    assert shown == sorted(shown, reverse=True)
    browser.click("[data-sort=purity_expert]")
    shown = [done.loc[trial, "purity_expert"] for trial in order(browser)[: len(done)]]
    assert shown == sorted(shown)
    assert browser.find("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    assert set(order(browser)[len(done) :]) == set(trials[trials["state"] != "done"].index)


def test_filters(browser: Browser, reports: dict[str, Path]) -> None:
    trials = frame(reports["failed"])
    browser.open(reports["failed"] / "report.html")
    box = browser.find("#filter")
    box.send_keys("aux_loss seed=2")
    expected = trials[(trials["routing.balance.method"] == "aux_loss") & (trials["seed"] == 2)]
    assert set(order(browser)) == set(expected.index)
    assert browser.find("#shown").text == f"{len(expected)} of 27 trials"
    box.clear()
    box.send_keys("token store")
    assert set(order(browser)) == set(trials[trials["reason"].str.contains("token store")].index)
    browser.run("const f = document.getElementById('filter'); f.value = ''; f.dispatchEvent(new Event('input'))")
    select = browser.find("#filter-state")
    browser.run("arguments[0].value = 'failed'; arguments[0].dispatchEvent(new Event('change'))", select)
    assert set(order(browser)) == set(trials[trials["state"] == "failed"].index)


def test_means_over_seeds(browser: Browser, reports: dict[str, Path]) -> None:
    trials = frame(reports["quickstart"])
    browser.open(reports["quickstart"] / "report.html")
    browser.click("#means")
    cells = browser.run(
        "return [...document.querySelectorAll('#trials tr.trial')].map(n => [n.children[1].textContent, Number(n.querySelector('[data-metric=\"greedy.loss\"]').dataset.value), n.querySelector('[data-metric=\"greedy.loss\"]').textContent])"
    )
    assert len(cells) == 9
    assert [cell[1] for cell in cells] == sorted(cell[1] for cell in cells)
    losses = trials[
        (trials["routing.balance.method"] == "aux_loss") & (trials["routing.balance.scope"] == "micro_batch")
    ]["greedy.loss"]
    row = next(cell for cell in cells if cell[0] == "aux loss · micro-batch")
    assert row[1] == pytest.approx(losses.mean(), rel=1e-14)
    assert row[2] == f"{losses.mean():.4f} ± {losses.std(ddof=1):.4f}"


def test_trial_opens_with_its_command(browser: Browser, reports: dict[str, Path]) -> None:
    browser.open(reports["failed"] / "report.html")
    trial = order(browser)[0]
    browser.click(f"tr[data-trial='{trial}'] td")
    assert browser.find("tr.detail code").text == f"moesweep train trials/{trial[:2]}/{trial}/config.yaml"
    commands = browser.run(
        "return [...document.querySelectorAll('#commands tr')].map(n => [n.dataset.trial, n.querySelector('code').textContent])"
    )
    trials = frame(reports["failed"])
    assert dict(commands) == {
        name: f"moesweep train trials/{name[:2]}/{name}/config.yaml"
        for name in trials.index[trials["state"] != "pending"]
    }


def test_failures_are_grouped(browser: Browser, reports: dict[str, Path]) -> None:
    trials = frame(reports["large"])
    browser.open(reports["large"] / "report.html")
    shown = browser.run(
        "return [...document.querySelectorAll('#failure-table tbody tr')].map(n => [n.dataset.state, n.children[2].textContent, Number(n.dataset.count)])"
    )
    expected = trials[trials["state"] != "done"].groupby(["state", "reason"]).size()
    assert {(state, "" if reason == "–" else reason): count for state, reason, count in shown} == dict(expected)
    assert [count for _, _, count in shown] == sorted((count for _, _, count in shown), reverse=True)


def test_provenance_is_shown(browser: Browser, reports: dict[str, Path]) -> None:
    browser.open(reports["quickstart"] / "report.html")
    assert browser.find("[data-provenance=command_line]").text == "moesweep run configs/sweeps/quickstart.yaml"
    assert browser.find("[data-provenance='environment.OMP_NUM_THREADS']").text == "1"
    assert browser.find("[data-provenance=start]").text == "3 values, 2025-03-01T10:01:00Z to 2025-03-01T10:03:00Z"
    assert browser.find("[data-provenance=host]").text == "node1, node2"
    with open_sweep(reports["quickstart"] / "sweep.h5") as sweep:
        assert browser.find("[data-provenance=digest]").text == sweep.digest


def test_further_axes_can_be_chosen(browser: Browser, reports: dict[str, Path]) -> None:
    trials = frame(reports["large"])
    browser.open(reports["large"] / "report.html")
    select = browser.find("#scope select[data-extra='train.learning_rate']")
    browser.run("arguments[0].value = '0.01'; arguments[0].dispatchEvent(new Event('change'))", select)
    shown = {trial for trial, _, _ in browser.values("#scope svg [data-trial]")}
    assert shown
    assert set(trials.loc[sorted(shown), "train.learning_rate"]) == {0.01}


def test_text_of_a_trial_cannot_break_the_page(browser: Browser, tmp_path: Path) -> None:
    nasty = "</script><script>alert(1)</script> {{data}} & \u2028 'quoted'"
    trials = study(seeds=1)
    trials[0] = fail(trials[0], "failed", nasty)
    write_sweep(tmp_path / "sweep.h5", trials, name="<b>{{script}}</b>")
    with open_sweep(tmp_path / "sweep.h5") as sweep:
        write_page(sweep, tmp_path / "report.html")
    browser.open(tmp_path / "report.html")
    assert browser.logs()[0] == []
    assert browser.find("#sweep-name").text == "<b>{{script}}</b>"
    assert browser.run("return document.querySelector('#failure-table tbody').rows[0].cells[2].textContent") == nasty


def test_hostile_and_long_names_stay_inside(browser: Browser, tmp_path: Path) -> None:
    """Axes, values and reasons that break markup, are very long or are not ASCII are shown as they are, inside the page."""
    values = ["<img src=x onerror=alert(1)>\"'", "z" * 400, "données – 数据 📉"]
    trials = study(seeds=1, extra={"data.<b>'name": values})
    trials[0] = fail(trials[0], "failed", "/" + "path" * 300 + "/shard.bin: <b>no</b> space")
    write_sweep(tmp_path / "sweep.h5", trials)
    with open_sweep(tmp_path / "sweep.h5") as sweep:
        write_page(sweep, tmp_path / "report.html")
    for width in (1280, 400):
        browser.open(tmp_path / "report.html", width)
        assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.logs()[0] == []
    assert (
        browser.run(
            "return document.querySelectorAll('img, b:not([data-trial]):not(#front b):not(.heat-numbers b)').length"
        )
        == 0
    )
    find = "const s = [...document.querySelectorAll('#scope select')].find(s => s.dataset.extra === arguments[0]); "
    shown = browser.run(find + "return [...s.options].map(o => o.value)", "data.<b>'name")
    assert set(shown) == set(values)
    for value in values:
        browser.run(find + "s.value = arguments[1]; s.dispatchEvent(new Event('change'))", "data.<b>'name", value)
        assert browser.logs()[0] == []
        assert browser.run("return document.documentElement.scrollWidth") <= 400


@pytest.mark.parametrize("width", [1440, 900, 400])
@pytest.mark.parametrize("kind", ["quickstart", "scale", "large"])
def test_labels_stay_in_their_panels(browser: Browser, reports: dict[str, Path], kind: str, width: int) -> None:
    browser.open(reports[kind] / "report.html", width)
    script = (
        "return [...document.querySelectorAll('main svg text')].map(n => [n.textContent, "
        "n.getBoundingClientRect().right - n.ownerSVGElement.getBoundingClientRect().right, "
        "n.ownerSVGElement.getBoundingClientRect().left - n.getBoundingClientRect().left])"
    )
    texts = browser.run(script)
    assert len(texts) > 100
    # Half of a tick's number may reach over the end of its axis.
    assert [t for t in texts if t[1] > 16 or t[2] > 2] == []
    labels = browser.run(
        "return [...document.querySelectorAll('#curves svg, #scope svg')].map(s => [...s.querySelectorAll('[data-label]')].map(n => [n.getBoundingClientRect().top, n.getBoundingClientRect().bottom]))"
    )
    for panel in labels:
        ordered = sorted(panel)
        assert all(above[1] <= below[0] + 4 for above, below in pairwise(ordered))


def test_first_figure_is_on_the_first_screen(browser: Browser, reports: dict[str, Path]) -> None:
    for kind in ("quickstart", "large"):
        browser.open(reports[kind] / "report.html", 1440)
        assert browser.run("return document.querySelector('#scope svg').getBoundingClientRect().top") < 700
        assert "95 % intervals" in browser.find(".support").text


def test_maps_mark_what_is_missing_and_colour_what_is_better(browser: Browser, tmp_path: Path) -> None:
    trials = study()
    for i, trial in enumerate(trials):
        if (trial.axes["routing.balance.method"], trial.axes["routing.balance.scope"]) == ("aux_loss", "micro_batch"):
            trials[i] = fail(trial, "failed", "out of luck")
    write_sweep(tmp_path / "sweep.h5", trials)
    with open_sweep(tmp_path / "sweep.h5") as sweep:
        write_page(sweep, tmp_path / "report.html")
    browser.open(tmp_path / "report.html")
    assert browser.run("return [...document.querySelectorAll('#maps [data-missing]')].map(n => n.dataset.missing)") == [
        "micro_batch",
        "micro_batch",
    ]
    for metric, best in (("purity_expert", max), ("loss", min)):
        cells = browser.run(
            "return [...document.querySelectorAll(`#maps [data-map=${arguments[0]}] rect[data-value]`)].map(n => [Number(n.dataset.value), Number(n.dataset.share), n.dataset.method])",
            metric,
        )
        free = [cell for cell in cells if cell[2] != "reference"]
        assert best(free)[1] == 1
        assert {cell[1] for cell in cells if cell[2] == "reference"} == {0}


def test_every_setting_has_maps_whoever_ranks_first(reports: dict[str, Path], tmp_path: Path) -> None:
    """With more arrays than the page holds, later seeds are left out before any setting is."""
    base = study(seeds=1, layers=4, experts=64, evaluations=1, steps=20)
    trials = [replace(base[i % 9], id=f"{i:016x}", axes=base[i % 9].axes | {"seed": str(i // 9)}) for i in range(180)]
    write_sweep(tmp_path / "sweep.h5", trials)
    with open_sweep(tmp_path / "sweep.h5") as sweep:
        data = gather(sweep)
    held = [int(row) for row in data["heat"]]
    assert len(held) < 180
    assert {data["trials"]["setting"][row] for row in held} == set(data["trials"]["setting"])
    assert data["heat_left_out"] == 180 - len(held)


def test_reasons_that_differ_in_numbers_are_one(tmp_path: Path) -> None:
    trials = study(seeds=1)
    reasons = [
        "loss is NaN at step 57, rank 3",
        "loss is NaN at step 1204, rank 3",
        "loss is NaN at step 9, rank 3",
        "node7 is gone",
        "node8 is gone",
    ]
    trials = [fail(t, "failed", r) for t, r in zip(trials, reasons, strict=False)] + trials[5:]
    write_sweep(tmp_path / "sweep.h5", trials)
    with open_sweep(tmp_path / "sweep.h5") as sweep:
        groups = gather(sweep)["failures"]
    assert [(g["reason"], len(g["rows"])) for g in groups] == [
        ("loss is NaN at step 9–1204, rank 3", 3),
        ("node7 is gone", 1),
        ("node8 is gone", 1),
    ]


def test_a_trial_opens_from_the_keyboard(browser: Browser, reports: dict[str, Path]) -> None:
    browser.open(reports["quickstart"] / "report.html")
    line = browser.find("#trials tr.trial")
    browser.run("arguments[0].focus()", line)
    line.send_keys(Keys.ENTER)
    assert browser.find("tr.detail code").text.startswith("moesweep train trials/")
    assert line.get_attribute("aria-expanded") == "true"
    # Filtered away and back again, it is closed.
    for text in ("nothing like it", ""):
        browser.run(
            "const f = document.getElementById('filter'); f.value = arguments[0]; f.dispatchEvent(new Event('input'))",
            text,
        )
    assert browser.find("#trials tr.trial").get_attribute("aria-expanded") == "false"
    assert browser.run("return document.querySelectorAll('tr.detail').length") == 0


def test_prints_dark_on_white(browser: Browser, reports: dict[str, Path]) -> None:
    browser.open(reports["quickstart"] / "report.html", dark=True)
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    browser.cdp("Emulation.setEmulatedMedia", media="print", features=[dark])
    try:
        assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert browser.run("return getComputedStyle(document.querySelector('nav.bar')).display") == "none"
    finally:
        browser.cdp("Emulation.setEmulatedMedia", media="", features=[])


def pick(browser: Browser, selector: str, value: str) -> None:
    """Chooses an option as a reader does."""
    script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change', {bubbles: true}))"
    browser.run(script, browser.find(selector), value)
    assert browser.run("return [...document.querySelectorAll(arguments[0])].length", selector) == 1


def slide(browser: Browser, value: int) -> None:
    script = (
        "const s = document.getElementById('heat-time'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))"
    )
    browser.run(script, value)


def described(folder: Path) -> pd.DataFrame:
    with open_sweep(folder / "sweep.h5") as sweep:
        axes = [axis for axis in sweep.axes if axis != "seed"]
        numbers = [
            column for column in sweep.trials.columns if column in sweep.metrics or column == "tokens_per_second"
        ]
        table = pd.concat([describe_trials(sweep), sweep.trials[["state", *axes, *numbers]]], axis=1)
    return table[table["state"] == "done"]


@pytest.mark.parametrize("shown", ["purity_expert", "loss", "max_violation", "tokens_per_second"])
def test_maps_of_scope_by_method_show_the_means(browser: Browser, reports: dict[str, Path], shown: str) -> None:
    table = described(reports["quickstart"])
    browser.open(reports["quickstart"] / "report.html")
    pick(browser, "#maps select[data-map-slot='1']", shown)
    cells = browser.run(
        "return [...document.querySelectorAll(`#maps [data-map=${arguments[0]}]`)].slice(-1)[0].querySelectorAll('rect[data-value]').values().map(n => [n.dataset.method, n.dataset.scope || null, Number(n.dataset.value)]).toArray()",
        shown,
    )
    assert len(cells) == 9
    for method, scope, value in cells:
        mine = table[(table["method"] == method) & ((table["scope"] == scope) if scope else table["scope"].isna())]
        assert len(mine) == 3
        assert value == pytest.approx(mine[shown].mean(), rel=1e-12)


@pytest.mark.parametrize("reading", ["training", "greedy"])
@pytest.mark.parametrize("metric", ["purity_expert", "loss"])
def test_forest_shows_paired_differences(browser: Browser, reports: dict[str, Path], metric: str, reading: str) -> None:
    table = described(reports["quickstart"])
    browser.open(reports["quickstart"] / "report.html")
    browser.click(f"[data-reading={reading}]")
    pick(browser, "#effect-metric", metric)
    script = "return [...document.querySelectorAll('#effects [data-effect]')].map(n => [n.dataset.effect, n.dataset.metric, Number(n.dataset.value)])"
    key = ("greedy." if reading == "greedy" else "") + metric
    rows = browser.run(script)
    assert [row[0] for row in rows] == [
        f"{m}/{s}" for m in ("aux_loss", "expert_bias") for s in ("micro_batch", "global_batch")
    ]
    for effect, named, value in rows:
        assert named == key
        method, scope = effect.split("/")
        mine = table[table["method"] == method].pivot(index="seed", columns="scope", values=key)
        assert value == pytest.approx((mine[scope] - mine["sequence"]).mean(), rel=1e-4)
    pick(browser, "#effect-kind", "method")
    rows = browser.run(script)
    assert len(rows) == 8
    base = table[table["method"] == "none"].set_index("seed")[key]
    for effect, _, value in rows:
        method, scope = effect.split("/")
        mine = table[
            (table["method"] == method) & ((table["scope"] == scope) if scope != "null" else table["scope"].isna())
        ]
        assert value == pytest.approx((mine.set_index("seed")[key] - base).mean(), rel=1e-4, abs=1e-6)


def test_forest_of_further_axes(browser: Browser, reports: dict[str, Path]) -> None:
    table = described(reports["large"])
    browser.open(reports["large"] / "report.html")
    pick(browser, "#effect-kind", "axis")
    pick(browser, "#effect-metric", "loss")
    rows = dict(
        browser.run(
            "return [...document.querySelectorAll('#effects [data-effect]')].map(n => [n.dataset.effect, Number(n.dataset.value)])"
        )
    )
    assert set(rows) == {"parameters/2.009e+07", "routing.balance.weight/0.1"} | {
        f"train.learning_rate/{lr}" for lr in ("0.003", "0.006", "0.01")
    }
    # The writer adds 0.08 for the second weight and takes 0.1 log 4 away for the larger size.
    assert rows["routing.balance.weight/0.1"] == pytest.approx(0.08, abs=0.02)
    assert rows["parameters/2.009e+07"] == pytest.approx(-0.1 * math.log(4), abs=0.02)
    assert table["loss"].notna().all()


def test_trade_offs_mark_the_front(browser: Browser, reports: dict[str, Path]) -> None:
    table = described(reports["quickstart"])
    browser.open(reports["quickstart"] / "report.html")
    for x, y, goals in (
        ("loss", "purity_expert", ("min", "max")),
        ("purity_expert", "tokens_per_second", ("max", "max")),
    ):
        pick(browser, "#trade-x", x)
        pick(browser, "#trade-y", y)
        shown = browser.run(
            "return [...document.querySelectorAll('#tradeoffs [data-setting]')].map(n => [Number(n.dataset.setting), Number(n.dataset.x), Number(n.dataset.y), n.dataset.front === '1'])"
        )
        means = table.groupby("setting")[[x, y]].mean()
        assert sorted(item[0] for item in shown) == sorted(means.index)
        for setting, at_x, at_y, _ in shown:
            assert (at_x, at_y) == pytest.approx(tuple(means.loc[setting]), rel=1e-12)
        choices = table[table["method"] != "reference"].groupby("setting")[[x, y]].mean()
        front = pareto_front(choices, dict(zip((x, y), goals, strict=True)))
        assert {item[0] for item in shown if item[3]} == set(front[front].index)
    wins = browser.find("#front b").get_attribute("data-front").split()
    objectives = table[table["method"] != "reference"].groupby("setting")[list(OBJECTIVES)].mean()
    assert {int(setting) for setting in wins} == set(objectives[pareto_front(objectives)].index)


def test_maps_move_with_the_slider(browser: Browser, reports: dict[str, Path]) -> None:
    browser.open(reports["quickstart"] / "report.html")
    with open_sweep(reports["quickstart"] / "sweep.h5") as sweep:
        for at in (0, 2, 3):
            slide(browser, at)
            cells = browser.run(
                "return [...document.querySelectorAll('#heat rect[data-value]')].map(n => [n.dataset.trial, Number(n.dataset.layer), Number(n.dataset.domain), Number(n.dataset.expert), Number(n.dataset.value)])"
            )
            trial = cells[0][0]
            counts = sweep.counts(trial)
            assert counts is not None
            for _, layer, domain, expert, value in (cell for cell in cells if cell[0] == trial):
                assert value == counts[at, layer, domain, expert]
            assert browser.find("#heat-step").text == str((50, 100, 150, 200)[at])
    pick(browser, "#heat-layer", "1")
    assert {
        layer
        for _, layer, *_ in browser.run(
            "return [...document.querySelectorAll('#heat rect[data-value]')].map(n => [0, Number(n.dataset.layer)])"
        )
    } == {1}
    assert int(browser.find("#heat-time").get_attribute("value")) == 3
    browser.click("#heat-play")
    assert browser.find("#heat-step").text == "50"


def test_load_maps_are_side_by_side(browser: Browser, reports: dict[str, Path]) -> None:
    browser.open(reports["quickstart"] / "report.html")
    table = described(reports["quickstart"])
    pick(browser, "#load-rows", "all")
    panels = browser.run(
        "return [...document.querySelectorAll('#load [data-load-setting]')].map(p => [Number(p.dataset.loadSetting), [...p.querySelectorAll('[data-load]')].map(n => Number(n.dataset.load))])"
    )
    assert {setting for setting, _ in panels} == set(table["setting"])
    for _, loads in panels:
        assert len(loads) == 2 * 32
        for layer in (loads[:32], loads[32:]):
            assert sum(layer) == pytest.approx(32)
            assert layer == sorted(layer, reverse=True)
    pick(browser, "#load-rows", "1")
    assert browser.run("return document.querySelectorAll('#load [data-load]').length") == 9 * 4 * 32


def test_series_end_where_the_arrays_end(browser: Browser, reports: dict[str, Path]) -> None:
    table = described(reports["quickstart"])
    browser.open(reports["quickstart"] / "report.html")
    pick(browser, "#series-evaluation", "max_violation")
    script = "return [...document.querySelectorAll(`#dynamics [data-series=${arguments[0]}] path[data-setting]`)].map(n => [Number(n.dataset.setting), Number(n.dataset.last)])"
    shown = browser.run(script, "evaluation")
    assert len(shown) == 6
    for setting, value in shown:
        assert value == pytest.approx(table[table["setting"] == setting]["max_violation"].mean(), rel=1e-3)
    with open_sweep(reports["quickstart"] / "sweep.h5") as sweep:
        drops = browser.run(script, "drops")
        assert {setting for setting, _ in drops} < set(table[table["method"] == "aux_loss"]["setting"])
        for setting, value in drops:
            ends = [sweep.array(trial, "steps/drop_rate") for trial in table[table["setting"] == setting]["id"]]
            assert value == pytest.approx(
                np.mean([end[-2:].mean() for end in ends if end is not None]), rel=1e-2, abs=1e-5
            )
    ends = browser.run(
        "return [...document.querySelectorAll('#dynamics [data-series=drops] path[data-setting]')].map(n => Number(n.dataset.end))"
    )
    # The last point is the middle of a bin of two steps out of 200.
    assert ends == [0.9975] * len(ends)
    ticks = browser.run(
        "return [...document.querySelectorAll('#dynamics [data-series=drops] text')].map(n => n.textContent)"
    )
    assert {"0 %", "100 %"} <= set(ticks)


def test_expert_losses_are_those_of_the_file(browser: Browser, reports: dict[str, Path]) -> None:
    browser.open(reports["quickstart"] / "report.html")
    pick(browser, "#expert-layer", "1")
    row = int(browser.find("#expert-loss select[data-loss-slot='0']").get_attribute("value"))
    shown = browser.run(
        "return [...document.querySelector('#expert-loss .panel').querySelectorAll('path[data-expert]')].map(n => [Number(n.dataset.expert), Number(n.dataset.value)])"
    )
    with open_sweep(reports["quickstart"] / "sweep.h5") as sweep:
        losses = sweep.array(sweep.ids[row], "evaluations/loss_by_expert")
    assert losses is not None
    assert dict(shown) == pytest.approx(
        {e: losses[-1, 1, e] for e in range(32) if not math.isnan(losses[-1, 1, e])}, rel=1e-6
    )


def test_trials_that_see_the_future_are_marked(browser: Browser, reports: dict[str, Path]) -> None:
    trials = frame(reports["quickstart"])
    browser.open(reports["quickstart"] / "report.html")
    marked = browser.run(
        "return [...document.querySelectorAll('#trials .tag')].map(n => n.closest('tr').dataset.trial)"
    )
    assert set(marked) == set(trials.index[trials["causal"] == 0])


GUESSING = "no better than uniform guessing"


@pytest.fixture(scope="module")
def guessed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A study in which one setting is no better than uniform guessing in all seeds, another in one: the folder, and warnings by trial."""
    trials = study()
    for trial in trials:
        at = (trial.axes["routing.balance.method"], trial.axes["routing.balance.scope"], trial.axes["seed"])
        if at[:2] == ("aux_loss", "global_batch") or at == ("expert_bias", "sequence", "2"):
            trial.warnings = "no_better_than_uniform"
    folder = tmp_path_factory.mktemp("guessed")
    write_sweep(folder / "sweep.h5", trials)
    with open_sweep(folder / "sweep.h5") as sweep:
        write_page(sweep, folder / "report.html")
    return folder, {trial.id: trial.warnings for trial in trials}


def test_guessing_trials_are_marked_wherever_they_are_shown(
    browser: Browser, guessed: tuple[Path, dict[str, str]]
) -> None:
    folder, warnings = guessed
    bad = {trial for trial, text in warnings.items() if text}
    assert len(bad) == 4
    browser.open(folder / "report.html", 1440)
    assert f"4 of 27 finished trials are {GUESSING}" in browser.find("header").text
    assert f"aux loss (3 of 9 {GUESSING})" in browser.find("#headline").text
    assert f"4 {GUESSING}" in browser.find("#summary").text
    # The table, trial by trial and over seeds.
    cells = "return [...document.querySelectorAll('#trials [data-warning]')].map(n => [n.closest('tr').dataset.trial, n.textContent])"
    assert dict(browser.run(cells)) == {trial: f"⚠ {GUESSING}" for trial in bad}
    trial = min(bad)
    browser.click(f"tr[data-trial='{trial}'] td")
    assert GUESSING in browser.find("tr.detail").text
    browser.click("#means")
    texts = [text for _, text in browser.run(cells)]
    assert sorted(texts) == [f"⚠ 1 of 3 {GUESSING}", f"⚠ {GUESSING}"]
    browser.click("#means")
    # Every tooltip of such a trial, and of a mean that it is part of.
    tips = browser.run(
        "return [...document.querySelectorAll('[data-trial][data-tip]')].map(n => [n.dataset.trial, n.dataset.tip, n.dataset.metric || ''])"
    )
    of_trials = [(trial, tip) for trial, tip, metric in tips if metric]
    assert {trial for trial, _ in of_trials} >= bad
    for trial, tip in of_trials:
        assert (GUESSING in tip) == (trial in bad), tip
    for selector in ("#scope [data-method][data-scope][data-tip]", "#maps rect[data-value]"):
        shown = browser.run(
            "return [...document.querySelectorAll(arguments[0])].map(n => [n.dataset.method, n.dataset.scope, n.dataset.tip])",
            selector,
        )
        assert shown
        for method, scope, tip in shown:
            expected = {
                ("aux_loss", "global_batch"): f"⚠ {GUESSING}",
                ("expert_bias", "sequence"): f"⚠ 1 of 3 {GUESSING}",
            }.get((method, scope))
            assert (expected in tip) if expected else GUESSING not in tip
    for setting, tip in browser.run(
        "return [...document.querySelectorAll('#tradeoffs [data-setting]')].map(n => [Number(n.dataset.setting), n.dataset.tip])"
    ):
        table = described(folder)
        ids = set(table[table["setting"] == setting]["id"])
        assert (GUESSING in tip) == bool(ids & bad)
    effects = browser.run(
        "return [...document.querySelectorAll('#effects [data-effect]')].map(n => [n.dataset.effect, n.dataset.tip])"
    )
    assert {effect for effect, tip in effects if GUESSING in tip} == {
        "aux_loss/global_batch", "expert_bias/micro_batch", "expert_bias/global_batch",
    }  # fmt: skip
    # Lists to choose from, chips of curves, commands, load maps.
    options = browser.run(
        "return [...document.querySelectorAll('#heat select[data-slot=\"0\"] option')].map(n => n.textContent)"
    )
    assert sum(GUESSING in text for text in options) == 4
    chips = browser.run("return [...document.querySelectorAll('#curves .chip')].map(n => n.textContent)")
    assert sum(GUESSING in text for text in chips) == 2
    commands = browser.run(
        "return [...document.querySelectorAll('#commands tr')].map(n => [n.dataset.trial, n.cells[0].textContent])"
    )
    assert {trial for trial, text in commands if GUESSING in text} == bad
    heads = browser.run("return [...document.querySelectorAll('#load h3')].map(n => n.textContent)")
    assert sum(GUESSING in text for text in heads) >= 1
    for section in ("scope", "maps", "effects", "tradeoffs", "curves", "dynamics"):
        captions = browser.run(
            "return [...document.querySelectorAll(`#${arguments[0]} .caption`)].map(n => n.textContent).join(' ')",
            section,
        )
        assert GUESSING in captions, section
    assert browser.logs()[0] == []


def test_a_study_without_guessing_says_nothing_of_it(browser: Browser, reports: dict[str, Path]) -> None:
    browser.open(reports["quickstart"] / "report.html")
    everything = browser.run(
        "return document.querySelector('header').textContent + [...document.querySelectorAll('main section:not(#terms)')].map(n => n.innerHTML).join('')"
    )
    assert GUESSING not in everything
    assert "⚠" not in everything


def test_sentences_name_guessing(tmp_path: Path) -> None:
    trials = study()
    for trial in trials:
        trial.warnings = "no_better_than_uniform"
    said = sentences(tmp_path, trials)
    assert said[1].startswith(f"27 of 27 finished trials are {GUESSING} (")
    for sentence in said[:4]:
        assert GUESSING in sentence
    one = [t for t in trials if t.axes["routing.select"] == "reference"][:1]
    assert f"1 of 1 finished trials is {GUESSING}" in sentences(tmp_path, one)[1]


def test_page_stays_small_however_large_the_arrays(tmp_path: Path) -> None:
    """500 trials of 4 layers, 64 experts, 6 evaluations and 600 steps, every series recorded."""
    base = study(seeds=1, layers=4, experts=64, steps=600, evaluations=6)
    trials = [replace(base[i % 9], id=f"{i:016x}", axes=base[i % 9].axes | {"seed": str(i // 9)}) for i in range(500)]
    write_sweep(tmp_path / "sweep.h5", trials)
    with open_sweep(tmp_path / "sweep.h5") as sweep:
        assert write_page(sweep, tmp_path / "report.html") < 5_000_000


# The sentence ---------------------------------------------------------------------------------------------------------


def sentences(tmp_path: Path, trials: list[Trial]) -> list[str]:
    write_sweep(tmp_path / "sweep.h5", trials)
    with open_sweep(tmp_path / "sweep.h5") as sweep:
        table = joined(sweep)
        done = table[table["state"] == "done"]
        return headline(done, table["state"], sweep.axes, scope_effects(done))


def joined(sweep: Sweep) -> pd.DataFrame:
    axes = [axis for axis in sweep.axes if axis != "seed"]
    return pd.concat([describe_trials(sweep), sweep.trials[["state", "warnings", *axes, *sweep.metrics]]], axis=1)


def test_judgement() -> None:
    assert judge(0.2, 0.01, 0.9) == "depends"
    assert judge(0.03, 0.01, 0.9) == "slightly"
    assert judge(0.02, 0.01, 0.9) == "hardly"
    assert judge(0.0, 0.0, 0.9) == "hardly"
    assert judge(0.2, math.nan, 0.9) == "unknown"


def test_sentence_follows_the_numbers(tmp_path: Path) -> None:
    said = sentences(tmp_path, study())
    assert (
        said[0] == "How far experts specialise depends on the balancing scope with aux loss, hardly with expert bias."
    )
    assert said[1].startswith("Purest experts: aux loss over the global batch with 0.4")
    clause = next(sentence for sentence in said if sentence.startswith("Aux loss:"))
    assert "the global batch" in clause
    assert "each sequence" in clause
    # The same study with the two methods' purities exchanged says the opposite.
    trials = study()
    other = {"aux_loss": "expert_bias", "expert_bias": "aux_loss"}
    for trial in trials:
        method = trial.axes["routing.balance.method"]
        trial.axes["routing.balance.method"] = other.get(method, method)
    assert sentences(tmp_path, trials)[0] == (
        "How far experts specialise depends on the balancing scope with expert bias, hardly with aux loss."
    )


def test_sentence_numbers_are_the_means(tmp_path: Path) -> None:
    trials = study()
    cells = {
        scope: np.mean(
            [
                trial.metrics["purity_expert"]
                for trial in trials
                if trial.axes["routing.balance.method"] == "aux_loss" and trial.axes["routing.balance.scope"] == scope
            ]
        )
        for scope in ("sequence", "global_batch")
    }
    best, said = (
        next(s for s in sentences(tmp_path, trials) if s.startswith(start))
        for start in ("Purest experts:", "Aux loss:")
    )
    values = [t.metrics["purity_expert"] for t in trials if t.axes["routing.balance.method"] == "aux_loss"]
    values = sorted(v for v in values if v > 0.3)
    assert f"aux loss over the global batch with {cells['global_batch']:.3f}" in best
    # Over three seeds the interval is their range.
    assert f"({values[0]:.3f} to {values[-1]:.3f})" in best
    assert f"{cells['global_batch']:.3f} balanced over the global batch" in said
    assert f"{cells['sequence']:.3f} over each sequence" in said
    assert f"range {cells['global_batch'] - cells['sequence']:.3f}" in said


def test_sentence_at_two_sizes(tmp_path: Path) -> None:
    said = " ".join(sentences(tmp_path, study({64: 574_000.0, 256: 20_090_000.0})))
    assert "At 35 times the parameters" in said
    assert "with aux loss it is the same" in said


def test_sentence_without_scopes_seeds_or_results(tmp_path: Path) -> None:
    trials = study()
    one_scope = [t for t in trials if t.axes["routing.balance.scope"] == "global_batch"]
    assert sentences(tmp_path, one_scope)[0].startswith("The routing method moves expert purity most")
    one_seed = [t for t in trials if t.axes["seed"] == "1"]
    assert "one seed a scope" in sentences(tmp_path, one_seed)[0]
    failed = [fail(t, "failed", "no data") for t in trials[:3]] + [fail(t, "pending", "") for t in trials[3:5]]
    assert sentences(tmp_path, failed) == ["No trial has finished yet: 3 failed and 2 pending."]
    assert sentences(tmp_path, []) == ["The sweep has no trials."]
    for trial in trials:
        trial.metrics = {"loss": trial.metrics["loss"]}
    assert sentences(tmp_path, trials)[0] == "27 trials have finished; none recorded expert purity."
