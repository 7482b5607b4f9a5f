// The table of trials: sorted, filtered, averaged over seeds; each trial opens with its settings and command.
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
  add("tokens_per_second", "speed", "tokens/s", 0);
  if (rows.some(guesses)) list.push({ key: "warning", head: "warning", text: (r) => remark([r]) });
  if (!rows.every(isDone)) list.push({ key: "state", head: "state", text: (r) => words(T.state[r]), perTrial: true });
  list.push({ key: "id", head: "trial", text: (r) => T.id[r], perTrial: true });
  return list;
}
const haystack = rows.map((r) => [T.label[r], label(r), T.id[r], T.state[r], T.reason[r], remark([r]), T.seed[r] === null ? "" : "seed=" + T.seed[r], ...Object.entries(D.axes).map(([axis, v]) => `${axis}=${v[r]}`)].join(" ").toLowerCase());
if (N) section("ranking", "Ranking", "Trials, ranked by greedy loss",
  "Loss is in nats per token over all domains of the validation set. Gaps are above 0 where a trial is worse than the reference router of equal other settings and seed. Click a column to sort, a trial (or press Enter on it) for its settings and the command that reproduces it.",
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
    const drawn = new Map(); // lines of single trials, kept as long as the columns are the same: filtering and sorting only move them
    const fill = () => {
      table.replaceChildren();
      const list = columns().filter((c) => !(state.means && c.perTrial));
      const head = make(make(table, "thead"), "tr");
      make(head, "th", { class: "number" }, "#");
      for (const c of list) {
        const cell = make(head, "th", { class: c.number ? "number" : null, "aria-sort": state.sort === c.key ? (state.ascending ? "ascending" : "descending") : null });
        const button = make(cell, "button", { type: "button", "data-sort": c.key }, c.head);
        if (c.sub) make(cell, "small", {}, c.sub);
        button.addEventListener("click", () => { state.ascending = state.sort === c.key ? !state.ascending : !/purity_expert|utilisation|tokens_per/.test(c.key) || c.key.startsWith("gap"); state.sort = c.key; fill(); });
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
        const first = item.rows[0], kept = state.means ? null : drawn.get(first);
        if (kept) { kept.setAttribute("aria-expanded", "false"); tbody.append(kept); return; }
        const line = make(tbody, "tr", { class: "trial", "data-trial": state.means ? null : T.id[first], "data-setting": T.setting[first], "data-rank": rank.get(first) + 1, tabindex: 0, "aria-expanded": "false" });
        make(line, "td", { class: "number" }, state.means ? i + 1 : isDone(first) ? rank.get(first) + 1 : "");
        for (const c of list) {
          const cell = make(line, "td", { class: c.number ? "number" : null });
          if (c.key === "label") { cell.className = "router"; cell.title = fullLabel(item.rows); make(cell, "span", { class: "swatch", style: `color:${colour(T.method[first])}` }); cell.append(c.text(first)); if (metric("causal", first) === 0) make(cell, "span", { class: "tag", "data-tip": "In training a token's routing can depend on later tokens: its training reading sees the future." }, "not causal"); continue; }
          if (c.key === "warning") { if (item.rows.some(guesses)) make(cell, "span", { class: "state bad", "data-warning": remark(item.rows) }, "⚠ " + remark(item.rows)); continue; }
          if (c.key === "state") { make(cell, "span", { class: "state " + stateClass(T.state[first]) }, c.text(first)); continue; }
          if (c.key === "id") { make(cell, "code", {}, c.text(first).slice(0, 8)); continue; }
          if (!c.metric) { cell.textContent = c.text(first); continue; }
          const v = number(c, item), all = item.rows.map((r) => c.value(r)).filter(known);
          cell.setAttribute("data-metric", c.metric);
          if (!state.means) cell.setAttribute("data-trial", T.id[first]);
          if (v !== null) cell.setAttribute("data-value", v);
          if (c.meter && v !== null) make(make(cell, "span", { class: "meter", style: `color:${colour(T.method[first])}` }), "i", { style: `width:${Math.max(0, Math.min(1, v)) * 100}%` });
          const sd = state.means ? spread(all) : null;
          cell.append(c.metric.startsWith("gap") ? signed(v, c.digits) : c.digits === 0 ? showMetric(c.key, v) : short(v, c.digits), sd === null ? "" : ` ± ${c.digits === 0 ? showMetric(c.key, sd) : short(sd, c.digits)}`);
        }
        const toggle = () => {
          if (line.nextSibling && line.nextSibling.classList.contains("detail")) { line.nextSibling.remove(); line.setAttribute("aria-expanded", "false"); return; }
          const detail = document.createElement("tr");
          detail.className = "detail";
          line.after(detail);
          line.setAttribute("aria-expanded", "true");
          const dl = make(make(detail, "td", { colspan: list.length + 1 }), "dl");
          const put = (k, v) => { make(dl, "dt", {}, k); return make(dl, "dd", {}, v); };
          for (const r of item.rows) {
            put("trial", `${T.id[r]} · ${words(T.state[r])}${T.reason[r] ? ": " + T.reason[r] : ""}`);
            if (guesses(r)) put("warning", `${GUESSING}: its validation loss is at least ln(vocabulary) − 0.01`);
            if (T.command[r]) {
              const dd = put("reproduce", "");
              make(dd, "code", {}, T.command[r]);
              copyButton(dd, T.command[r]);
            }
            if (!state.means) for (const [axis, v] of Object.entries(D.axes)) if (v[r] !== "") put(axis, v[r]);
          }
        };
        if (!state.means) drawn.set(first, line);
        line.addEventListener("click", toggle);
        line.addEventListener("keydown", (event) => { if (event.target === line && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); toggle(); } });
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
