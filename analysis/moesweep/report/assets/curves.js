// Curves over training: losses, load violation, entropy, drop rates; seeds as bands.
// ---- loss curves ---------------------------------------------------------------------------------------------------
const withCurve = D.ranking.filter((r) => D.curves[r]);
const SETTINGS = unique(withCurve.map((r) => T.setting[r])).map((s) => {
  const mine = withCurve.filter((r) => T.setting[r] === s), done = mine.filter(isDone), first = mine[0];
  return { setting: s, rows: done.length ? done : mine, method: T.method[first], scope: T.scope[first], extra: T.extra[first], scale: T.scale[first], label: fullLabel(done.length ? done : mine) + (FACETS.length > 1 && known(T.scale[first]) ? " · " + times(T.scale[first]) : "") };
});
function dash(s) { return s.method === "random" ? "5 4" : s.method === "none" ? "1.5 3.5" : DASHES[Math.max(0, D.scopes.indexOf(s.scope)) % 4]; }
function startChips() {
  const chosenOnes = [];
  const take = (list, n) => { for (const s of list) if (!chosenOnes.includes(s.setting) && n-- > 0) chosenOnes.push(s.setting); };
  const small = SETTINGS.filter((s) => (FACETS.length < 2 || T.parameters[s.rows[0]] === FACETS[0]) && matches(s.rows[0]));
  const base = small.length ? small : SETTINGS;
  take(base.filter((s) => s.method === "reference"), 1);
  take(base.filter((s) => s.method === "random"), 1);
  for (const m of SCOPED.slice(0, 3)) for (const scope of [D.scopes[0], D.scopes[D.scopes.length - 1]]) take(base.filter((s) => s.method === m && s.scope === scope), 1);
  take(base, 6 - chosenOnes.length);
  return new Set(chosenOnes.slice(0, 8));
}
/** Of those settings what the page opens with, the smallest size and the further axes chosen; any of them where none is. */
function opening(list) {
  const some = list.filter((s) => matches(s.rows[0]) && (FACETS.length < 2 || T.parameters[s.rows[0]] === FACETS[0]));
  return (some.length ? some : list).slice(0, 6);
}
/** Mean, lowest and highest over seeds at the steps of the first seed; seeds of another length count where they have the step. */
function band(list, xKey, yKey, shift) {
  const values = (r) => typeof yKey === "function" ? yKey(D.curves[r]) : D.curves[r][yKey];
  const clock = (r) => typeof xKey === "function" ? xKey(D.curves[r]) : D.curves[r][xKey];
  const maps = list.map((r) => { const y = values(r) || []; return new Map(y.length ? (clock(r) || []).map((x, i) => [x, y[i]]) : []); });
  const longest = maps.reduce((a, m) => m.size > a.size ? m : a, new Map());
  return [...longest.keys()].map((x) => {
    const v = maps.map((m, i) => { const y = m.get(x), base = shift ? shift(list[i], x) : 0; return known(y) && known(base) ? y - base : null; }).filter(known);
    return v.length ? [x, mean(v), Math.min(...v), Math.max(...v), v.length] : null;
  }).filter(Boolean);
}
function referenceAt(row, x) {
  const partner = rows.find((r) => isDone(r) && T.method[r] === "reference" && T.seed[r] === T.seed[row] && T.parameters[r] === T.parameters[row] && D.curves[r]);
  if (partner === undefined) return null;
  const c = D.curves[partner], i = (c.evaluation || []).indexOf(x);
  return i < 0 || !c[state.reading] ? null : c[state.reading][i];
}
/** What sets a line apart from the others shown: method, scope, and the size and further axes only where they differ. */
function lineName(s, shown) {
  const parts = [words(s.method === "none" ? "no balancing" : s.method) + (s.rows ? flag(s.rows) : "")];
  if (s.scope) parts.push(words(s.scope));
  for (const axis of EXTRAS) if (unique(shown.map((o) => o.extra[axis])).length > 1) parts.push(s.extra[axis]);
  if (unique(shown.map((o) => o.scale)).length > 1 && known(s.scale)) parts.push(times(s.scale));
  return parts.join(" · ");
}
function seriesPanel(parent, series, points, label, options) {
  const drawn = series.map((s) => ({ s, points: points(s) })).filter((d) => d.points.length);
  if (!drawn.length) { make(parent, "p", { class: "empty" }, "Nothing recorded for this choice."); return; }
  const every = drawn.flatMap((d) => d.points), x1 = options.end || Math.max(...every.map((p) => p[0])), first = Math.min(...every.map((p) => p[0])), x0 = options.fromZero && first < .4 * x1 ? 0 : first;
  const visible = options.skipHead ? drawn.flatMap((d) => d.points.length > 2 ? d.points.slice(Math.max(1, Math.floor(d.points.length * .15))) : d.points) : every;
  let low = Math.min(...visible.map((p) => p[2])), high = Math.max(...visible.map((p) => p[3]));
  const pad = (high - low || .1) * .06;
  low -= pad; high += pad;
  if (options.atZero && low > -pad * 1.01) low = 0;
  else if (options.atZero && low < high * .4) low = Math.min(0, low + pad);
  const area = frame(parent, { height: options.height || 340, bottom: 50, left: high >= 10000 ? 62 : 46, y: [low, high], label, right: labelRoom(drawn.map((d) => lineName(d.s, series)), Math.max(260, parent.clientWidth), .4) });
  const x = (v) => area.left + (v - x0) / (x1 - x0 || 1) * (area.right - area.left);
  const clip = make(area.svg, "clipPath", { id: options.id });
  make(clip, "rect", { x: area.left, y: area.top - 6, width: area.right - area.left + 4, height: area.bottom - area.top + 8 });
  for (const v of ticks(x0, x1 + (x1 - x0) * .01, 4)) make(area.svg, "text", { x: x(v), y: area.bottom + 20, "text-anchor": "middle" }, options.xText ? options.xText(v) : v.toLocaleString("en-US").replaceAll(",", "\u202f"));
  make(area.svg, "text", { x: (area.left + area.right) / 2, y: area.bottom + 40, "text-anchor": "middle" }, options.xName || "step");
  make(area.svg, "line", { class: "axis", x1: area.left, x2: area.right, y1: area.bottom, y2: area.bottom });
  if (low < 0 && high > 0) make(area.svg, "line", { x1: area.left, x2: area.right, y1: area.y(0), y2: area.y(0), stroke: "var(--faint)" });
  const inside = make(area.svg, "g", { "clip-path": `url(#${options.id})` });
  const labels = [];
  for (const { s, points: p } of drawn) {
    if (p.some((q) => q[4] > 1)) make(inside, "path", { d: "M" + p.map((q) => `${x(q[0])},${area.y(q[3])}`).join("L") + "L" + p.slice().reverse().map((q) => `${x(q[0])},${area.y(q[2])}`).join("L") + "Z", fill: colour(s.method), opacity: .13 });
  }
  for (const { s, points: p } of drawn) {
    const d = "M" + p.map((q) => `${x(q[0])},${area.y(q[1])}`).join("L"), last = p[p.length - 1];
    make(inside, "path", { d, fill: "none", stroke: colour(s.method), "stroke-width": 2, "stroke-dasharray": dash(s) || null, "stroke-linejoin": "round", "data-setting": s.setting, "data-last": last[1], "data-end": last[0] });
    if (options.dots) for (const q of p) make(inside, "circle", { cx: x(q[0]), cy: area.y(q[1]), r: 2.6, fill: colour(s.method) });
    make(inside, "path", { d, fill: "none", stroke: "transparent", "stroke-width": 12, "data-tip": `${s.label}\nat the end ${short(last[1], 4)}${last[4] > 1 ? ` (${short(last[2], 4)} to ${short(last[3], 4)} over ${last[4]} seeds)` : ""}` });
    labels.push({ y: Math.max(area.top, Math.min(area.bottom, area.y(last[1]))), colour: colour(s.method), text: lineName(s, series) });
  }
  endLabels(area, labels, area.right);
}
const startOfChips = () => { if (!state.chips) { state.chips = startChips(); state.chipOrder = SETTINGS.slice().sort((a, b) => state.chips.has(b.setting) - state.chips.has(a.setting)); } return SETTINGS.filter((s) => state.chips.has(s.setting)); };
if (withCurve.length) section("curves", "Loss", "Loss curves", null, (body) => {
  startOfChips();
  const hasReference = rows.some((r) => isDone(r) && T.method[r] === "reference");
  if (hasReference) {
    const tools = make(body, "div", { class: "tools" }), field = make(tools, "label"), box = make(field, "input", { type: "checkbox", id: "relative" });
    box.checked = state.relative;
    field.append("validation loss above the reference router's, paired by seed");
    box.addEventListener("change", () => { state.relative = box.checked; redraw(); });
  }
  const grid = make(body, "div", { class: "panels" });
  grid.style.gridTemplateColumns = "repeat(2, minmax(0, 1fr))";
  const series = SETTINGS.filter((s) => state.chips.has(s.setting));
  const left = make(grid, "div", { class: "panel" }), right = make(grid, "div", { class: "panel" });
  make(make(left, "h3", {}, "Training "), "small", {}, "nats per token");
  make(make(right, "h3", {}, "Validation "), "small", {}, (state.relative ? "nats per token above the reference router" : "nats per token") + ", " + state.reading + " reading");
  seriesPanel(left, series, (s) => band(s.rows, "step", "loss"), "Training loss", { id: "clip-train", skipHead: true, fromZero: true });
  seriesPanel(right, series, (s) => band(s.rows, "evaluation", state.reading, state.relative ? referenceAt : null), "Validation loss", { id: "clip-valid", dots: true, skipHead: !state.relative, fromZero: true });
  const chips = make(body, "div", { class: "chips" });
  for (const s of state.chipOrder) {
    const chip = make(chips, "button", { type: "button", class: "chip", "aria-pressed": String(state.chips.has(s.setting)), style: `--own:${colour(s.method)}` });
    make(chip, "i", { class: dash(s) ? (/^[12]/.test(dash(s)) ? "dot" : "dash") : "" });
    chip.append(s.label);
    chip.addEventListener("click", () => { state.chips.has(s.setting) ? state.chips.delete(s.setting) : state.chips.add(s.setting); redraw(); });
  }
  make(body, "p", { class: "caption" }, `Lines are means over seeds, bands reach from the lowest to the highest seed.${D.bin_steps > 1 ? ` A point of the training curve is the mean of up to ${D.bin_steps} steps.` : ""} The vertical axes leave out the first steps, where the loss falls from its start.${explained(series.flatMap((s) => s.rows))}`);
});

