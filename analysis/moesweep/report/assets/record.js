// Failures, provenance, terms, and the switch that moves the whole page.
// ---- failures ------------------------------------------------------------------------------------------------------
if (N) section("failures", "Failures", "Trials without a result", D.failures.length ? `${D.failures.reduce((a, f) => a + f.rows.length, 0)} of ${N} trials, by state and reason; reasons that differ in their numbers alone are one, with the range of the numbers.` : "None: every trial is done.", (body) => {
  if (!D.failures.length) return;
  const table = make(make(body, "div", { class: "scroll" }), "table", { id: "failure-table" }), head = make(make(table, "thead"), "tr");
  for (const text of ["state", "trials", "reason", "which"]) make(head, "th", { class: text === "trials" ? "number" : null }, text);
  const tbody = make(table, "tbody");
  for (const f of D.failures) {
    const line = make(tbody, "tr", { "data-state": f.state, "data-count": f.rows.length });
    make(make(line, "td"), "span", { class: "state " + stateClass(f.state) }, words(f.state));
    make(line, "td", { class: "number" }, f.rows.length);
    make(line, "td", { class: "wrap" }, f.reason || "–");
    const cell = make(line, "td", { class: "wrap" });
    f.rows.slice(0, 2).forEach((r, i) => cell.append((i ? "; " : "") + label(r) + (T.seed[r] === null ? "" : " seed " + T.seed[r])));
    if (f.rows.length > 2) {
      const more = make(cell, "button", { type: "button", class: "plain" }, `and ${f.rows.length - 2} more`);
      more.addEventListener("click", () => { more.remove(); f.rows.slice(2).forEach((r) => cell.append("; " + label(r) + (T.seed[r] === null ? "" : " seed " + T.seed[r]))); });
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
      make(line, "td", {}, label(r) + (T.seed[r] === null ? "" : " · seed " + T.seed[r]) + (guesses(r) ? ` · ⚠ ${GUESSING}` : ""));
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
    ["load violation", "MaxVio: the largest load over the mean load, less 1; 0 when all experts carry the same."],
    ["expert entropy", "entropy of the experts' shares of the load over that of an even one; 1 when all carry the same."],
    ["drop rate", "share of the (token, slot) pairs that a capacity dropped."],
    ["not causal", "in training a token's routing can depend on later tokens, so that the training reading sees the future; the greedy one does not."],
    ["no better than uniform guessing", "the validation loss is at least ln V − 0.01, V the number of tokens of the vocabulary: that of giving every token the same probability. The trial learned nothing, whatever its other numbers are."],
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
