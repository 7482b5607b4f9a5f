// What the experts do: domains they serve, load they carry, loss of their tokens; by layer and over time.
// ---- heat maps -----------------------------------------------------------------------------------------------------
const heatRows = D.ranking.filter((r) => D.heat[r]);
function unpack(text, Kind) {
  const raw = atob(text), buffer = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) buffer[i] = raw.charCodeAt(i);
  return new Kind(buffer.buffer);
}
/** Counts [times, layers, domains, experts] of a trial in the reading at hand, the other one where it has none. */
const unpacked = new Map();
function countsOf(row) {
  const entry = D.heat[row], reading = entry[state.reading] ? state.reading : entry.training ? "training" : "greedy", key = row + reading;
  if (!unpacked.has(key)) unpacked.set(key, unpack(entry[reading].data, entry[reading].bytes === 2 ? Uint16Array : Uint32Array));
  return unpacked.get(key);
}
/** The counts of one evaluation: `at` from 0, the first one in the page, to 1, the last. */
function countsAt(row, at) {
  const entry = D.heat[row], size = entry.shape.reduce((a, b) => a * b, 1), i = Math.round(at * (entry.steps.length - 1));
  return { counts: countsOf(row).subarray(i * size, (i + 1) * size), step: entry.steps[i] };
}
function startHeat() {
  const picked = [];
  const small = heatRows.filter((r) => FACETS.length < 2 || T.parameters[r] === FACETS[0]), base = small.length ? small : heatRows;
  const order = D.effects.length ? D.effects.slice().sort((a, b) => b.range - a.range)[0].method : SCOPED[0];
  for (const s of D.scopes) { const r = base.filter((q) => T.method[q] === order && T.scope[q] === s && matches(q)).sort((a, b) => D.heat[b].steps.length - D.heat[a].steps.length || seedFirst(a, b))[0]; if (r !== undefined) picked.push(r); }
  for (const m of [["reference"], D.methods]) for (const r of base) if (picked.length < 3 + (picked.length ? 0 : 1) && m.includes(T.method[r]) && !picked.some((q) => T.setting[q] === T.setting[r])) picked.push(r);
  return picked.slice(0, 3);
}
/** Experts in the order that a map shows them: by their main domain in the last evaluation, those without a slot last. */
function expertOrder(row, layer) {
  const [, domains, experts] = D.heat[row].shape, { counts } = countsAt(row, 1), at = (d, e) => counts[(layer * domains + d) * experts + e];
  const load = loadOf(counts, layer, domains, experts), best = load.map((_, e) => { let b = 0; for (let d = 1; d < domains; d++) if (at(d, e) > at(b, e)) b = d; return b; });
  return [...Array(experts).keys()].sort((a, b) => (load[a] === 0) - (load[b] === 0) || best[a] - best[b] || at(best[b], b) / (load[b] || 1) - at(best[a], a) / (load[a] || 1));
}
function loadOf(counts, layer, domains, experts) {
  return [...Array(experts).keys()].map((e) => { let s = 0; for (let d = 0; d < domains; d++) s += counts[(layer * domains + d) * experts + e]; return s; });
}
function heatMap(parent, row, layer, counts, domains, experts, first) {
  const names = D.domains[T.domains[row]], at = (d, e) => counts[(layer * domains + d) * experts + e];
  const load = loadOf(counts, layer, domains, experts), order = expertOrder(row, layer);
  const width = Math.max(240, parent.clientWidth), left = Math.min(96, 12 + 7 * Math.max(...names.slice(0, domains).map((n) => n.length))), cell = (width - left) / experts, high = domains > 16 ? 9 : 13, top = 30;
  const height = top + domains * high + 4, uniform = load.reduce((a, b) => a + b, 0) / experts || 1, most = Math.max(...load) / uniform;
  const svg = make(parent, "svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": `Experts by domain, layer ${layer}` });
  if (first) make(svg, "text", { x: left - 6, y: top - 6, "text-anchor": "end", style: "font-size:11px" }, "load");
  names.slice(0, domains).forEach((n, d) => make(svg, "text", { x: left - 6, y: top + d * high + high - 2.5, "text-anchor": "end", style: "font-size:11px" }, n));
  const even = top - 3 - 22 / Math.max(most, 1);
  order.forEach((e, i) => {
    const h = 22 * load[e] / uniform / Math.max(most, 1);
    make(svg, "rect", { x: left + i * cell + cell * .12, y: top - 3 - h, width: cell * .76, height: h, fill: "var(--faint)", "data-tip": `expert ${e}\nload ${short(load[e] / uniform, 2)} × uniform` });
    for (let d = 0; d < domains; d++) {
      const share = load[e] ? at(d, e) / load[e] : 0;
      make(svg, "rect", { x: left + i * cell, y: top + d * high, width: Math.max(.5, cell - .6), height: high - .8, fill: ramp(share), "data-trial": T.id[row], "data-layer": layer, "data-domain": d, "data-expert": e, "data-value": at(d, e), "data-tip": `${names[d]} · expert ${e}\n${(100 * share).toFixed(1)} % of its slots (${at(d, e)} of ${load[e]})` });
    }
  });
  make(svg, "line", { x1: left, x2: width, y1: even, y2: even, stroke: "var(--ink)", "stroke-opacity": .65, "stroke-dasharray": "2 3" });
}
/** A trial's name for a narrow box: what tells trials of a study apart comes first, further axes last. */
const rowName = (r) => [words(T.method[r] === "none" ? "no balancing" : T.method[r]), T.scope[r] && words(T.scope[r]), FACETS.length > 1 && known(T.scale[r]) && times(T.scale[r]), T.seed[r] !== null && "seed " + T.seed[r], ...Object.entries(T.extra[r]).map(([axis, v]) => words(axis.split(".").pop()) + " " + v)].filter(Boolean).join(" · ") + (guesses(r) ? ` · ⚠ ${GUESSING}` : "");
const seedFirst = (a, b) => String(T.seed[a]).localeCompare(String(T.seed[b]), undefined, { numeric: true });
function layerTools(tools, key, layers, id, again) {
  if (layers > 1) choice(tools, "layer", key, [...(layers > 3 ? [["ends", "first and last"]] : []), ["all", "all"], ...[...Array(layers).keys()].map((l) => [l, String(l)])], { id }, again);
}
const layersShown = (wanted, count) => wanted === "all" ? [...Array(count).keys()] : wanted === "ends" ? unique([0, count - 1]) : [Number(wanted)].filter((l) => l < count);
if (heatRows.length) section("heat", "Experts", "Which domain each expert serves",
  "A column is an expert, coloured by where its slots come from: one dark cell is an expert of one domain, a pale column serves all. Experts are ordered by their main domain at the end; the bars above are their load, with the dashed line at an even share.",
  (body) => {
    if (!state.heat) state.heat = startHeat();
    const layers = Math.max(...state.heat.map((r) => D.heat[r].shape[0]));
    if (state.heatLayer === null) state.heatLayer = layers > 3 ? "ends" : "all";
    if (state.time === null) state.time = 1;
    const tools = make(body, "div", { class: "tools" });
    layerTools(tools, "heatLayer", layers, "heat-layer", redraw);
    const most = Math.max(...state.heat.map((r) => D.heat[r].steps.length));
    let maps = [];
    if (most > 1) {
      const field = make(tools, "label", { class: "slider" }, "step"), slider = make(field, "input", { type: "range", id: "heat-time", min: 0, max: most - 1, step: 1, "aria-label": "Evaluation" });
      slider.value = String(Math.round(state.time * (most - 1)));
      const shown = make(field, "output", { id: "heat-step" });
      const say = () => { const long = state.heat.find((r) => D.heat[r].steps.length === most); shown.textContent = String(countsAt(long, state.time).step); };
      const move = () => { state.time = Number(slider.value) / (most - 1); say(); draw(); };
      slider.addEventListener("input", move);
      const play = make(tools, "button", { type: "button", class: "plain", id: "heat-play" }, "▶ play");
      let timer = 0;
      const stop = () => { clearInterval(timer); timer = 0; play.textContent = "▶ play"; };
      play.addEventListener("click", () => {
        if (timer) { stop(); return; }
        play.textContent = "■ stop";
        slider.value = "0";
        move();
        timer = setInterval(() => { if (!slider.isConnected || Number(slider.value) >= most - 1) { stop(); return; } slider.value = String(Number(slider.value) + 1); move(); }, 650);
      });
      say();
    }
    const key = make(tools, "span", { class: "scale-key" }, "0 %");
    make(key, "i");
    key.append("100 % of the expert's slots");
    const grid = make(body, "div", { class: "heats" });
    const boxes = state.heat.map((row, slot) => {
      const box = make(grid, "div", { class: "panel" });
      const select = make(box, "select", { "data-slot": slot, "aria-label": "Trial" });
      for (const r of heatRows) make(select, "option", { value: r, selected: r === row ? "" : null }, rowName(r));
      select.addEventListener("change", () => { state.heat[slot] = Number(select.value); redraw(); });
      const line = make(box, "p", { class: "heat-numbers" });
      for (const [id, text] of [["purity_expert", "purity"], ["utilisation", "utilisation"]]) {
        const v = metric(own(id), row);
        line.append(text + " ");
        make(line, "b", { "data-trial": T.id[row], "data-metric": own(id), "data-value": known(v) ? v : null }, short(v));
        line.append("  ");
      }
      if (most > 1 && D.heat[row].steps.length === 1) line.append("last evaluation only");
      return make(box, "div");
    });
    function draw() {
      state.heat.forEach((row, slot) => {
        const [count, domains, experts] = D.heat[row].shape, { counts } = countsAt(row, state.time);
        boxes[slot].replaceChildren();
        for (const l of layersShown(state.heatLayer, count)) {
          if (count > 1) make(boxes[slot], "p", { class: "layer" }, `layer ${l}`);
          heatMap(boxes[slot], row, l, counts, domains, experts, true);
        }
      });
    }
    draw();
    make(body, "p", { class: "caption" }, `${capital(state.reading)} reading; purity and utilisation are those of the last evaluation.${D.heat_left_out ? ` To keep the page small, the maps of ${D.heat_left_out} trials are left out, later seeds first; the file has them.` : ""}`);
  });

