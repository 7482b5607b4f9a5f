// Draws the report from the JSON block of the page: figures as SVG, tables, and what moves them. No library, no request.
"use strict";
(() => {
  const D = JSON.parse(document.getElementById("data").textContent);
  const T = D.trials, N = T.id.length;
  const rows = [...Array(N).keys()];
  const state = { reading: "training", extra: {}, chips: null, relative: false, heat: null, heatLayer: null, sort: null, ascending: true, words: "", only: "", means: false, open: new Set() };

  // ---- small tools ---------------------------------------------------------------------------------------------------
  const SVG = "http://www.w3.org/2000/svg";
  function make(parent, tag, attributes = {}, text) {
    const node = parent.namespaceURI === SVG || tag === "svg" ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== undefined) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  }
  const known = (x) => typeof x === "number" && Number.isFinite(x);
  const mean = (v) => v.reduce((a, b) => a + b, 0) / v.length;
  const spread = (v) => v.length < 2 ? null : Math.sqrt(v.reduce((a, b) => a + (b - mean(v)) ** 2, 0) / (v.length - 1));
  const unique = (v) => [...new Set(v)];
  function short(x, digits = 3) {
    if (!known(x)) return "–";
    if (x !== 0 && Math.abs(x) < 0.5 * 10 ** -digits) return (Math.abs(x) < 0.5 * 10 ** (-digits - 2) ? x.toExponential(1) : x.toFixed(digits + (Math.abs(x) < 0.5 * 10 ** (-digits - 1) ? 2 : 1))).replace("-", "−");
    return x.toFixed(digits).replace("-", "−");
  }
  const signed = (x, digits = 3) => known(x) && x > 0 ? "+" + short(x, digits) : short(x, digits);
  function size(p) {
    for (const [limit, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) if (p >= limit) return (p / limit).toPrecision(3).replace(/\.?0+$/, "") + " " + unit;
    return String(p);
  }
  const times = (s) => "×" + Number(s.toPrecision(3));
  const own = (name) => state.reading === "greedy" && D.metrics["greedy." + name] ? "greedy." + name : name;
  const metric = (name, row) => D.metrics[name] ? D.metrics[name][row] : null;
  const words = (s) => s === null || s === undefined ? "" : String(s).replaceAll("micro_batch", "micro-batch").replaceAll("_", " ");
  const label = (row) => words(T.method[row] === "none" ? T.label[row].replace(/^none/, "no balancing") : T.label[row]);
  const isDone = (row) => T.state[row] === "done";

  const SCOPED = unique(rows.filter((r) => T.scope[r] !== null).map((r) => T.method[r]));
  const COLOURED = D.methods.filter((m) => !["none", "reference", "random"].includes(m));
  function colour(method) {
    if (method === "none") return "var(--none)";
    if (method === "reference") return "var(--reference)";
    if (method === "random") return "var(--random)";
    return `var(--c${COLOURED.indexOf(method) % 8})`;
  }
  const SHAPES = ["circle", "diamond", "square", "triangle"];
  const DASHES = ["", "7 4", "2 3", "9 3 2 3"];
  function name(method) {
    return { reference: "reference router", random: "random router", none: "no balancing" }[method] || words(method);
  }
  function mark(parent, method, x, y, r, attributes) {
    const shape = SHAPES[Math.max(0, COLOURED.indexOf(method)) % 4];
    if (shape === "circle") return make(parent, "circle", { cx: x, cy: y, r, ...attributes });
    const points = { diamond: [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]], square: [[-1, -1], [1, -1], [1, 1], [-1, 1]], triangle: [[0, -1.25], [1.2, 0.95], [-1.2, 0.95]] }[shape];
    return make(parent, "polygon", { points: points.map(([a, b]) => `${x + a * r},${y + b * r}`).join(" "), ...attributes });
  }
  function ticks(low, high, count = 5) {
    const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
    const first = Math.ceil(low / step - 1e-9), list = [];
    for (let i = first; i * step <= high + step * 1e-6; i++) list.push(Number((i * step).toPrecision(12)));
    return list;
  }
  const tickText = (value, list) => {
    const step = list.length > 1 ? Math.abs(list[1] - list[0]) : 1;
    return value.toFixed(Math.min(6, Math.max(0, -Math.floor(Math.log10(step) + 1e-9) + (/[^0]5$/.test(String(step)) && String(step).includes("2") ? 1 : 0)))).replace("-", "−");
  };
  /** Moves labels apart: wanted positions in, positions at least `gap` apart and inside [low, high] out. */
  function apart(wanted, gap, low, high) {
    const order = wanted.map((y, i) => [y, i]).sort((a, b) => a[0] - b[0]);
    const placed = order.map(([y]) => y);
    for (let i = 0; i < placed.length; i++) placed[i] = Math.max(placed[i], i ? placed[i - 1] + gap : low);
    for (let i = placed.length - 1; i >= 0; i--) placed[i] = Math.min(placed[i], i < placed.length - 1 ? placed[i + 1] - gap : high);
    const result = [];
    order.forEach(([, i], k) => { result[i] = placed[k]; });
    return result;
  }

  // ---- tooltips ------------------------------------------------------------------------------------------------------
  const tip = document.getElementById("tip");
  function showTip(text, x, y) {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(8, Math.min(x + 14, innerWidth - box.width - 8)) + "px";
    tip.style.top = (y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18) + "px";
  }
  addEventListener("pointermove", (event) => {
    const node = event.target.closest && event.target.closest("[data-tip]");
    if (node) showTip(node.getAttribute("data-tip"), event.clientX, event.clientY);
    else tip.hidden = true;
  });
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // ---- sections ------------------------------------------------------------------------------------------------------
  const main = document.getElementById("main"), links = document.getElementById("links");
  const redraws = [];
  function section(id, short_title, title, lead, draw) {
    const node = make(main, "section", { id });
    make(node, "h2", {}, title);
    if (lead) make(node, "p", { class: "lead" }, lead);
    const body = make(node, "div", { class: "body" });
    make(links, "a", { href: "#" + id }, short_title);
    const again = () => { body.replaceChildren(); draw(body); };
    redraws.push(again);
    again();
    return again;
  }
  const redraw = () => redraws.forEach((again) => again());

  // ---- frame of a chart: y axis, grid lines, x area ------------------------------------------------------------------
  function frame(parent, { height, left = 46, right = 132, top = 14, bottom = 34, y, label, yTicks }) {
    const width = Math.max(260, parent.clientWidth);
    const svg = make(parent, "svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label });
    const area = { svg, width, height, left, right: width - right, top, bottom: height - bottom };
    area.y = (v) => area.bottom - (v - y[0]) / (y[1] - y[0] || 1) * (area.bottom - area.top);
    const list = ticks(y[0], y[1], yTicks || 5);
    for (const v of list) {
      make(svg, "line", { class: "gridline", x1: left, x2: area.right, y1: area.y(v), y2: area.y(v) });
      make(svg, "text", { x: left - 8, y: area.y(v) + 4, "text-anchor": "end" }, tickText(v, list));
    }
    return area;
  }
  function endLabels(area, labels, x) {
    const placed = apart(labels.map((l) => l.y), 16, area.top - 8, area.bottom);
    labels.forEach((l, i) => {
      if (Math.abs(placed[i] - l.y) > 5) make(area.svg, "path", { d: `M${x - 2},${l.y}L${x + 6},${placed[i]}`, stroke: l.colour, fill: "none", "stroke-opacity": .5 });
      make(area.svg, "text", { class: "label", x: x + 9, y: placed[i] + 4.5, style: `fill:${l.colour}` }, l.text);
    });
  }

  // ---- figure: purity and utilisation against scope ------------------------------------------------------------------
  const SCALES = unique(rows.map((r) => T.parameters[r]).filter(known)).sort((a, b) => a - b);
  const FACETS = SCALES.length ? SCALES : [null];
  const inFacet = (row, p) => p === null || T.parameters[row] === p;
  function facetTitle(p) {
    if (p === null || FACETS.length < 2) return "";
    return `${times(p / FACETS[0])} · ${size(p)} parameters`;
  }
  const EXTRAS = unique(rows.flatMap((r) => Object.keys(T.extra[r])));
  for (const axis of EXTRAS) {
    const count = {};
    for (const r of rows) if (isDone(r) && T.scope[r] !== null) count[T.extra[r][axis]] = (count[T.extra[r][axis]] || 0) + 1;
    const best = Object.keys(count).sort((a, b) => count[b] - count[a]);
    state.extra[axis] = best.length ? best[0] : T.extra[rows[0]][axis];
  }
  const matches = (row) => EXTRAS.every((axis) => T.extra[row][axis] === state.extra[axis]);
  function chosen(method, p) {
    const all = rows.filter((r) => isDone(r) && T.method[r] === method && inFacet(r, p));
    const some = all.filter(matches);
    return some.length || SCOPED.includes(method) ? some : all;
  }
  function extraTools(body) {
    if (!EXTRAS.length) return;
    const tools = make(body, "div", { class: "tools" });
    for (const axis of EXTRAS) {
      const field = make(tools, "label", {}, axis);
      const select = make(field, "select", { "data-extra": axis });
      for (const value of unique(rows.map((r) => T.extra[r][axis]))) make(select, "option", { value, selected: value === state.extra[axis] ? "" : null }, value);
      select.addEventListener("change", () => { state.extra[axis] = select.value; redraw(); });
    }
  }
  function trialTip(row, title, value, base) {
    const seed = T.seed[row] === null ? "" : ` · seed ${T.seed[row]}`;
    return `${label(row)}${seed}\n${title} ${short(value, 4)}${base || ""}\ntrial ${T.id[row]}`;
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

  function scopePanel(parent, metricName, title, p) {
    const id = own(metricName);
    const flat = D.methods.filter((m) => !SCOPED.includes(m));
    const scopes = D.scopes.filter((s) => rows.some((r) => isDone(r) && T.scope[r] === s));
    const narrow = parent.clientWidth < 430;
    const area = frame(parent, { height: metricName === "utilisation" && FACETS.length > 1 ? 250 : 330, bottom: narrow ? 46 : 34, right: narrow ? 96 : 132, y: yRange(metricName), label: `${title} against balancing scope ${facetTitle(p)}` });
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
      make(area.svg, "line", { x1: area.left, x2: area.right, y1: area.y(m), y2: area.y(m), stroke: "transparent", "stroke-width": 12, "data-tip": `${name(method)}\n${title} ${short(m, 4)}${s === null ? "" : " ± " + short(s, 4)} (${values.length} ${values.length === 1 ? "seed" : "seeds"})` });
      labels.push({ y: area.y(m), colour: colour(method), text: narrow ? name(method).replace(" router", "") : name(method) });
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
        line.push([x(i) + shift, area.y(m), m, sd, values.length, s]);
        list.forEach((r, j) => mark(area.svg, method, x(i) + shift + (list.length < 2 ? 0 : (j / (list.length - 1) - .5) * 16), area.y(values[j]), 3, { fill: colour(method), "fill-opacity": .35, "data-trial": T.id[r], "data-metric": id, "data-value": values[j], "data-tip": trialTip(r, title, values[j]) }));
      });
      if (!line.length) return;
      const drawn = make(area.svg, "path", { d: "M" + line.map(([a, b]) => `${a},${b}`).join("L"), fill: "none", stroke: colour(method), "stroke-width": 2.4, "stroke-linejoin": "round" });
      area.svg.insertBefore(drawn, area.svg.querySelector("[data-trial]"));
      for (const [a, b, m, sd, n, s] of line) mark(area.svg, method, a, b, 5.5, { fill: colour(method), stroke: "var(--paper)", "stroke-width": 1.5, "data-method": method, "data-scope": s, "data-metric": id, "data-value": m, "data-tip": `${words(method)} · ${words(s)}\n${title} ${short(m, 4)}${sd === null ? "" : " ± " + short(sd, 4)} (${n} ${n === 1 ? "seed" : "seeds"})` });
      const last = line[line.length - 1];
      labels.push({ y: last[1], colour: colour(method), text: words(method) });
    });
    endLabels(area, labels, area.right);
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
      const text = label(mine[0]), room = Math.floor(left / 7.2);
      make(svg, "text", { class: "head", x: left - 12, y: y + 4, "text-anchor": "end" }, text.length > room ? text.slice(0, room - 1) + "…" : text);
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
      grid.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
      const draws = [];
      for (const [id, title, meaning] of FIGURES) for (const p of FACETS) {
        const panel = make(grid, "div", { class: "panel", "data-figure": id, "data-parameters": p });
        const head = make(panel, "h3", {}, title + " ");
        make(head, "small", {}, facetTitle(p) || meaning);
        draws.push(() => (withScope ? scopePanel : settingPanel)(panel, id, title, p));
      }
      draws.forEach((draw) => draw());
      make(body, "p", { class: "caption" }, (withScope ? "Small marks are seeds, large ones their mean; a band is the spread over seeds (sample standard deviation). Routers without a scope are lines across. " : "Small marks are seeds, large ones their mean. ") + "Last evaluation, mean over layers, " + state.reading + " reading.");
    });

  // ---- figure: effects with intervals --------------------------------------------------------------------------------
  const contrasts = D.effects.flatMap((e) => e.contrasts.map((c) => ({ ...c, effect: e })));
  if (contrasts.length) section("effects", "Effects", "How much the scope moves purity",
    "Difference in expert purity from the smallest scope, paired by seed, with a 95 % bootstrap interval over the pairs (with three seeds: their range). Training reading.",
    (body) => {
      extraTools(body);
      const mine = contrasts.filter((c) => Object.entries(c.effect.extra).every(([axis, value]) => state.extra[axis] === value))
        .sort((a, b) => D.methods.indexOf(a.effect.method) - D.methods.indexOf(b.effect.method) || D.scopes.indexOf(a.scope) - D.scopes.indexOf(b.scope) || (a.effect.parameters || 0) - (b.effect.parameters || 0));
      if (!mine.length) { make(body, "p", { class: "empty" }, "No pair of seeds for this choice."); return; }
      const width = Math.max(260, body.clientWidth), narrow = width < 640, left = narrow ? 150 : 330, right = width - (narrow ? 76 : 196), height = 40 + mine.length * 28;
      const ends = mine.flatMap((c) => [0, c.mean, ...c.values, c.low, c.high]).filter(known);
      const list = ticks(Math.min(...ends), Math.max(...ends), narrow ? 3 : 6), low = Math.min(Math.min(...ends), list[0]), high = Math.max(Math.max(...ends), list[list.length - 1]);
      const x = (v) => left + (v - low) / (high - low || 1) * (right - left);
      const svg = make(body, "svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": "Differences in purity between scopes" });
      for (const v of list) {
        make(svg, "line", { class: "gridline", x1: x(v), x2: x(v), y1: 6, y2: height - 30, style: v === 0 ? "stroke:var(--faint)" : null });
        make(svg, "text", { x: x(v), y: height - 12, "text-anchor": "middle" }, (v > 0 ? "+" : "") + tickText(v, list));
      }
      mine.forEach((c, i) => {
        const y = 20 + i * 28, method = c.effect.method;
        const text = narrow ? `${words(c.scope)}${FACETS.length > 1 && known(c.effect.scale) ? " " + times(c.effect.scale) : ""}` : `${words(method)} · ${words(c.baseline)} → ${words(c.scope)}${FACETS.length > 1 && known(c.effect.scale) ? " · " + times(c.effect.scale) : ""}`;
        make(svg, "text", { class: "head", x: left - 14, y: y + 4, "text-anchor": "end" }, text);
        if (known(c.low)) make(svg, "line", { x1: x(c.low), x2: x(c.high), y1: y, y2: y, stroke: colour(method), "stroke-width": 6, "stroke-opacity": .3, "stroke-linecap": "round" });
        for (const v of c.values) mark(svg, method, x(v), y, 2.5, { fill: colour(method), "fill-opacity": .5 });
        mark(svg, method, x(c.mean), y, 5.5, { fill: colour(method), stroke: "var(--paper)", "stroke-width": 1.5, "data-effect": `${method}/${c.scope}`, "data-value": c.mean, "data-tip": `${words(method)}: ${words(c.scope)} minus ${words(c.baseline)}\n${signed(c.mean, 4)}${known(c.low) ? ` (${signed(c.low, 4)} to ${signed(c.high, 4)})` : ""}, ${c.pairs} ${c.pairs === 1 ? "pair" : "pairs"}` });
        make(svg, "text", { x: right + 14, y: y + 4 }, narrow ? signed(c.mean) : `${signed(c.mean)}${known(c.low) ? `  (${signed(c.low)} to ${signed(c.high)})` : ""}`);
      });
    });

  // ---- ranking -------------------------------------------------------------------------------------------------------
  const gap = (base) => (D.metrics["gap_to_reference." + own(base)] ? "gap_to_reference." + own(base) : "gap_to_reference." + base);
  function columns() {
    const list = [
      { key: "label", head: "router", text: (r) => label(r) },
      { key: "seed", head: "seed", text: (r) => T.seed[r] || "", value: (r) => T.seed[r] === null ? null : Number(T.seed[r]), number: true, perTrial: true },
    ];
    if (FACETS.length > 1) list.push({ key: "scale", head: "size", text: (r) => known(T.scale[r]) ? times(T.scale[r]) : "", value: (r) => T.scale[r], number: true });
    const add = (key, head, sub, digits, meter) => { if (D.metrics[key]) list.push({ key, head, sub, digits, meter, metric: key, value: (r) => metric(key, r), number: true }); };
    add("greedy.loss", "loss", "greedy", 4);
    add("loss", "loss", "training", 4);
    add(own("purity_expert"), "purity", state.reading, 3, true);
    add(own("utilisation"), "utilisation", state.reading, 3, true);
    add(D.metrics["gap_to_reference.greedy.loss"] ? "gap_to_reference.greedy.loss" : "gap_to_reference.loss", "gap in loss", "to reference", 4);
    add(gap("purity_expert"), "gap in purity", "to reference", 3);
    add(gap("utilisation"), "gap in util.", "to reference", 3);
    list.push({ key: "state", head: "state", text: (r) => words(T.state[r]), perTrial: true });
    list.push({ key: "id", head: "trial", text: (r) => T.id[r], perTrial: true });
    return list;
  }
  const haystack = rows.map((r) => [T.label[r], label(r), T.id[r], T.state[r], T.reason[r], T.seed[r] === null ? "" : "seed=" + T.seed[r], ...Object.entries(D.axes).map(([axis, v]) => `${axis}=${v[r]}`)].join(" ").toLowerCase());
  if (N) section("ranking", "Ranking", "Trials, ranked by greedy loss",
    "Loss is in nats per token over all domains of the validation set. Gaps are above 0 where a trial is worse than the reference router of equal other settings and seed. Click a column to sort, a trial for its settings and the command that reproduces it.",
    (body) => {
      const tools = make(body, "div", { class: "tools" });
      const search = make(tools, "input", { type: "search", id: "filter", placeholder: "filter: aux_loss global seed=1", value: state.words, "aria-label": "Filter trials" });
      const states = unique(T.state);
      const select = make(tools, "select", { id: "filter-state", "aria-label": "State" });
      make(select, "option", { value: "" }, "all states");
      for (const s of states) make(select, "option", { value: s, selected: s === state.only ? "" : null }, words(s));
      const field = make(tools, "label");
      const means = make(field, "input", { type: "checkbox", id: "means" });
      means.checked = state.means;
      field.append("mean over seeds");
      const count = make(tools, "span", { id: "shown" });
      const box = make(body, "div", { class: "scroll" });
      const table = make(box, "table", { id: "trials" });
      const fill = () => {
        table.replaceChildren();
        const list = columns().filter((c) => !(state.means && c.perTrial));
        const head = make(make(table, "thead"), "tr");
        make(head, "th", { class: "number" }, "#");
        for (const c of list) {
          const cell = make(head, "th", { class: c.number ? "number" : null, "aria-sort": state.sort === c.key ? (state.ascending ? "ascending" : "descending") : null });
          const button = make(cell, "button", { type: "button", "data-sort": c.key }, c.head);
          if (c.sub) make(cell, "small", {}, c.sub);
          button.addEventListener("click", () => { state.ascending = state.sort === c.key ? !state.ascending : !/purity_expert|utilisation/.test(c.key) || c.key.startsWith("gap"); state.sort = c.key; fill(); });
        }
        const query = state.words.toLowerCase().split(/\s+/).filter(Boolean);
        const rank = new Map(D.ranking.map((r, i) => [r, i]));
        let items = D.ranking.filter((r) => (!state.only || T.state[r] === state.only) && query.every((w) => haystack[r].includes(w))).map((r) => ({ rows: [r] }));
        if (state.means) items = unique(items.map((i) => T.setting[i.rows[0]])).map((s) => ({ rows: items.flatMap((i) => i.rows).filter((r) => T.setting[r] === s && isDone(r)) })).filter((i) => i.rows.length);
        const number = (c, item) => { const v = item.rows.map((r) => c.value(r)).filter(known); return v.length ? mean(v) : null; };
        const column = list.find((c) => c.key === state.sort) || (state.means ? list.find((c) => c.key === "greedy.loss" || c.key === "loss") : null);
        if (column) {
          const up = column.key === state.sort ? state.ascending : true, sign = up ? 1 : -1;
          items.sort((a, b) => {
            if (!column.value) return sign * column.text(a.rows[0]).localeCompare(column.text(b.rows[0])) || rank.get(a.rows[0]) - rank.get(b.rows[0]);
            const x = number(column, a), y = number(column, b);
            return (x === null) - (y === null) || sign * (x - y) || rank.get(a.rows[0]) - rank.get(b.rows[0]);
          });
        }
        const tbody = make(table, "tbody");
        items.forEach((item, i) => {
          const first = item.rows[0], line = make(tbody, "tr", { class: "trial", "data-trial": state.means ? null : T.id[first], "data-setting": T.setting[first], "data-rank": rank.get(first) + 1 });
          make(line, "td", { class: "number" }, state.means ? i + 1 : isDone(first) ? rank.get(first) + 1 : "");
          for (const c of list) {
            const cell = make(line, "td", { class: c.number ? "number" : null });
            if (c.key === "label") { make(cell, "span", { class: "swatch", style: `color:${colour(T.method[first])}` }); cell.append(c.text(first)); continue; }
            if (c.key === "state") { make(cell, "span", { class: "state " + (isDone(first) ? "done" : "bad") }, c.text(first)); continue; }
            if (c.key === "id") { make(cell, "code", {}, c.text(first).slice(0, 8)); continue; }
            if (!c.metric) { cell.textContent = c.text(first); continue; }
            const v = number(c, item), all = item.rows.map((r) => c.value(r)).filter(known);
            cell.setAttribute("data-metric", c.metric);
            if (!state.means) cell.setAttribute("data-trial", T.id[first]);
            if (v !== null) cell.setAttribute("data-value", v);
            if (c.meter && v !== null) make(make(cell, "span", { class: "meter", style: `color:${colour(T.method[first])}` }), "i", { style: `width:${Math.max(0, Math.min(1, v)) * 100}%` });
            const sd = state.means ? spread(all) : null;
            cell.append(c.metric.startsWith("gap") ? signed(v, c.digits) : short(v, c.digits), sd === null ? "" : ` ± ${short(sd, c.digits)}`);
          }
          const toggle = () => {
            if (line.nextSibling && line.nextSibling.classList.contains("detail")) { line.nextSibling.remove(); return; }
            const detail = document.createElement("tr");
            detail.className = "detail";
            line.after(detail);
            const dl = make(make(detail, "td", { colspan: list.length + 1 }), "dl");
            const put = (k, v) => { make(dl, "dt", {}, k); return make(dl, "dd", {}, v); };
            for (const r of item.rows) {
              put("trial", `${T.id[r]} · ${words(T.state[r])}${T.reason[r] ? ": " + T.reason[r] : ""}`);
              if (T.command[r]) {
                const dd = put("reproduce", "");
                make(dd, "code", {}, T.command[r]);
                copyButton(dd, T.command[r]);
              }
              if (!state.means) for (const [axis, v] of Object.entries(D.axes)) if (v[r] !== "") put(axis, v[r]);
            }
          };
          line.addEventListener("click", toggle);
        });
        count.textContent = `${items.length} of ${state.means ? unique(T.setting).length + " settings" : N + (N === 1 ? " trial" : " trials")}`;
      };
      search.addEventListener("input", () => { state.words = search.value; fill(); });
      select.addEventListener("change", () => { state.only = select.value; fill(); });
      means.addEventListener("change", () => { state.means = means.checked; fill(); });
      fill();
    });
  function copyButton(parent, text) {
    const button = make(parent, "button", { type: "button", class: "plain" }, "copy");
    button.addEventListener("click", (event) => {
      event.stopPropagation();
      const area = make(document.body, "textarea", { style: "position:fixed;opacity:0" });
      area.value = text;
      area.select();
      document.execCommand("copy");
      area.remove();
      button.textContent = "copied";
    });
  }

  // ---- loss curves ---------------------------------------------------------------------------------------------------
  const withCurve = D.ranking.filter((r) => D.curves[r]);
  const SETTINGS = unique(withCurve.map((r) => T.setting[r])).map((s) => {
    const mine = withCurve.filter((r) => T.setting[r] === s), done = mine.filter(isDone), first = mine[0];
    return { setting: s, rows: done.length ? done : mine, method: T.method[first], scope: T.scope[first], extra: T.extra[first], scale: T.scale[first], label: label(first) + (FACETS.length > 1 && known(T.scale[first]) ? " · " + times(T.scale[first]) : "") };
  });
  function dash(s) { return s.method === "random" ? "5 4" : s.method === "none" ? "1.5 3.5" : DASHES[Math.max(0, D.scopes.indexOf(s.scope)) % 4]; }
  function startChips() {
    const chosenOnes = [];
    const take = (list, n) => { for (const s of list) if (!chosenOnes.includes(s.setting) && n-- > 0) chosenOnes.push(s.setting); };
    const small = SETTINGS.filter((s) => FACETS.length < 2 || T.parameters[s.rows[0]] === FACETS[0]);
    const base = small.length ? small : SETTINGS;
    take(base.filter((s) => s.method === "reference"), 1);
    take(base.filter((s) => s.method === "random"), 1);
    for (const m of SCOPED) for (const scope of [D.scopes[0], D.scopes[D.scopes.length - 1]]) take(base.filter((s) => s.method === m && s.scope === scope), 1);
    take(base, 6 - chosenOnes.length);
    return new Set(chosenOnes.slice(0, 8));
  }
  /** Mean, lowest and highest over seeds at the steps of the first seed; seeds of another length count where they have the step. */
  function band(list, xKey, yKey, shift) {
    const maps = list.map((r) => new Map((D.curves[r][xKey] || []).map((x, i) => [x, (D.curves[r][yKey] || [])[i]])));
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
    const parts = [words(s.method === "none" ? "no balancing" : s.method)];
    if (s.scope) parts.push(words(s.scope));
    for (const axis of EXTRAS) if (unique(shown.map((o) => o.extra[axis])).length > 1) parts.push(s.extra[axis]);
    if (unique(shown.map((o) => o.scale)).length > 1 && known(s.scale)) parts.push(times(s.scale));
    const text = parts.join(" · ");
    return text.length > 27 ? text.slice(0, 26) + "…" : text;
  }
  function lossPanel(parent, series, points, label, options) {
    const drawn = series.map((s) => ({ s, points: points(s) })).filter((d) => d.points.length);
    if (!drawn.length) { make(parent, "p", { class: "empty" }, "Nothing recorded for this choice."); return; }
    const every = drawn.flatMap((d) => d.points), x1 = Math.max(...every.map((p) => p[0])), x0 = options.fromZero ? 0 : Math.min(...every.map((p) => p[0]));
    const visible = options.skipHead ? drawn.flatMap((d) => d.points.length > 2 ? d.points.slice(Math.max(1, Math.floor(d.points.length * .15))) : d.points) : every;
    let low = Math.min(...visible.map((p) => p[2])), high = Math.max(...visible.map((p) => p[3]));
    const pad = (high - low || .1) * .06;
    low -= pad; high += pad;
    const area = frame(parent, { height: 340, y: [low, high], label, right: parent.clientWidth < 420 ? 128 : 190 });
    const x = (v) => area.left + (v - x0) / (x1 - x0 || 1) * (area.right - area.left);
    const clip = make(area.svg, "clipPath", { id: options.id });
    make(clip, "rect", { x: area.left, y: area.top - 6, width: area.right - area.left + 4, height: area.bottom - area.top + 8 });
    for (const v of ticks(x0, x1, 4)) make(area.svg, "text", { x: x(v), y: area.bottom + 20, "text-anchor": "middle" }, v.toLocaleString("en-US").replaceAll(",", " "));
    make(area.svg, "text", { x: area.right + 22, y: area.bottom + 20 }, "step");
    make(area.svg, "line", { class: "axis", x1: area.left, x2: area.right, y1: area.bottom, y2: area.bottom });
    if (low < 0 && high > 0) make(area.svg, "line", { x1: area.left, x2: area.right, y1: area.y(0), y2: area.y(0), stroke: "var(--faint)" });
    const inside = make(area.svg, "g", { "clip-path": `url(#${options.id})` });
    const labels = [];
    for (const { s, points: p } of drawn) {
      if (p.some((q) => q[4] > 1)) make(inside, "path", { d: "M" + p.map((q) => `${x(q[0])},${area.y(q[3])}`).join("L") + "L" + p.slice().reverse().map((q) => `${x(q[0])},${area.y(q[2])}`).join("L") + "Z", fill: colour(s.method), opacity: .13 });
    }
    for (const { s, points: p } of drawn) {
      const d = "M" + p.map((q) => `${x(q[0])},${area.y(q[1])}`).join("L"), last = p[p.length - 1];
      make(inside, "path", { d, fill: "none", stroke: colour(s.method), "stroke-width": 2, "stroke-dasharray": dash(s) || null, "stroke-linejoin": "round", "data-setting": s.setting });
      if (options.dots) for (const q of p) make(inside, "circle", { cx: x(q[0]), cy: area.y(q[1]), r: 2.6, fill: colour(s.method) });
      make(inside, "path", { d, fill: "none", stroke: "transparent", "stroke-width": 12, "data-tip": `${s.label}\nat the end ${short(last[1], 4)}${last[4] > 1 ? ` (${short(last[2], 4)} to ${short(last[3], 4)} over ${last[4]} seeds)` : ""}` });
      labels.push({ y: Math.max(area.top, Math.min(area.bottom, area.y(last[1]))), colour: colour(s.method), text: lineName(s, series) });
    }
    endLabels(area, labels, area.right);
  }
  if (withCurve.length) section("curves", "Loss", "Loss curves", null, (body) => {
    if (!state.chips) state.chips = startChips();
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
    lossPanel(left, series, (s) => band(s.rows, "step", "loss"), "Training loss", { id: "clip-train", skipHead: true, fromZero: true });
    lossPanel(right, series, (s) => band(s.rows, "evaluation", state.reading, state.relative ? referenceAt : null), "Validation loss", { id: "clip-valid", dots: true, skipHead: !state.relative, fromZero: true });
    const chips = make(body, "div", { class: "chips" });
    for (const s of SETTINGS) {
      const chip = make(chips, "button", { type: "button", class: "chip", "aria-pressed": String(state.chips.has(s.setting)), style: `--own:${colour(s.method)}` });
      make(chip, "i", { class: dash(s) ? (/^[12]/.test(dash(s)) ? "dot" : "dash") : "" });
      chip.append(s.label);
      chip.addEventListener("click", () => { state.chips.has(s.setting) ? state.chips.delete(s.setting) : state.chips.add(s.setting); redraw(); });
    }
    make(body, "p", { class: "caption" }, `Lines are means over seeds, bands reach from the lowest to the highest seed.${D.bin_steps > 1 ? ` A point of the training curve is the mean of up to ${D.bin_steps} steps.` : ""} The vertical axes leave out the first steps, where the loss falls from its start.`);
  });

  // ---- heat maps -----------------------------------------------------------------------------------------------------
  const heatRows = D.ranking.filter((r) => D.heat[r]);
  function countsOf(row, reading) {
    const entry = D.heat[row], packed = entry[reading];
    if (!packed) return null;
    const raw = atob(packed.data), buffer = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) buffer[i] = raw.charCodeAt(i);
    return packed.bytes === 2 ? new Uint16Array(buffer.buffer) : new Uint32Array(buffer.buffer);
  }
  function startHeat() {
    const picked = [];
    const small = heatRows.filter((r) => FACETS.length < 2 || T.parameters[r] === FACETS[0]), base = small.length ? small : heatRows;
    const order = D.effects.length ? D.effects.slice().sort((a, b) => b.range - a.range)[0].method : SCOPED[0];
    for (const s of D.scopes) { const r = base.filter((q) => T.method[q] === order && T.scope[q] === s && matches(q)).sort((a, b) => String(T.seed[a]).localeCompare(String(T.seed[b]), undefined, { numeric: true }))[0]; if (r !== undefined) picked.push(r); }
    for (const m of [["reference"], D.methods]) for (const r of base) if (picked.length < 3 + (picked.length ? 0 : 1) && m.includes(T.method[r]) && !picked.some((q) => T.setting[q] === T.setting[r])) picked.push(r);
    return picked.slice(0, 3);
  }
  function heatMap(parent, row, layer, counts, domains, experts, first) {
    const names = D.domains[T.domains[row]], at = (d, e) => counts[(layer * domains + d) * experts + e];
    const load = [...Array(experts).keys()].map((e) => { let s = 0; for (let d = 0; d < domains; d++) s += at(d, e); return s; });
    const best = load.map((_, e) => { let b = 0; for (let d = 1; d < domains; d++) if (at(d, e) > at(b, e)) b = d; return b; });
    const order = [...Array(experts).keys()].sort((a, b) => (load[a] === 0) - (load[b] === 0) || best[a] - best[b] || at(best[b], b) / (load[b] || 1) - at(best[a], a) / (load[a] || 1));
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
  /** Colour of a share from 0 to 1: four stops of the theme, mixed evenly to the eye. */
  function ramp(share) {
    const at = Math.max(0, Math.min(1, share)) * 3, i = Math.min(2, Math.floor(at));
    return `color-mix(in oklab, var(--h${i}), var(--h${i + 1}) ${((at - i) * 100).toFixed(1)}%)`;
  }
  if (heatRows.length) section("heat", "Experts", "Which domain each expert serves",
    "A column is an expert, coloured by where its slots come from: one dark cell is an expert of one domain, a pale column serves all. Experts are ordered by their main domain; the bars above are their load, with the dashed line at an even share.",
    (body) => {
      if (!state.heat) state.heat = startHeat();
      const layers = Math.max(...state.heat.map((r) => D.heat[r].shape[0]));
      if (state.heatLayer === null) state.heatLayer = layers > 3 ? "ends" : "all";
      const tools = make(body, "div", { class: "tools" });
      if (layers > 1) {
        const field = make(tools, "label", {}, "layer"), select = make(field, "select", { id: "heat-layer" });
        for (const l of [...(layers > 3 ? ["ends"] : []), "all", ...Array(layers).keys()]) make(select, "option", { value: l, selected: String(l) === String(state.heatLayer) ? "" : null }, l === "ends" ? "first and last" : String(l));
        select.addEventListener("change", () => { state.heatLayer = select.value; redraw(); });
      }
      const key = make(tools, "span", { class: "scale-key" }, "0 %");
      make(key, "i");
      key.append("100 % of the expert's slots");
      const grid = make(body, "div", { class: "heats" });
      const boxes = state.heat.map((row, slot) => {
        const box = make(grid, "div", { class: "panel" });
        const select = make(box, "select", { "data-slot": slot, "aria-label": "Trial" });
        for (const r of heatRows) make(select, "option", { value: r, selected: r === row ? "" : null }, `${label(r)}${FACETS.length > 1 && known(T.scale[r]) ? " · " + times(T.scale[r]) : ""}${T.seed[r] === null ? "" : " · seed " + T.seed[r]}`);
        select.addEventListener("change", () => { state.heat[slot] = Number(select.value); redraw(); });
        return box;
      });
      state.heat.forEach((row, slot) => {
        const [count, domains, experts] = D.heat[row].shape, counts = countsOf(row, state.reading) || countsOf(row, "training") || countsOf(row, "greedy");
        const line = make(boxes[slot], "p", { class: "heat-numbers" });
        for (const [id, text] of [["purity_expert", "purity"], ["utilisation", "utilisation"]]) {
          const v = metric(own(id), row);
          line.append(text + " ");
          make(line, "b", { "data-trial": T.id[row], "data-metric": own(id), "data-value": known(v) ? v : null }, short(v));
          line.append("  ");
        }
        const shown = state.heatLayer === "all" ? [...Array(count).keys()] : state.heatLayer === "ends" ? unique([0, count - 1]) : [Number(state.heatLayer)].filter((l) => l < count);
        for (const l of shown) {
          if (count > 1) make(boxes[slot], "p", { class: "layer" }, `layer ${l}`);
          heatMap(boxes[slot], row, l, counts, domains, experts, true);
        }
      });
      make(body, "p", { class: "caption" }, `Last evaluation, ${state.reading} reading.${D.heat_left_out ? ` To keep the page small, the maps of ${D.heat_left_out} lower-ranked trials are left out; the file has them.` : ""}`);
    });

  // ---- failures ------------------------------------------------------------------------------------------------------
  if (N) section("failures", "Failures", "Trials without a result", D.failures.length ? null : "None: every trial is done.", (body) => {
    if (!D.failures.length) return;
    const table = make(make(body, "div", { class: "scroll" }), "table", { id: "failure-table" }), head = make(make(table, "thead"), "tr");
    for (const text of ["state", "trials", "reason", "which"]) make(head, "th", { class: text === "trials" ? "number" : null }, text);
    const tbody = make(table, "tbody");
    for (const f of D.failures) {
      const line = make(tbody, "tr", { "data-state": f.state, "data-count": f.rows.length });
      make(make(line, "td"), "span", { class: "state bad" }, words(f.state));
      make(line, "td", { class: "number" }, f.rows.length);
      make(line, "td", { class: "wrap" }, f.reason || "–");
      const cell = make(line, "td", { class: "wrap" });
      f.rows.slice(0, 4).forEach((r, i) => cell.append((i ? "; " : "") + label(r) + (T.seed[r] === null ? "" : " seed " + T.seed[r])));
      if (f.rows.length > 4) {
        const more = make(cell, "button", { type: "button", class: "plain" }, `and ${f.rows.length - 4} more`);
        more.addEventListener("click", () => { more.remove(); f.rows.slice(4).forEach((r) => cell.append("; " + label(r) + (T.seed[r] === null ? "" : " seed " + T.seed[r]))); });
      }
    }
  });

  // ---- provenance ----------------------------------------------------------------------------------------------------
  section("provenance", "Provenance", "Provenance", "Each trial runs again, alone, with its own command from the sweep's folder.", (body) => {
    const grid = make(body, "div", { class: "panels" });
    grid.style.gridTemplateColumns = "repeat(2, minmax(0, 1fr))";
    const put = (title, lines) => {
      const panel = make(grid, "div", { class: "panel" });
      make(panel, "h3", {}, title);
      const tbody = make(make(make(panel, "div", { class: "scroll" }), "table"), "tbody");
      for (const [k, v] of lines) {
        const line = make(tbody, "tr");
        make(line, "td", {}, k);
        make(line, "td", { class: "wrap", "data-provenance": k }, v);
      }
    };
    const span = (v) => v.distinct === 1 ? v.values[0] : v.values.length === v.distinct ? v.values.join(", ") : `${v.distinct} values, ${v.values[0]} to ${v.values[v.values.length - 1]}`;
    put("Sweep", D.provenance.file.filter(([, v]) => v !== ""));
    if (D.provenance.trials.length) put(`Trials (${D.provenance.trials_with_provenance} ran)`, D.provenance.trials.map((v) => [v.key, span(v)]));
    const commands = D.ranking.filter((r) => T.command[r]);
    if (commands.length) {
      const details = make(body, "details", { style: "margin-top:18px" });
      make(details, "summary", {}, `Commands that reproduce each trial (${commands.length})`);
      const tbody = make(make(make(details, "div", { class: "scroll", style: "margin-top:8px" }), "table", { id: "commands" }), "tbody");
      for (const r of commands) {
        const line = make(tbody, "tr", { "data-trial": T.id[r] });
        make(line, "td", {}, label(r) + (T.seed[r] === null ? "" : " · seed " + T.seed[r]));
        const cell = make(line, "td", { class: "wrap" });
        make(cell, "code", {}, T.command[r]);
        copyButton(cell, T.command[r]);
      }
    }
  });

  section("terms", "Terms", "What the numbers mean", null, (body) => {
    const dl = make(body, "dl", { class: "terms" });
    for (const [k, v] of [
      ["expert purity", "share of an expert's slots that come from its most frequent domain, averaged over experts by their load; 1 when each expert serves one domain, about one over the number of domains by chance."],
      ["utilisation", "sum over experts of the smaller of their share of slots and an even share; 1 when all are used alike."],
      ["reference router", "sends each token to the experts of its domain, which it is told: the bound on purity and utilisation."],
      ["random router", "sends each token to experts drawn at random: what purity is by chance on as many tokens."],
      ["balancing scope", "the tokens over which a balancing method counts load: each sequence, each micro-batch or the whole global batch of a step."],
      ["training reading", "metrics with the routing in force in training, its balancing included."],
      ["greedy reading", "metrics with what inference does, which sees no other tokens; trials are ranked by it."],
      ["spread", "sample standard deviation over seeds."],
      ["depends on scope", "the range of the means over scopes is more than twice the spread over seeds; \u201conly slightly\u201d when it is also less than 5 % of the way from the random to the reference router."],
    ]) { make(dl, "dt", {}, k); make(dl, "dd", {}, v); }
  });
  make(main, "footer", {}, "Written by moesweep-report; the page needs nothing but itself.");

  // ---- what moves the page -------------------------------------------------------------------------------------------
  const readings = document.getElementById("readings");
  const press = () => readings.querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.reading === state.reading)));
  readings.hidden = !Object.keys(D.metrics).some((m) => m.startsWith("greedy."));
  if (readings.hidden) readings.style.display = "none";
  readings.addEventListener("click", (event) => { const b = event.target.closest("button"); if (b && b.dataset.reading !== state.reading) { state.reading = b.dataset.reading; press(); redraw(); } });
  press();
  let width = innerWidth, timer = 0;
  addEventListener("resize", () => { if (innerWidth === width) return; width = innerWidth; clearTimeout(timer); timer = setTimeout(redraw, 120); });
})();
