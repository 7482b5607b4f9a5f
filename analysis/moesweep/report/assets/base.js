// What every part of the page draws with: data, colours, scales, tooltips, sections, chart frames.
const D = JSON.parse(document.getElementById("data").textContent);
const T = D.trials, N = T.id.length;
const rows = [...Array(N).keys()];
for (const c of Object.values(D.curves)) for (const clock of ["step", "evaluation"]) if (c[clock] !== undefined) c[clock] = D.grids[c[clock]];
const state = { reading: "training", extra: {}, chips: null, relative: false, heat: null, heatLayer: null, sort: null, ascending: true, words: "", only: "", means: false, size: null, maps: ["purity_expert", "loss"], kind: null, effect: "purity_expert", x: "loss", y: "purity_expert", violation: "max_violation_global_batch", series: "expert_entropy", other: null, time: null, loadLayer: null, expertLoss: null, expertLayer: "0" };

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
/** With that many decimals whatever the size, so that numbers in a column compare at a glance. */
const fixed = (x, digits) => { const text = x.toFixed(digits); return /[1-9]/.test(text) ? text.replace("-", "−") : text.replace("-", ""); };
const signed = (x, digits = 3) => known(x) && x > 0 ? "+" + short(x, digits) : short(x, digits);
function size(p) {
  for (const [limit, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) if (p >= limit) return (p / limit).toPrecision(3).replace(/\.?0+$/, "") + " " + unit;
  return String(p);
}
const times = (s) => "×" + Number(s.toPrecision(3));
const own = (name) => state.reading === "greedy" && D.metrics["greedy." + name] ? "greedy." + name : name;
const metric = (name, row) => D.metrics[name] ? D.metrics[name][row] : null;
/** Metrics by the words of the page, the direction that is better, and digits. */
const METRICS = {
  purity_expert: ["expert purity", 1, 3], utilisation: ["utilisation", 1, 3], loss: ["validation loss", -1, 4], nmi: ["mutual information of domain and expert", 1, 3],
  purity_reference: ["reference purity", 1, 3], domain_information: ["domain information", 1, 3], expert_entropy: ["expert entropy", 1, 3],
  max_violation: ["load violation", -1, 3], drop_rate: ["drop rate", -1, 4], dead_experts: ["dead experts", -1, 1], tokens_per_second: ["tokens per second", 1, 0],
};
const METRIC_UNITS = { loss: "nats per token" };
const sayMetric = (id) => (METRICS[id] ? METRICS[id][0] : words(id));
const showMetric = (id, v) => !known(v) ? "–" : id === "tokens_per_second" ? Math.round(v).toLocaleString("en-US").replaceAll(",", " ") : short(v, METRICS[id] ? METRICS[id][2] : 3);
const capital = (s) => s ? s[0].toUpperCase() + s.slice(1) : s;
/** Metrics of `METRICS` that finished trials recorded and that are not the same in all of them. */
const recorded = () => Object.keys(METRICS).filter((id) => D.metrics[own(id)] && unique(rows.filter((r) => isDone(r) && known(metric(own(id), r))).map((r) => metric(own(id), r))).length > 1);
const words = (s) => s === null || s === undefined ? "" : String(s).replaceAll("micro_batch", "micro-batch").replaceAll("_", " ");
const label = (row) => words(T.method[row] === "none" ? T.label[row].replace(/^none/, "no balancing") : T.label[row]);
/** Trials whose validation loss is that of guessing every token alike: the mark ⚠ and these words stand wherever they are shown, alone or in a mean. */
const GUESSING = "no better than uniform guessing";
const guesses = (row) => T.warnings[row].split(",").includes("no_better_than_uniform");
function remark(list) {
  const count = list.filter(guesses).length;
  return count === 0 ? "" : count === list.length ? GUESSING : `${count} of ${list.length} ${GUESSING}`;
}
const flag = (list) => list.some(guesses) ? " ⚠" : "";
const noted = (list) => list.some(guesses) ? `\n⚠ ${remark(list)}` : "";
/** Label of a trial, or of the trials of one setting, with the mark in words. */
const fullLabel = (list) => label(list[0]) + (list.some(guesses) ? ` · ⚠ ${remark(list)}` : "");
const explained = (list) => list.some(guesses) ? ` ⚠: ${GUESSING}, the validation loss is at least ln(vocabulary) − 0.01.` : "";
const isDone = (row) => T.state[row] === "done";
const stateClass = (s) => s === "done" ? "done" : ["pending", "running", "skipped"].includes(s) ? "wait" : "bad";

const SCOPED = D.methods.filter((m) => rows.some((r) => T.scope[r] !== null && T.method[r] === m));
const COLOURED = D.methods.filter((m) => !["none", "reference", "random"].includes(m));
function colour(method) {
  if (method === "none") return "var(--none)";
  if (method === "reference") return "var(--reference)";
  if (method === "random") return "var(--random)";
  return `var(--c${COLOURED.indexOf(method) % 8})`;
}
/** A select that remembers its choice in `state` and draws the page again. */
function choice(parent, text, key, options, attributes = {}, again = null) {
  const field = make(parent, "label", {}, text), select = make(field, "select", attributes);
  for (const [value, title] of options) make(select, "option", { value, selected: String(value) === String(state[key]) ? "" : null }, title);
  select.addEventListener("change", () => { state[key] = select.value; (again || redraw)(); });
  return select;
}
/** Colour of a share from 0 to 1: four stops of the theme, mixed evenly to the eye. */
function ramp(share) {
  const at = Math.max(0, Math.min(1, share)) * 3, i = Math.min(2, Math.floor(at));
  return `color-mix(in oklab, var(--h${i}), var(--h${i + 1}) ${((at - i) * 100).toFixed(1)}%)`;
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
  if (list.length && Math.max(...list.map(Math.abs)) >= 10000) return value.toLocaleString("en-US").replaceAll(",", "\u202f").replace("-", "−");
  const step = list.length > 1 ? Math.abs(list[1] - list[0]) : 1;
  return value.toFixed(Math.min(6, Math.max(0, -Math.floor(Math.log10(step) + 1e-9) + (/[^0]5$/.test(String(step)) && String(step).includes("2") ? 1 : 0)))).replace("-", "−");
};
const pen = document.createElement("canvas").getContext("2d");
/** Width in pixels of a text of the figures, as wide as its font draws it. */
function textWidth(text, font = "600 13px") {
  pen.font = `${font} system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif`;
  return pen.measureText(text).width;
}
/** The text, its words shortened until it fits `room` pixels: first the part that names the method, then the end. */
function fit(text, room, font) {
  if (textWidth(text, font) <= room) return text;
  let cut = text.replace("micro-batch", "micro").replace("global batch", "global").replace("sequence", "seq.").replace(" router", "");
  if (textWidth(cut, font) <= room) return cut;
  const [first, ...others] = cut.split(" · "), tail = others.length ? " · " + others.join(" · ") : "";
  for (let n = first.length - 1; tail && n > 4; n--) if (textWidth(first.slice(0, n).trimEnd() + "…" + tail, font) <= room) return first.slice(0, n).trimEnd() + "…" + tail;
  while (cut.length > 1 && textWidth(cut + "…", font) > room) cut = cut.slice(0, -1).trimEnd();
  return cut + "…";
}
/** Space at the right that end labels take, at most that share of the width. */
const labelRoom = (texts, width, share = .42) => Math.min(width * share, 16 + Math.max(40, ...texts.map((t) => textWidth(t))));
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
  const width = Math.max(190, parent.clientWidth);
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
    const text = fit(l.text, area.width - x - 9), node = make(area.svg, "text", { class: "label", x: x + 9, y: placed[i] + 4.5, style: `fill:${l.colour}`, "data-label": l.text }, text);
    if (text !== l.text) node.setAttribute("data-tip", l.text);
  });
}