// ---- load of the experts, strategies side by side ------------------------------------------------------------------
function loadColour(ratio) {
  const v = Math.max(-1, Math.min(1, Math.log2(Math.max(ratio, 1e-9)) / 2));
  return `color-mix(in oklab, var(--even), var(--${v < 0 ? "low" : "high"}) ${(Math.abs(v) * 100).toFixed(1)}%)`;
}
/** Rows are layers at the last evaluation, or the evaluations of one layer; columns experts by their load in the last row. */
function loadMap(parent, row) {
  const [count, domains, experts] = D.heat[row].shape, entry = D.heat[row], layer = state.loadLayer === "all" ? null : Math.min(Number(state.loadLayer), count - 1);
  const lines = layer === null ? [...Array(count).keys()].map((l) => ({ text: `layer ${l}`, load: loadOf(countsAt(row, 1).counts, l, domains, experts) }))
    : entry.steps.map((step, i) => ({ text: String(step), load: loadOf(countsAt(row, entry.steps.length < 2 ? 1 : i / (entry.steps.length - 1)).counts, layer, domains, experts) }));
  const last = lines[lines.length - 1].load, by = [...Array(experts).keys()].sort((a, b) => last[b] - last[a]);
  const width = Math.max(200, parent.clientWidth), left = 12 + 6.6 * Math.max(...lines.map((l) => l.text.length)), cell = (width - left) / experts, high = lines.length > 24 ? 8 : 16;
  const svg = make(parent, "svg", { viewBox: `0 0 ${width} ${lines.length * high + 2}`, height: lines.length * high + 2, role: "img", "aria-label": "Load of the experts" });
  lines.forEach(({ text, load }, i) => {
    const uniform = load.reduce((a, b) => a + b, 0) / experts || 1, order = layer === null ? [...by.keys()].sort((a, b) => load[b] - load[a]) : by;
    if (high > 10 || i % 3 === 0) make(svg, "text", { x: left - 6, y: i * high + high - 4, "text-anchor": "end", style: "font-size:11px" }, text);
    order.forEach((e, k) => make(svg, "rect", { x: left + k * cell, y: i * high, width: Math.max(.5, cell - .6), height: high - 1, fill: load[e] ? loadColour(load[e] / uniform) : "none", stroke: load[e] ? null : "var(--bad)", "stroke-width": load[e] ? null : .7, "data-load": load[e] / uniform, "data-tip": `${layer === null ? text : "step " + text} · expert ${e}\n${short(load[e] / uniform, 2)} × an even share${load[e] ? "" : " (no slot)"}` }));
  });
}
if (heatRows.length) section("load", "Load", "How evenly each router uses its experts",
  "A cell is an expert's load against an even share, experts from the most used to the least. A map near the middle of the scale is a balanced router; red outlines are experts without a slot.",
  (body) => {
    const p = FACETS.length > 1 ? FACETS[0] : null, at = heatRows.filter((r) => p === null || T.parameters[r] === p), mine = at.filter((r) => matches(r) || !at.some((q) => T.method[q] === T.method[r] && matches(q)));
    const settings = unique(mine.map((r) => T.setting[r])).map((s) => mine.filter((r) => T.setting[r] === s).sort((a, b) => D.heat[b].steps.length - D.heat[a].steps.length || seedFirst(a, b))[0]);
    if (!settings.length) { make(body, "p", { class: "empty" }, "No maps for this choice."); return; }
    const place = (list, v) => { const i = list.indexOf(v); return i < 0 ? list.length : i; };
    settings.sort((a, b) => place(D.methods, T.method[a]) - place(D.methods, T.method[b]) || place(D.scopes, T.scope[a]) - place(D.scopes, T.scope[b]));
    const shown = settings.slice(0, 18), layers = Math.max(...shown.map((r) => D.heat[r].shape[0])), over = shown.some((r) => D.heat[r].steps.length > 1);
    if (state.loadLayer === null) state.loadLayer = over ? "0" : "all";
    const tools = make(body, "div", { class: "tools" });
    choice(tools, "rows are", "loadLayer", [["all", "layers, last evaluation"], ...(over ? [...Array(layers).keys()].map((l) => [l, `evaluations, layer ${l}`]) : [])], { id: "load-rows" });
    extraTools(body, tools);
    const key = make(tools, "span", { class: "scale-key load-key" }, "¼");
    make(key, "i");
    key.append("4 × an even share");
    const grid = make(body, "div", { class: "heats" });
    const boxes = shown.map((r) => {
      const box = make(grid, "div", { class: "panel", "data-load-setting": T.setting[r] }), head = make(box, "h3");
      make(head, "span", { class: "swatch", style: `color:${colour(T.method[r])}` });
      head.append(lineName({ method: T.method[r], scope: T.scope[r], extra: T.extra[r], scale: T.scale[r] }, shown.map((q) => ({ extra: T.extra[q], scale: T.scale[q] }))) + (T.seed[r] === null ? "" : ` · seed ${T.seed[r]}`) + (guesses(r) ? ` · ⚠ ${GUESSING}` : ""));
      const v = metric(own("max_violation"), r);
      const line = make(box, "p", { class: "heat-numbers" });
      if (known(v)) { line.append("load violation "); make(line, "b", {}, short(v, 2)); }
      return box;
    });
    shown.forEach((r, i) => loadMap(boxes[i], r));
    make(body, "p", { class: "caption" }, `One trial of each router${FACETS.length > 1 ? " at the smallest size" : ""}. ${capital(state.reading)} reading.${settings.length > shown.length ? ` ${settings.length - shown.length} more are not shown; filter by the further axes above.` : ""}`);
  });

