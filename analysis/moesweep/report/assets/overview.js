// The answer as figures: purity and utilisation by scope, maps of scope by method, effects with intervals, trade-offs.
// ---- figure: purity and utilisation against scope ------------------------------------------------------------------
const SCALES = unique(rows.map((r) => T.parameters[r]).filter(known)).sort((a, b) => a - b);
const FACETS = SCALES.length ? SCALES : [null];
const inFacet = (row, p) => p === null || T.parameters[row] === p;
function facetTitle(p) {
  if (p === null || FACETS.length < 2) return "";
  return `${times(p / FACETS[0])} · ${size(p)} parameters`;
}
const EXTRAS = unique(rows.flatMap((r) => Object.keys(T.extra[r])));
for (const axis of EXTRAS) state.extra[axis] = D.start[axis];
const matches = (row) => EXTRAS.every((axis) => T.extra[row][axis] === state.extra[axis]);
function chosen(method, p) {
  const all = rows.filter((r) => isDone(r) && T.method[r] === method && inFacet(r, p));
  const some = all.filter(matches);
  return some.length || SCOPED.includes(method) ? some : all;
}
function extraTools(body, tools = null) {
  if (!EXTRAS.length) return;
  tools = tools || make(body, "div", { class: "tools" });
  for (const axis of EXTRAS) {
    const field = make(tools, "label", {}, axis);
    const select = make(field, "select", { "data-extra": axis });
    for (const value of unique(rows.map((r) => T.extra[r][axis]))) make(select, "option", { value, selected: value === state.extra[axis] ? "" : null }, value);
    select.addEventListener("change", () => { state.extra[axis] = select.value; redraw(); });
  }
}
function trialTip(row, title, value, base) {
  const seed = T.seed[row] === null ? "" : ` · seed ${T.seed[row]}`;
  return `${label(row)}${seed}${noted([row])}\n${title} ${short(value, 4)}${base || ""}\ntrial ${T.id[row]}`;
}

const FIGURES = [["purity_expert", "Expert purity", "how far each expert serves one domain"], ["utilisation", "Utilisation", "how evenly experts are used"]];
function yRange(metricName) {
  const values = rows.filter(isDone).map((r) => metric(own(metricName), r)).filter(known);
  if (!values.length) return [0, 1];
  const low = Math.min(...values), high = Math.max(...values);
  return [Math.min(0, low), Math.max(1.02, high)];
}
function chance(p) {
  if (rows.some((r) => isDone(r) && T.method[r] === "random" && inFacet(r, p))) return null;
  const row = rows.find((r) => isDone(r) && inFacet(r, p) && D.domains[T.domains[r]].length > 1);
  return row === undefined ? null : 1 / D.domains[T.domains[row]].length;
}