// ---- what else moves in training -----------------------------------------------------------------------------------
const VIOLATIONS = [["max_violation_global_batch", "over the global batch"], ["max_violation_micro_batch", "mean over micro-batches"]];
const seriesOf = (group, key) => (c) => (c[group] || {})[key];
const hasSeries = (group, key) => withCurve.some((r) => (D.curves[r][group] || {})[key]);
const evaluationGroup = () => ["training", "greedy"].map((r) => r + ".series").sort((a) => a.startsWith(state.reading) ? -1 : 1).find((g) => withCurve.some((r) => D.curves[r][g]));
const OTHERS = unique(withCurve.flatMap((r) => Object.keys(D.curves[r].series || {}))).filter((k) => !k.startsWith("max_violation") && k !== "drop_rate").sort((a, b) => b.startsWith("losses.") - a.startsWith("losses."));
const sayOther = (key) => key.startsWith("losses.") ? words(key.slice(7)) + ", as added to the loss" : key === "gradient_norm" ? "gradient norm" : sayMetric(key);
if (withCurve.some((r) => D.curves[r].series || D.curves[r]["training.series"] || D.curves[r]["greedy.series"])) section("dynamics", "Balance", "Balance over training", null, (body) => {
  const series = startOfChips(), grid = make(body, "div", { class: "panels" }), draws = [];
  grid.style.gridTemplateColumns = "repeat(2, minmax(0, 1fr))";
  const panel = (id, title, options, key) => {
    const node = make(grid, "div", { class: "panel", "data-series": id }), head = make(node, "h3", {}, title + " ");
    if (options.length > 1) { const select = make(head, "select", { id: `series-${id}`, "aria-label": title }); for (const [v, t] of options) make(select, "option", { value: v, selected: v === state[key] ? "" : null }, t); select.addEventListener("change", () => { state[key] = select.value; redraw(); }); }
    else make(head, "small", {}, options[0] ? options[0][1] : "");
    return node;
  };
  const violations = VIOLATIONS.filter(([k]) => hasSeries("series", k));
  if (violations.length) {
    if (!violations.some(([k]) => k === state.violation)) state.violation = violations[0][0];
    const node = panel("violation", "Load violation (MaxVio)", violations, "violation");
    draws.push(() => seriesPanel(node, series, (s) => band(s.rows, "step", seriesOf("series", state.violation)), "Load violation over steps", { id: "clip-violation", fromZero: true, atZero: true, height: 280 }));
  }
  const group = evaluationGroup();
  if (group) {
    const ids = Object.keys(METRICS).filter((k) => hasSeries(group, k));
    if (!ids.includes(state.series)) state.series = ids[0];
    const node = panel("evaluation", "At each evaluation", ids.map((k) => [k, sayMetric(k)]), "series");
    draws.push(() => seriesPanel(node, series, (s) => band(s.rows, "evaluation", seriesOf(group, state.series)), `${sayMetric(state.series)} over evaluations`, { id: "clip-evaluation", dots: true, fromZero: true, height: 280 }));
  }
  const dropping = hasSeries("series", "drop_rate");
  if (dropping) {
    const node = panel("drops", "Drop rate", [["", "over the schedule"]], null), every = SETTINGS.filter((s) => s.rows.some((r) => (seriesOf("series", "drop_rate")(D.curves[r]) || []).some((v) => v > 0)));
    const shown = every.filter((s) => state.chips.has(s.setting)), drops = (list) => (s) => band(s.rows, (c) => c.step.map((x) => Number((x / c.steps).toPrecision(4))), seriesOf("series", "drop_rate"));
    draws.push(() => seriesPanel(node, shown.length ? shown : opening(every), drops(), "Drop rate over the schedule", { id: "clip-drops", fromZero: true, atZero: true, end: 1, height: 280, xName: "share of the schedule", xText: (v) => Math.round(v * 100) + " %" }));
  }
  if (OTHERS.length) {
    if (!OTHERS.includes(state.other)) state.other = OTHERS[0];
    const node = panel("other", "Each step", OTHERS.map((k) => [k, sayOther(k)]), "other");
    const having = series.filter((s) => s.rows.some((r) => seriesOf("series", state.other)(D.curves[r])));
    draws.push(() => seriesPanel(node, having.length ? having : opening(SETTINGS.filter((s) => s.rows.some((r) => seriesOf("series", state.other)(D.curves[r])))), (s) => band(s.rows, "step", seriesOf("series", state.other)), sayOther(state.other), { id: "clip-other", fromZero: true, skipHead: state.other === "gradient_norm", height: 280 }));
  }
  draws.forEach((draw) => draw());
  const left = D.series_left_out.map((k) => k.startsWith("losses.") ? words(k.slice(7)) : sayMetric(k));
  make(body, "p", { class: "caption" }, `The routers chosen above; means over layers, bands over seeds. Load violation is (largest load − mean load) / mean load: 0 is even.${dropping ? "" : " No trial dropped a token."}${left.length ? ` To keep the page small, these are left out for some trials: ${left.join(", ")}; the file has them.` : ""}${explained(series.flatMap((s) => s.rows))}`);
});