// ---- loss of the tokens that each expert sees ----------------------------------------------------------------------
const lossRows = D.ranking.filter((r) => D.expert_loss[r]);
if (lossRows.length) section("expert-loss", "Expert loss", "Loss of the tokens that each expert sees",
  "A thin line is an expert: the loss of its tokens, weighted by the gate. Lines that part are experts with easier and harder text; the thick line is their mean.",
  (body) => {
    const layers = Math.max(...lossRows.map((r) => D.expert_loss[r].shape[0])), tools = make(body, "div", { class: "tools" });
    if (!state.expertLoss) { const best = startHeat().map((r) => lossRows.includes(r) ? r : lossRows.find((q) => T.setting[q] === T.setting[r])).filter((r) => r !== undefined); state.expertLoss = unique([...best, ...lossRows]).slice(0, 3); }
    if (layers > 1) choice(tools, "layer", "expertLayer", [...Array(layers).keys()].map((l) => [l, String(l)]), { id: "expert-layer" });
    const grid = make(body, "div", { class: "panels" });
    grid.style.gridTemplateColumns = `repeat(${state.expertLoss.length}, minmax(0, 1fr))`;
    const read = (row) => { const entry = D.expert_loss[row]; return unpack(entry[state.reading] || entry.training || entry.greedy, Float32Array); };
    const chosenRows = state.expertLoss.map((row) => {
      const [count, experts] = D.expert_loss[row].shape, steps = D.expert_loss[row].steps, values = read(row), layer = Math.min(Number(state.expertLayer), count - 1);
      return { row, experts, steps, layer, at: (t, e) => values[(t * count + layer) * experts + e] };
    });
    const skip = (c) => c.steps.length > 3 ? 1 : 0;
    const every = chosenRows.flatMap((c) => c.steps.flatMap((_, t) => t < skip(c) ? [] : [...Array(c.experts).keys()].map((e) => c.at(t, e)))).filter(known);
    if (!every.length) { make(body, "p", { class: "empty" }, "Nothing recorded for this choice."); return; }
    const pad = (Math.max(...every) - Math.min(...every) || .1) * .06, y = [Math.min(...every) - pad, Math.max(...every) + pad];
    const boxes = chosenRows.map((c, slot) => {
      const box = make(grid, "div", { class: "panel" }), select = make(box, "select", { "data-loss-slot": slot, "aria-label": "Trial", style: "width:100%;margin-bottom:8px" });
      for (const r of lossRows) make(select, "option", { value: r, selected: r === c.row ? "" : null }, rowName(r));
      select.addEventListener("change", () => { state.expertLoss[slot] = Number(select.value); redraw(); });
      return box;
    });
    chosenRows.forEach((c, slot) => {
      const area = frame(boxes[slot], { height: 276, right: 14, bottom: 50, y, label: `Loss by expert, layer ${c.layer}` }), tint = colour(T.method[c.row]);
      const x0 = Math.min(...c.steps), x1 = Math.max(...c.steps), x = (v) => area.left + 6 + (x1 > x0 ? (v - x0) / (x1 - x0) : .5) * (area.right - area.left - 12);
      const clip = make(area.svg, "clipPath", { id: `clip-experts-${slot}` });
      make(clip, "rect", { x: area.left, y: area.top - 6, width: area.right - area.left, height: area.bottom - area.top + 8 });
      const inside = make(area.svg, "g", { "clip-path": `url(#clip-experts-${slot})` });
      const thinned = c.steps.length > 6 ? c.steps.filter((_, i) => i % 3 === 0) : c.steps;
      for (const v of thinned) make(area.svg, "text", { x: x(v), y: area.bottom + 20, "text-anchor": "middle" }, String(v));
      make(area.svg, "text", { x: (area.left + area.right) / 2, y: area.bottom + 40, "text-anchor": "middle" }, "step");
      const averages = c.steps.map((_, t) => { const v = [...Array(c.experts).keys()].map((e) => c.at(t, e)).filter(known); return v.length ? mean(v) : null; });
      for (let e = 0; e < c.experts; e++) {
        const points = c.steps.map((step, t) => [step, c.at(t, e)]).filter(([, v]) => known(v)), d = "M" + points.map(([a, b]) => `${x(a)},${area.y(b)}`).join("L");
        if (!points.length) continue;
        const tip_ = `expert ${e}\nloss ${short(points[points.length - 1][1], 4)} at step ${points[points.length - 1][0]}`;
        if (points.length > 1) make(inside, "path", { d, fill: "none", stroke: tint, "stroke-width": 1.2, "stroke-opacity": .45, "data-expert": e, "data-value": points[points.length - 1][1] });
        else make(inside, "circle", { cx: x(points[0][0]), cy: area.y(points[0][1]), r: 3, fill: tint, "fill-opacity": .5, "data-expert": e, "data-value": points[0][1] });
        make(inside, "path", { d, fill: "none", stroke: "transparent", "stroke-width": 7, "data-tip": tip_ });
      }
      const line = c.steps.map((s, t) => [s, averages[t]]).filter(([, v]) => known(v));
      make(inside, "path", { d: "M" + line.map(([a, b]) => `${x(a)},${area.y(b)}`).join("L"), fill: "none", stroke: "var(--ink)", "stroke-width": 2.6, "pointer-events": "none" });
    });
    make(body, "p", { class: "caption" }, `Nats per token at each evaluation, ${state.reading} reading; layer ${state.expertLayer}. The vertical axis leaves out the first evaluation where there are more than three.`);
  });