/** Names at the lines' ends; panels side by side that hold the same methods name them once, in the last one. */
const endName = (m, narrow) => narrow ? name(m).replace(" router", "") : name(m);
const methodsIn = (metricName, p) => D.methods.filter((m) => chosen(m, p).some((r) => known(metric(own(metricName), r))));
function scopePanel(parent, metricName, title, p, named = true) {
  const id = own(metricName);
  const flat = D.methods.filter((m) => !SCOPED.includes(m));
  const scopes = D.scopes.filter((s) => rows.some((r) => isDone(r) && T.scope[r] === s));
  const narrow = parent.clientWidth < 430 || FACETS.length > 1, say = (m) => endName(m, narrow);
  const area = frame(parent, { height: metricName === "utilisation" && FACETS.length > 1 ? 250 : 330, bottom: narrow ? 46 : 34, right: named ? labelRoom(methodsIn(metricName, p).map(say), Math.max(190, parent.clientWidth), .5) : 14, y: yRange(metricName), label: `${title} against balancing scope ${facetTitle(p)}` });
  const x = (i) => area.left + (area.right - area.left) * (scopes.length === 1 ? .5 : .1 + .8 * i / (scopes.length - 1));
  const tight = (area.right - area.left) / scopes.length < 95;
  scopes.forEach((s, i) => (tight ? words(s).split(/[ -]/) : [words(s)]).forEach((part, k) => make(area.svg, "text", { class: "head", x: x(i), y: area.bottom + 20 + 15 * k, "text-anchor": "middle" }, part)));
  make(area.svg, "line", { class: "axis", x1: area.left, x2: area.right, y1: area.bottom, y2: area.bottom });
  const labels = [];
  for (const method of flat) {
    const list = chosen(method, p).filter((r) => known(metric(id, r)));
    if (!list.length) continue;
    const values = list.map((r) => metric(id, r)), m = mean(values), s = spread(values);
    if (s) make(area.svg, "rect", { x: area.left, width: area.right - area.left, y: area.y(m + s), height: Math.max(.5, area.y(m - s) - area.y(m + s)), fill: colour(method), opacity: .12 });
    make(area.svg, "line", { x1: area.left, x2: area.right, y1: area.y(m), y2: area.y(m), stroke: colour(method), "stroke-width": 1.8, "stroke-dasharray": method === "random" ? "5 4" : method === "none" ? "1.5 3.5" : null, "stroke-linecap": "round", "data-method": method, "data-metric": id, "data-value": m });
    make(area.svg, "line", { x1: area.left, x2: area.right, y1: area.y(m), y2: area.y(m), stroke: "transparent", "stroke-width": 12, "data-tip": `${name(method)}\n${title} ${short(m, 4)}${s === null ? "" : " ± " + short(s, 4)} (${values.length} ${values.length === 1 ? "seed" : "seeds"})${noted(list)}` });
    labels.push({ y: area.y(m), colour: colour(method), text: say(method) + flag(list) });
  }
  const even = metricName === "purity_expert" ? chance(p) : null;
  if (even) {
    make(area.svg, "line", { x1: area.left, x2: area.right, y1: area.y(even), y2: area.y(even), stroke: "var(--random)", "stroke-dasharray": "5 4", "stroke-width": 1.6 });
    labels.push({ y: area.y(even), colour: "var(--random)", text: "chance" });
  }
  SCOPED.slice().sort((a, b) => D.methods.indexOf(a) - D.methods.indexOf(b)).forEach((method, k, all) => {
    const shift = (k - (all.length - 1) / 2) * 7;
    const line = [];
    scopes.forEach((s, i) => {
      const list = chosen(method, p).filter((r) => T.scope[r] === s && known(metric(id, r)));
      if (!list.length) return;
      const values = list.map((r) => metric(id, r)), m = mean(values), sd = spread(values);
      line.push([x(i) + shift, area.y(m), m, sd, values.length, s, list]);
      list.forEach((r, j) => mark(area.svg, method, x(i) + shift + (list.length < 2 ? 0 : (j / (list.length - 1) - .5) * 16), area.y(values[j]), 3, { fill: colour(method), "fill-opacity": .35, "data-trial": T.id[r], "data-metric": id, "data-value": values[j], "data-tip": trialTip(r, title, values[j]) }));
    });
    if (!line.length) return;
    for (let i = 1; i < line.length; i++) {
      const [a, b] = [line[i - 1], line[i]], skips = scopes.indexOf(b[5]) - scopes.indexOf(a[5]) > 1;
      const drawn = make(area.svg, "path", { d: `M${a[0]},${a[1]}L${b[0]},${b[1]}`, fill: "none", stroke: colour(method), "stroke-width": skips ? 1.4 : 2.4, "stroke-linecap": "round", "stroke-dasharray": skips ? "2 5" : null });
      area.svg.insertBefore(drawn, area.svg.querySelector("[data-trial]"));
    }
    for (const [a, b, m, sd, n, s, list] of line) mark(area.svg, method, a, b, 5.5, { fill: colour(method), stroke: "var(--paper)", "stroke-width": 1.5, "data-method": method, "data-scope": s, "data-metric": id, "data-value": m, "data-tip": `${words(method)} · ${words(s)}\n${title} ${short(m, 4)}${sd === null ? "" : " ± " + short(sd, 4)} (${n} ${n === 1 ? "seed" : "seeds"})${noted(list)}` });
    const last = line[line.length - 1];
    labels.push({ y: last[1], colour: colour(method), text: words(method) + flag(line.flatMap((l) => l[6])) });
  });
  if (named) endLabels(area, labels, area.right);
}

function settingPanel(parent, metricName, title, p) {
  const id = own(metricName);
  const settings = unique(D.ranking.filter((r) => isDone(r) && inFacet(r, p) && known(metric(id, r))).map((r) => T.setting[r])).slice(0, 40);
  if (!settings.length) { make(parent, "p", { class: "empty" }, `No finished trial recorded ${title.toLowerCase()}.`); return; }
  const width = Math.max(260, parent.clientWidth), height = 34 + settings.length * 26, left = Math.min(260, width * .42), right = width - 16;
  const range = yRange(metricName), x = (v) => left + (v - range[0]) / (range[1] - range[0]) * (right - left);
  const svg = make(parent, "svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": title });
  const list = ticks(range[0], range[1], 4);
  for (const v of list) {
    make(svg, "line", { class: "gridline", x1: x(v), x2: x(v), y1: 4, y2: height - 28 });
    make(svg, "text", { x: x(v), y: height - 10, "text-anchor": "middle" }, tickText(v, list));
  }
  settings.forEach((setting, i) => {
    const mine = rows.filter((r) => isDone(r) && T.setting[r] === setting && known(metric(id, r)));
    const y = 16 + i * 26, values = mine.map((r) => metric(id, r)), m = mean(values), method = T.method[mine[0]];
    const text = fullLabel(mine), shown = label(mine[0]), room = Math.floor(left / 7.2) - (flag(mine) ? 2 : 0);
    make(svg, "text", { class: "head", x: left - 12, y: y + 4, "text-anchor": "end" }, (shown.length > room ? shown.slice(0, room - 1) + "…" : shown) + flag(mine));
    make(svg, "line", { x1: x(range[0]), x2: x(m), y1: y, y2: y, stroke: colour(method), "stroke-opacity": .35, "stroke-width": 2 });
    mine.forEach((r, j) => mark(svg, method, x(values[j]), y, 3, { fill: colour(method), "fill-opacity": .35, "data-trial": T.id[r], "data-metric": id, "data-value": values[j], "data-tip": trialTip(r, title, values[j]) }));
    mark(svg, method, x(m), y, 5.5, { fill: colour(method), stroke: "var(--paper)", "stroke-width": 1.5, "data-setting": setting, "data-metric": id, "data-value": m, "data-tip": `${text}\n${title} ${short(m, 4)}${values.length > 1 ? " ± " + short(spread(values), 4) : ""} (${values.length})` });
  });
}

const withScope = rows.some((r) => isDone(r) && T.scope[r] !== null);
if (rows.some(isDone)) section("scope", withScope ? "Scope" : "Settings", withScope ? "Purity and utilisation against balancing scope" : "Purity and utilisation by setting",
  withScope && FACETS.length > 1 ? `The same study at ${FACETS.length} sizes; each column holds one, with its total parameters over the smallest.` : null,
  (body) => {
    extraTools(body);
    const grid = make(body, "div", { class: "panels" });
    const columns = FACETS.length > 1 ? Math.min(FACETS.length, 3) : 2;
    const alike = withScope && FACETS.length > 1 && FACETS.length <= 3 && innerWidth > 720 && FIGURES.every(([id]) => FACETS.every((p) => String(methodsIn(id, p)) === String(methodsIn(id, FACETS[0])))) && FACETS.every((p) => chance(p) === null);
    const room = alike ? labelRoom(methodsIn(FIGURES[0][0], FACETS[0]).map((m) => endName(m, true)), body.clientWidth) - 14 : 0, plot = (body.clientWidth - 28 * (columns - 1) - room) / columns;
    grid.style.gridTemplateColumns = alike ? [...Array(columns).keys()].map((i) => `minmax(0, ${Math.round(i < columns - 1 ? plot : plot + room)}fr)`).join(" ") : `repeat(${columns}, minmax(0, 1fr))`;
    const draws = [];
    for (const [id, title, meaning] of FIGURES) for (const p of FACETS) {
      const panel = make(grid, "div", { class: "panel", "data-figure": id, "data-parameters": p });
      const head = make(panel, "h3", {}, title + " ");
      make(head, "small", {}, (body.clientWidth / columns < 320 ? facetTitle(p).replace(" parameters", "") : facetTitle(p)) || meaning);
      draws.push(() => (withScope ? scopePanel : settingPanel)(panel, id, title, p, !alike || p === FACETS[FACETS.length - 1]));
    }
    draws.forEach((draw) => draw());
    make(body, "p", { class: "caption" }, (withScope ? "Small marks are seeds, large ones their mean; a band is the spread over seeds (sample standard deviation). Routers without a scope are lines across; a thin dotted line skips a scope without a result. " : "Small marks are seeds, large ones their mean. ") + "Last evaluation, mean over layers, " + state.reading + " reading." + explained(rows.filter(isDone)));
  });

// ---- figure: scope by method ---------------------------------------------------------------------------------------
function scopeMap(parent, id, p) {
  const key = own(id), scopes = D.scopes.filter((s) => rows.some((r) => isDone(r) && T.scope[r] === s));
  const cellOf = (method, s) => {
    const list = chosen(method, p).filter((r) => (s === null || T.scope[r] === s) && known(metric(key, r))), v = list.map((r) => metric(key, r));
    return v.length ? { mean: mean(v), spread: spread(v), count: v.length, method, scope: s, list } : null;
  };
  const lines = D.methods.map((m) => SCOPED.includes(m) ? scopes.map((s) => cellOf(m, s)) : [cellOf(m, null)]).map((cells, i) => ({ method: D.methods[i], cells })).filter((l) => l.cells.some(Boolean));
  const all = lines.flatMap((l) => l.cells).filter(Boolean);
  if (!all.length) { make(parent, "p", { class: "empty" }, "Nothing recorded for this choice."); return; }
  // The reference router is told the domain: it would take the whole range of colours from the others.
  const judged = all.some((c) => c.method !== "reference") ? all.filter((c) => c.method !== "reference") : all, goal = METRICS[id][1];
  const low = Math.min(...judged.map((c) => c.mean)), high = Math.max(...judged.map((c) => c.mean)), width = Math.max(260, parent.clientWidth), narrow = width < 400;
  const left = Math.min(narrow ? 118 : 170, 14 + Math.max(...lines.map((l) => textWidth(narrow ? name(l.method).replace(" router", "") : name(l.method), "12.5px")))), wide = (width - left) / scopes.length, high_ = 38, top = 24, height = top + lines.length * high_ + 4;
  const svg = make(parent, "svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": `${sayMetric(id)} by scope and method` });
  scopes.forEach((s, i) => make(svg, "text", { class: "head", x: left + (i + .5) * wide, y: 14, "text-anchor": "middle", style: narrow ? "font-size:11px" : null }, words(s)));
  const s_ = (i) => scopes[i];
  lines.forEach(({ method, cells }, k) => {
    const y = top + k * high_, text = narrow ? name(method).replace(" router", "") : name(method), shown = fit(text, left - 12, "12.5px");
    make(svg, "text", { x: left - 12, y: y + high_ / 2 + 4.5, "text-anchor": "end", "data-tip": shown === text ? null : text }, shown);
    cells.forEach((c, i) => {
      const x = left + i * wide, w = cells.length === 1 && !SCOPED.includes(method) ? wide * scopes.length : wide;
      if (!c) { make(svg, "rect", { x: x + 1, y: y + 1, width: w - 2, height: high_ - 2, rx: 4, fill: "var(--paper)", stroke: "var(--faint)", "stroke-opacity": .7, "stroke-dasharray": "3 3", "data-missing": s_(i), "data-tip": `${name(method)} · ${words(s_(i))}\nno finished trial with this number` }); make(svg, "text", { x: x + w / 2, y: y + high_ / 2 + 4.5, "text-anchor": "middle", style: "pointer-events:none" }, "none"); return; }
      const rise = high > low ? Math.max(0, Math.min(1, (c.mean - low) / (high - low))) : 0, bound = method === "reference" && judged !== all, share = bound ? 0 : goal > 0 ? rise : 1 - rise;
      make(svg, "rect", { x: x + 1, y: y + 1, width: w - 2, height: high_ - 2, rx: 4, fill: bound ? "var(--paper)" : ramp(.06 + .94 * share), stroke: bound ? "var(--line)" : null, "data-share": share, "data-method": method, "data-scope": c.scope, "data-metric": key, "data-value": c.mean, "data-tip": `${name(method)}${c.scope ? " · " + words(c.scope) : ""}\n${sayMetric(id)} ${showMetric(id, c.mean)}${c.spread === null ? "" : " ± " + showMetric(id, c.spread)} (${c.count} ${c.count === 1 ? "seed" : "seeds"})${noted(c.list)}` });
      make(svg, "text", { x: x + w / 2, y: y + high_ / 2 + 4.5, "text-anchor": "middle", style: `pointer-events:none;font-weight:600;fill:${share > .55 ? "var(--on-strong)" : "var(--ink)"}` }, showMetric(id, c.mean) + (c.spread !== null && w > 124 ? " ± " + (id === "tokens_per_second" ? showMetric(id, c.spread) : fixed(c.spread, METRICS[id][2])) : "") + (c.scope === null && w > 200 ? "  (no scope)" : "") + flag(c.list));
    });
  });
}
if (withScope) section("maps", "Map", "Scope by method", null, (body) => {
  const ids = recorded();
  if (!ids.length) { make(body, "p", { class: "empty" }, "No metric differs between trials."); return; }
  const tools = make(body, "div", { class: "tools" });
  if (FACETS.length > 1) {
    if (state.size === null) state.size = String(FACETS[FACETS.length - 1]);
    choice(tools, "size", "size", FACETS.map((p) => [p, facetTitle(p)]), { id: "map-size" });
  }
  extraTools(body, tools);
  if (!tools.children.length) tools.remove();
  const grid = make(body, "div", { class: "panels" });
  grid.style.gridTemplateColumns = "repeat(2, minmax(0, 1fr))";
  const draws = state.maps.map((wanted, i) => {
    const id = ids.includes(wanted) ? wanted : ids[Math.min(i, ids.length - 1)], panel = make(grid, "div", { class: "panel", "data-map": id });
    const select = make(make(panel, "div", { class: "tools" }), "select", { "aria-label": "Metric", "data-map-slot": i });
    for (const m of ids) make(select, "option", { value: m, selected: m === id ? "" : null }, capital(sayMetric(m)) + (METRIC_UNITS[m] ? `, ${METRIC_UNITS[m]}` : ""));
    select.addEventListener("change", () => { state.maps[i] = select.value; redraw(); });
    return () => scopeMap(panel, id, FACETS.length > 1 ? Number(state.size) : FACETS[0]);
  });
  draws.forEach((draw) => draw());
  make(body, "p", { class: "caption" }, `Means over seeds ± the spread over seeds. The stronger the colour, the better within a map; the reference router, a bound, has none. Routers without a scope fill a line. Last evaluation, ${state.reading} reading.${explained(rows.filter(isDone))}`);
});

// ---- figure: effects with intervals --------------------------------------------------------------------------------
const KINDS = [["scope", "scope, within a method"], ["method", "router"], ["axis", "other axes"]].filter(([k]) => D.contrasts.some((c) => c.kind === k));
if (KINDS.length) section("effects", "Effects", "What moves the numbers, and how surely", null, (body) => {
  if (!KINDS.some(([k]) => k === state.kind)) state.kind = KINDS[0][0];
  const tools = make(body, "div", { class: "tools" });
  if (KINDS.length > 1) choice(tools, "effect of", "kind", KINDS, { id: "effect-kind" });
  const ids = Object.keys(METRICS).filter((id) => D.contrasts.some((c) => c.kind === state.kind && c.metrics[own(id)]));
  const id = ids.includes(state.effect) ? state.effect : ids[0], key = own(id);
  const select = make(make(tools, "label", {}, "on"), "select", { id: "effect-metric" });
  for (const m of ids) make(select, "option", { value: m, selected: m === id ? "" : null }, sayMetric(m));
  select.addEventListener("change", () => { state.effect = select.value; redraw(); });
  if (state.kind !== "axis") extraTools(body, tools);
  const fits = (c) => c.kind === state.kind && c.metrics[key] && (c.kind === "axis" || Object.entries(c.extra).every(([axis, v]) => state.extra[axis] === v || (c.scope === null && axis.startsWith("routing.balance."))));
  const at = (list, v) => { const i = list.indexOf(v); return i < 0 ? list.length : i; };
  let mine = D.contrasts.filter(fits);
  mine.sort((a, b) => a.kind === "axis" ? 0 : at(D.methods, a.method) - at(D.methods, b.method) || at(D.scopes, a.scope) - at(D.scopes, b.scope) || (a.parameters || 0) - (b.parameters || 0));
  const beyond = mine.length - 48;
  mine = mine.slice(0, 48);
  if (!mine.length) { make(body, "p", { class: "empty" }, "No pair of seeds for this choice."); return; }
  const width = Math.max(260, body.clientWidth), narrow = width < 640;
  const says = (c) => {
    const sized = FACETS.length > 1 && known(c.scale) ? " · " + times(c.scale) : "";
    if (c.kind === "axis") return c.axis === "parameters" ? `size ×1 → ${times(Number(c.value) / Number(c.baseline))}` : `${(narrow ? c.axis.split(".").pop() : c.axis)}: ${c.baseline} → ${c.value}`;
    if (c.kind === "method") return name(c.method) + (c.scope ? " · " + words(c.scope) : "") + sized;
    return (narrow ? `${words(c.method)} · ${words(c.scope)}` : `${words(c.method)} · ${words(c.baseline)} → ${words(c.scope)}`) + sized;
  };
  const say = (c) => says(c) + (c.warned ? " ⚠" : "");
  const row = narrow ? 42 : 28, left = narrow ? 12 : Math.min(width * .4, 24 + Math.max(...mine.map((c) => textWidth(say(c), "13px")))), height = 62 + mine.length * row;
  const numbers = mine.map((c) => c.metrics[key]);
  const ends = numbers.flatMap(([m, l, h, v]) => [0, m, l, h, ...v]).filter(known);
  const most = Math.max(...ends.map(Math.abs)), digits = Math.min(6, Math.max(METRICS[id][2], most > 0 ? 1 - Math.floor(Math.log10(most)) : 0));
  const diff = (v) => (v > 0 ? "+" : "") + (id === "tokens_per_second" ? showMetric(id, v) : fixed(v, digits));
  const interval = ([m, l, h, v]) => `${diff(m)}${known(l) ? `  (${diff(l)} to ${diff(h)})` : v.length === 1 ? "  (1 pair of seeds)" : ""}`;
  const right = width - (narrow ? 12 : 20 + Math.max(...numbers.map((n) => textWidth(interval(n), "12.5px"))));
  const list = ticks(Math.min(...ends), Math.max(...ends), narrow ? 3 : 6), low = Math.min(Math.min(...ends), list[0]), high = Math.max(Math.max(...ends), list[list.length - 1]);
  const x = (v) => left + (v - low) / (high - low || 1) * (right - left);
  const svg = make(body, "svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": `Differences in ${sayMetric(id)}` });
  for (const v of list) {
    make(svg, "line", { class: "gridline", x1: x(v), x2: x(v), y1: 6, y2: height - 50, style: v === 0 ? "stroke:var(--soft);stroke-width:1.5" : null, "data-zero": v === 0 ? 1 : null });
    make(svg, "text", { x: x(v), y: height - 32, "text-anchor": "middle" }, (v > 0 ? "+" : "") + tickText(v, list));
  }
  const side = METRICS[id][1] > 0 ? "better →" : "← better";
  make(svg, "text", { class: "head", x: (left + right) / 2, y: height - 8, "text-anchor": "middle" }, fit(METRICS[id][1] > 0 ? `difference in ${sayMetric(id)}${METRIC_UNITS[id] ? ", " + METRIC_UNITS[id] : ""}\u2003${side}` : `${side}\u2003difference in ${sayMetric(id)}${METRIC_UNITS[id] ? ", " + METRIC_UNITS[id] : ""}`, width, "13px"));
  mine.forEach((c, i) => {
    const y = narrow ? 36 + i * row : 20 + i * row, method = c.method || "", [m, l, h, values] = numbers[i], tint = method ? colour(method) : "var(--accent)";
    const text = say(c), own_ = interval(numbers[i]), shown = fit(text, narrow ? width - textWidth(own_, "12.5px") - 14 : left - 14, "13px");
    make(svg, "text", { class: "head", x: narrow ? 0 : left - 14, y: narrow ? y - 13 : y + 4, "text-anchor": narrow ? "start" : "end", style: "paint-order:stroke;stroke:var(--paper);stroke-width:4px", "data-tip": shown === text ? null : text }, shown);
    if (known(l)) make(svg, "line", { x1: x(l), x2: x(h), y1: y, y2: y, stroke: tint, "stroke-width": 6, "stroke-opacity": .3, "stroke-linecap": "round" });
    for (const v of values) mark(svg, method, x(v), y, 2.5, { fill: tint, "fill-opacity": .5 });
    mark(svg, method, x(m), y, 5.5, { fill: tint, stroke: "var(--paper)", "stroke-width": 1.5, "data-effect": c.kind === "axis" ? `${c.axis}/${c.value}` : `${c.method}/${c.scope}`, "data-kind": c.kind, "data-metric": key, "data-value": m, "data-tip": `${say(c)}\n${c.kind === "axis" ? "" : `minus ${c.kind === "method" ? name(c.baseline) : words(c.baseline)}: `}${diff(m)}${known(l) ? ` (${diff(l)} to ${diff(h)})` : ""}${values.length ? `, ${values.length} ${values.length === 1 ? "pair" : "pairs"} of seeds` : c.cells ? `, mean of ${c.cells} ${c.cells === 1 ? "combination" : "combinations"} of the other axes` : ""}${c.warned ? `\n⚠ ${c.warned} of ${c.trials} trials compared are ${GUESSING}` : ""}` });
    make(svg, "text", { x: narrow ? width : right + 16, y: narrow ? y - 13 : y + 4, "text-anchor": narrow ? "end" : "start" }, own_);
  });
  const what = { scope: "from the smallest scope of the same method", method: `from ${name(mine[0].baseline)}`, axis: "from the axis' first value, among trials alike in all else" }[state.kind];
  make(body, "p", { class: "caption" }, `Difference in ${sayMetric(id)} ${what}, paired by seed (small marks), with a 95 % bootstrap interval over seeds; with three seeds it is their range. ${capital(state.reading)} reading.${beyond > 0 ? ` ${beyond} more comparisons are in the exported tables.` : ""}${mine.some((c) => c.warned) ? ` ⚠: trials among them are ${GUESSING}.` : ""}`);
});

// ---- figure: trade-offs --------------------------------------------------------------------------------------------
const DONE_SETTINGS = unique(D.ranking.filter(isDone).map((r) => T.setting[r]));
if (DONE_SETTINGS.length > 1 && recorded().length > 1) section("tradeoffs", "Trade-offs", "What can be had together", null, (body) => {
  const ids = recorded();
  for (const [k, other] of [["x", "y"], ["y", "x"]]) if (!ids.includes(state[k])) state[k] = ids.find((m) => m !== state[other]);
  const tools = make(body, "div", { class: "tools" });
  for (const [k, text] of [["y", "show"], ["x", "against"]]) choice(tools, text, k, ids.map((m) => [m, sayMetric(m)]), { id: `trade-${k}` });
  let crowd_ = false;
  const kx = own(state.x), ky = own(state.y), gx = METRICS[state.x][1], gy = METRICS[state.y][1];
  const points = DONE_SETTINGS.map((s) => {
    const mine = rows.filter((r) => isDone(r) && T.setting[r] === s && known(metric(kx, r)) && known(metric(ky, r)));
    return mine.length ? { s, rows: mine, method: T.method[mine[0]], scope: T.scope[mine[0]], extra: T.extra[mine[0]], scale: T.scale[mine[0]], x: mean(mine.map((r) => metric(kx, r))), y: mean(mine.map((r) => metric(ky, r))) } : null;
  }).filter(Boolean);
  if (crowd_ = points.length > 60) {
    const legend = make(body, "div", { class: "tools legend" });
    for (const m of D.methods.filter((m) => points.some((p) => p.method === m))) {
      const entry = make(legend, "span"), icon = make(entry, "svg", { viewBox: "0 0 14 14", width: 14, height: 14, "aria-hidden": "true" });
      mark(icon, m, 7, 7, 4.6, { fill: colour(m) });
      entry.append(name(m));
    }
  }
  if (points.length < 2) { make(body, "p", { class: "empty" }, "Nothing recorded for this choice."); return; }
  const free = points.filter((p) => p.method !== "reference");
  const beats = (a, b) => a.x * gx >= b.x * gx && a.y * gy >= b.y * gy && (a.x !== b.x || a.y !== b.y);
  const best = free.filter((p) => !free.some((q) => beats(q, p))).sort((a, b) => a.x - b.x);
  const pad = (v) => { const lo = Math.min(...v), hi = Math.max(...v), d = (hi - lo || Math.abs(hi) || 1) * .07; return [lo - d, hi + d]; };
  const crowd = crowd_;
  const reach = (p, key, v) => { const sd = crowd ? 0 : spread(p.rows.map((r) => metric(key, r))) || 0; return [v - sd, v + sd]; };
  const [x0, x1] = pad(points.flatMap((p) => reach(p, kx, p.x))), ys = pad(points.flatMap((p) => reach(p, ky, p.y)));
  const narrow = body.clientWidth < 640;
  const area = frame(body, { height: narrow ? 340 : 430, left: state.y === "tokens_per_second" ? 64 : 52, right: narrow ? 16 : 24, top: 26, bottom: 52, y: ys, label: `${sayMetric(state.y)} against ${sayMetric(state.x)}` });
  const x = (v) => area.left + (v - x0) / (x1 - x0) * (area.right - area.left), list = ticks(x0, x1, narrow ? 3 : 6).filter((v) => v >= x0 && v <= x1);
  for (const v of list) {
    make(area.svg, "line", { class: "gridline", x1: x(v), x2: x(v), y1: area.top, y2: area.bottom });
    make(area.svg, "text", { x: x(v), y: area.bottom + 20, "text-anchor": "middle" }, tickText(v, list));
  }
  make(area.svg, "text", { class: "head", x: area.right, y: area.bottom + 42, "text-anchor": "end" }, (gx < 0 ? "← " : "") + sayMetric(state.x) + (METRIC_UNITS[state.x] ? `, ${METRIC_UNITS[state.x]}` : "") + (gx > 0 ? " →" : ""));
  make(area.svg, "text", { class: "head", x: 0, y: 12 }, (gy > 0 ? "↑ " : "↓ ") + sayMetric(state.y) + (METRIC_UNITS[state.y] ? `, ${METRIC_UNITS[state.y]}` : ""));
  if (best.length > 1) {
    // A staircase: what lies behind it is beaten in both.
    let d = "";
    best.forEach((p, i) => { d += i ? (gx < 0 ? `H${x(p.x)}V${area.y(p.y)}` : `V${area.y(p.y)}H${x(p.x)}`) : `M${x(p.x)},${area.y(p.y)}`; });
    make(area.svg, "path", { d, fill: "none", stroke: "var(--faint)", "stroke-width": 1.5, "stroke-dasharray": "4 4" });
  }
  if (!crowd) for (const p of points) {
    const sx = spread(p.rows.map((r) => metric(kx, r))), sy = spread(p.rows.map((r) => metric(ky, r)));
    const bar = (d) => make(area.svg, "path", { d, stroke: colour(p.method), "stroke-width": 1.4, "stroke-opacity": .4 });
    if (sx) bar(`M${x(p.x - sx)},${area.y(p.y)}H${x(p.x + sx)}`);
    if (sy) bar(`M${x(p.x)},${area.y(p.y - sy)}V${area.y(p.y + sy)}`);
  }
  for (const p of points) {
    const on = best.includes(p);
    mark(area.svg, p.method, x(p.x), area.y(p.y), on ? 7 : crowd ? 4 : 5.5, { fill: colour(p.method), "fill-opacity": crowd && !on ? .55 : 1, stroke: on ? "var(--ink)" : "var(--paper)", "stroke-width": on ? 2 : 1.2, "data-setting": p.s, "data-front": on ? 1 : null, "data-x": p.x, "data-y": p.y, "data-tip": `${fullLabel(p.rows)}${FACETS.length > 1 && known(p.scale) ? " · " + times(p.scale) : ""}\n${sayMetric(state.x)} ${showMetric(state.x, p.x)}\n${sayMetric(state.y)} ${showMetric(state.y, p.y)}${on ? "\non the front" : ""}` });
  }
  const named = unique([...best, ...points.filter((p) => points.length <= 12 || ["reference", "random", "none"].includes(p.method))]).filter((p, i, all) => all.length < 14 || best.includes(p)).slice(0, 14).sort((a, b) => area.y(a.y) - area.y(b.y));
  const boxes = points.map((p) => [x(p.x) - 8, area.y(p.y) - 8, 16, 16]);
  const free_ = (b) => b[0] > area.left && b[0] + b[2] < area.right + 16 && b[1] > area.top - 14 && b[1] + b[3] < area.bottom && !boxes.some((o) => b[0] < o[0] + o[2] && o[0] < b[0] + b[2] && b[1] < o[1] + o[3] && o[1] < b[1] + b[3]);
  const said = new Set();
  for (const p of named) {
    const text = fit(crowd ? [name(p.method), p.scope && words(p.scope), FACETS.length > 1 && known(p.scale) && times(p.scale)].filter(Boolean).join(" · ") : lineName(p, points), area.width * .4) + (crowd ? flag(p.rows) : ""), w = textWidth(text) + 2, px = x(p.x), py = area.y(p.y);
    const spot = [[px + 12, py - 8], [px - 12 - w, py - 8], [px - w / 2, py - 25], [px - w / 2, py + 9], [px + 9, py - 22], [px + 9, py + 6], [px - 9 - w, py - 22], [px - 9 - w, py + 6]].find(([a, b]) => free_([a, b, w, 16]));
    if (!spot || said.has(text)) continue;
    said.add(text);
    boxes.push([spot[0], spot[1], w, 16]);
    make(area.svg, "text", { class: "label", x: spot[0], y: spot[1] + 12.5, style: `fill:${colour(p.method)}` }, text);
  }
  const wins = D.front.settings.map((s) => rows.find((r) => isDone(r) && T.setting[r] === s)).filter((r) => r !== undefined);
  make(body, "p", { class: "caption" }, `Marks are means over seeds${crowd ? "" : ", bars the spread over seeds"}. Ringed: no other router is as good in both and better in one; the reference router, which is told the domain, is left out. ${capital(state.reading)} reading.${explained(points.flatMap((p) => p.rows))}`);
  if (wins.length && D.front.objectives.length > 2) {
    const p = make(body, "p", { class: "caption", id: "front" }, `Beaten by none in ${D.front.objectives.map((m) => m === "greedy.loss" ? "greedy loss" : sayMetric(m)).join(", ").replace(/, ([^,]*)$/, " and $1")} at once: `);
    make(p, "b", { "data-front": D.front.settings.join(" ") }, `${wins.length} of ${DONE_SETTINGS.length} settings`);
    p.append(" – " + wins.slice(0, 5).map((r) => fullLabel(rows.filter((q) => isDone(q) && T.setting[q] === T.setting[r])) + (FACETS.length > 1 && known(T.scale[r]) ? " · " + times(T.scale[r]) : "")).join("; ") + (wins.length > 5 ? `; and ${wins.length - 5} more.` : "."));
  }
});
