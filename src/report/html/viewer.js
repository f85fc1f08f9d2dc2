// The trace viewer: choose among all decisions of a run, follow a trajectory over its rounds, read what was asked,
// thought and answered. Model text only ever becomes text nodes.
"use strict";
(async () => {
  const { block, text, prompt, searchable, search, make, List, difference } = Traces;
  const root = document.getElementById("viewer");
  if (!root || !("DecompressionStream" in window)) return;
  const started = performance.now();
  const index = await block("traces-index", JSON.parse);

  // ---- a testbed: columns as typed arrays

  class Bed {
    constructor(raw) {
      Object.assign(this, raw);
      this.columns = new Map();
      for (const column of raw.columns) {
        const whole = column.kind === "text" || column.kind === "yes";
        const values = whole ? Int32Array.from(column.values) : Float64Array.from(column.values, (v) => v ?? NaN);
        this.columns.set(column.key, { ...column, values });
      }
      this.outcome = this.column("outcome");
      this.round = this.column("round");
      this.ends = [...raw.starts.slice(1), raw.rows];
      this.owner = new Int32Array(raw.rows);
      const tips = this.column("tip");
      this.tips = raw.starts.map((start, t) => {
        let tip = -1;
        for (let row = start; row < this.ends[t]; row++) {
          this.owner[row] = t;
          if (tip < 0 && tips[row] === 1) tip = row;
        }
        return tip;
      });
      // Columns by which rows can be told apart at all.
      this.facets = raw.columns.filter((c) => c.use === "facet").map((c) => this.facet(this.columns.get(c.key)));
      this.facets = this.facets.filter((f) => f.options.length > 1);
      this.matched = new Uint8Array(raw.rows).fill(1);
    }

    column(key) {
      return this.columns.get(key)?.values;
    }

    facet(column) {
      const present = [...new Set(column.values)].filter((v) => v >= 0).sort((a, b) => a - b);
      const options = present.map((value) => [value, this.said(column, value)]);
      if (column.kind === "text") options.sort((a, b) => a[1].localeCompare(b[1], "en", { numeric: true }));
      return { column, options };
    }

    said(column, value) {
      switch (column.kind) {
        case "text": return value < 0 ? null : column.dict[value];
        case "yes": return value === 1 ? "yes" : "no";
        case "share": return Number.isNaN(value) ? null : `${(100 * value).toFixed(1)}\u00A0%`;
        default: return Number.isNaN(value) ? null : String(+value.toPrecision(6)).replace("-", "\u2212");
      }
    }

    cell(key, row) {
      const column = this.columns.get(key);
      return column ? this.said(column, column.values[row]) : null;
    }

    // What a trajectory is called, without what all of them share.
    called(row) {
      const varied = (key) => this.facets.some((f) => f.column.key === key);
      const parts = this.names.map((key, i) => (i === 0 || varied(key) ? this.cell(key, row) : null));
      const [first, ...rest] = parts;
      return [first, ...rest.filter(Boolean).map((p, i) => `${this.names[i + 1]} ${p}`)].join(", ");
    }

    // Model, variant, seed, as far as they differ.
    agent(row) {
      const keys = ["model", "variant", "seed"].filter((key) => this.facets.some((f) => f.column.key === key));
      return keys.map((key) => (key === "seed" ? `seed ${this.cell(key, row)}` : this.cell(key, row))).join(" · ");
    }

    rounds(t) {
      const found = new Map();
      for (let row = this.starts[t]; row < this.ends[t]; row++) {
        const round = this.round[row];
        if (!found.has(round)) found.set(round, []);
        found.get(round).push(row);
      }
      return found;
    }
  }

  const beds = index.beds.map((raw) => new Bed(raw));
  let bed = beds[0];
  const state = { facets: new Map(), outcome: -1, course: "any", words: "" };
  let chosen = []; // trajectories that match, in order
  let row = -1; // the decision that is shown
  const textMatch = new Uint8Array(index.textCount); // 1 for each text that holds the words

  // ---- the frame

  const tabs = make("div", { class: "tabs", role: "group", "aria-label": "Testbed" });
  const filters = make("form", { class: "filters", role: "search", "aria-label": "Choose decisions", on: { submit: (e) => e.preventDefault() } });
  const status = make("p", { class: "status", role: "status" });
  const list = new List({ label: "Trajectories", height: 52, row: item, chosen: (i) => open(chosen[i]) });
  const detail = make("div", { class: "detail", role: "region", "aria-label": "Trajectory", tabindex: "-1" });
  root.replaceChildren(tabs, filters, status, make("div", { class: "panes" }, list.node, detail));

  for (const one of beds) {
    const button = make("button", { type: "button", on: { click: () => turnTo(one) } }, `${one.title} (${one.rows.toLocaleString("en").replace(/,/g, "\u202F")})`);
    one.tab = button;
    tabs.append(button);
  }
  if (beds.length < 2) tabs.hidden = true;

  function turnTo(one) {
    bed = one;
    for (const b of beds) b.tab.setAttribute("aria-pressed", String(b === bed));
    state.facets.clear();
    Object.assign(state, { outcome: -1, course: "any", words: "" });
    buildFilters();
    apply();
  }

  function choice(label, key, options, change) {
    const select = make("select", { "data-key": key, on: { change: () => change(select.value) } });
    for (const [value, said] of options) select.append(make("option", { value }, said));
    return make("label", {}, make("span", {}, label), select);
  }

  function buildFilters() {
    const parts = [];
    for (const { column, options } of bed.facets) {
      const all = [["", "all"], ...options];
      parts.push(choice(column.label, column.key, all, (value) => {
        if (value === "") state.facets.delete(column.key);
        else state.facets.set(column.key, Number(value));
        apply();
      }));
    }
    const outcomes = bed.outcomes.map((o, i) => [i, `${o.mark} ${o.label}`]);
    parts.push(choice("Outcome", "outcome", [["", "all"], ...outcomes], (value) => {
      state.outcome = value === "" ? -1 : Number(value);
      apply();
    }));
    const courses = [["any", "all"], ["later", `${bed.tip}: after round 1`], ["first", `${bed.tip}: in round 1`], ["never", `no ${bed.tip}`]];
    parts.push(choice("Course", "course", courses, (value) => {
      state.course = value;
      apply();
    }));
    let waiting = 0;
    const input = make("input", { type: "search", placeholder: "in reasoning and answers", autocomplete: "off", spellcheck: "false", on: {
      input: () => {
        clearTimeout(waiting);
        waiting = setTimeout(() => {
          state.words = input.value.trim().toLowerCase();
          apply();
        }, 60);
      },
    } });
    const reset = make("button", { type: "button", on: { click: () => turnTo(bed) } }, "Reset");
    filters.replaceChildren(...parts, make("label", { class: "words" }, make("span", {}, "Text"), input), reset);
  }

  // ---- choosing

  let turn = 0;
  async function apply() {
    const mine = ++turn;
    if (state.words && !ready) {
      status.textContent = "Unpacking texts…";
      await unpackAll();
      if (mine !== turn) return;
    }
    const begun = performance.now();
    const { matched } = bed;
    matched.fill(1);
    for (const [key, value] of state.facets) {
      const values = bed.column(key);
      for (let i = 0; i < matched.length; i++) if (values[i] !== value) matched[i] = 0;
    }
    if (state.outcome >= 0) for (let i = 0; i < matched.length; i++) if (bed.outcome[i] !== state.outcome) matched[i] = 0;
    if (state.words) {
      search(index, state.words, textMatch);
      const ids = bed.column("text");
      for (let i = 0; i < matched.length; i++) if (textMatch[ids[i]] === 0) matched[i] = 0;
    }
    chosen = [];
    let decisions = 0;
    for (let t = 0; t < bed.starts.length; t++) {
      const tip = bed.tips[t];
      const course = tip < 0 ? "never" : bed.round[tip] === bed.round[bed.starts[t]] ? "first" : "later";
      if (state.course !== "any" && state.course !== course) continue;
      let any = 0;
      for (let i = bed.starts[t]; i < bed.ends[t]; i++) any += matched[i];
      if (any === 0) continue;
      decisions += any;
      chosen.push(t);
    }
    list.fill(chosen.length);
    const shown = (n, noun) => `${n.toLocaleString("en").replace(/,/g, "\u202F")} ${noun}${n === 1 ? "" : "s"}`;
    const whole = chosen.length === bed.starts.length && decisions === bed.rows;
    status.textContent = chosen.length === 0 ? "No decision matches." : `${whole ? "All " : ""}${shown(decisions, "decision")} in ${shown(chosen.length, "trajectory").replace(/ys$/, "ies")}`;
    if (chosen.length > 0) list.choose(0);
    else detail.replaceChildren(make("p", { class: "quiet" }, "Nothing to show. Choose less narrowly."));
    list.node.hidden = chosen.length === 0;
    root.dataset.filterMs = (performance.now() - begun).toFixed(1);
    root.dataset.matches = decisions;
  }

  let ready = false;
  let unpacking = null;
  function unpackAll() {
    unpacking ??= (async () => {
      for (let i = 0; i < index.texts.length; i++) await searchable(index, i);
      ready = true;
      root.dataset.texts = "ready";
    })();
    return unpacking;
  }

  // ---- the list

  function mark(outcome, label = true) {
    const { class: name, mark: sign, label: said } = bed.outcomes[outcome];
    return make("span", label ? { class: `mark ${name}`, title: said } : { class: `mark ${name}`, "aria-hidden": "true" }, sign);
  }

  function item(i) {
    const t = chosen[i];
    const start = bed.starts[t];
    const strip = make("span", { class: "strip" });
    let said = "";
    if (bed.groups) {
      for (const rows of bed.rounds(t).values()) {
        const [n, success] = [bed.column("colluders")[rows[0]], bed.column("tip")[rows[0]] === 1];
        strip.append(make("span", { class: `mark ${success ? "broke" : "kept"}` }, `${n}/${bed.column("agents")[rows[0]]}`));
      }
      said = `colluders by round, threshold ${bed.column("threshold")[start]}`;
    } else {
      for (let r = start; r < Math.min(bed.ends[t], start + 24); r++) {
        const sign = mark(bed.outcome[r], false);
        if (bed.matched[r] === 0) sign.classList.add("dim");
        strip.append(sign);
      }
      said = bed.outcomes.map((o, code) => {
        let n = 0;
        for (let r = start; r < bed.ends[t]; r++) n += bed.outcome[r] === code;
        return n ? `${n} ${o.label}` : "";
      }).filter(Boolean).join(", ");
    }
    return [
      make("span", { class: "name" }, bed.called(start)),
      make("span", { class: "under" }, make("span", { class: "agent" }, bed.agent(start)), strip, make("span", { class: "spoken" }, said)),
    ];
  }

  // ---- one trajectory

  function open(t, at = -1) {
    let first = -1;
    for (let r = bed.starts[t]; r < bed.ends[t] && first < 0; r++) if (bed.matched[r]) first = r;
    row = at >= 0 ? at : Math.max(first, bed.starts[t]);
    show(t);
  }

  // The same question, game or agent under the other variants, with this model, seed and sample.
  function siblings(t) {
    const keys = bed.names.concat("model", "seed");
    const same = (a, b) => keys.every((key) => bed.cell(key, a) === bed.cell(key, b));
    const mine = bed.starts[t];
    if (!bed.facets.some((f) => f.column.key === "variant")) return [];
    return bed.starts.map((start, i) => [start, i]).filter(([start]) => same(start, mine));
  }

  function focusOn(selector) {
    detail.querySelector(selector)?.focus();
  }

  function show(t, focus = null) {
    const start = bed.starts[t];
    const round = bed.round[row];
    const head = make("div", { class: "head" }, make("h3", {}, bed.called(start)));
    const group = bed.cell("group", row);
    const facts = [group, bed.cell("setting", row), bed.cell("population", row), bed.agent(row)];
    head.append(make("p", { class: "quiet" }, facts.filter(Boolean).join(" · ")));
    const jumps = make("div", { class: "jumps" });
    const step = (by, said) => {
      const to = list.at + by;
      const off = to < 0 || to >= chosen.length;
      return make("button", { type: "button", class: `step${by}`, disabled: off, on: { click: () => { list.choose(to); focusOn(`.step${by}`); } } }, said);
    };
    jumps.append(step(-1, "‹ Previous"), step(1, "Next ›"));
    const tip = bed.tips[t];
    if (tip >= 0) {
      const said = `${bed.tip[0].toUpperCase()}${bed.tip.slice(1)}: round ${bed.round[tip]}`;
      jumps.append(make("button", { type: "button", class: "tip-jump", "aria-pressed": String(tip === row), on: { click: () => { row = tip; show(t, ".tip-jump"); } } }, said));
    } else jumps.append(make("span", { class: "quiet" }, `No ${bed.tip}.`));
    const others = siblings(t);
    if (others.length > 1) {
      const bar = make("span", { class: "variants", role: "group", "aria-label": "The same under another variant" });
      for (const [other, i] of others) {
        bar.append(make("button", { type: "button", "aria-pressed": String(i === t), on: { click: () => {
          const at = chosen.indexOf(i);
          const same = [...bed.rounds(i).get(round) ?? [other]];
          if (at >= 0) list.choose(at, true);
          row = same.find((r) => bed.cell("agent", r) === bed.cell("agent", row)) ?? same[0];
          show(i, '.variants [aria-pressed="true"]');
        } } }, bed.cell("variant", other)));
      }
      jumps.append(bar);
    }
    head.append(jumps);
    detail.replaceChildren(head, bed.groups ? board(t) : rounds(t), decision(t));
    if (focus) focusOn(focus);
  }

  // Rounds as a row of buttons; arrow keys go along.
  function rounds(t) {
    const bar = make("div", { class: "rounds", role: "group", "aria-label": "Rounds" });
    const buttons = [];
    for (const [round, rows] of bed.rounds(t)) {
      for (const [i, r] of rows.entries()) {
        const label = rows.length > 1 ? `Round ${round}.${i + 1}` : `Round ${round}`;
        const outcome = bed.outcomes[bed.outcome[r]];
        const tool = bed.column("tool")?.[r] === 1 ? make("span", { class: "tool" }, "tool") : null;
        const button = make("button", {
          type: "button", "aria-pressed": String(r === row), class: `${outcome.class}${bed.matched[r] ? "" : " dim"}`, "data-row": r,
          on: { click: () => { row = r; show(t, '.rounds [aria-pressed="true"]'); } },
        }, make("span", {}, label), mark(bed.outcome[r], false), make("span", { class: "spoken" }, outcome.label), tool);
        buttons.push(button);
        bar.append(button);
      }
    }
    bar.addEventListener("keydown", (event) => along(event, buttons, t, '.rounds [aria-pressed="true"]'));
    return bar;
  }

  function along(event, buttons, t, focus) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const at = buttons.findIndex((b) => Number(b.dataset.row) === row);
    const to = buttons[at + by];
    if (!by || !to) return;
    event.preventDefault();
    row = Number(to.dataset.row);
    show(t, focus);
  }

  // The agents of a group side by side, round under round.
  function board(t) {
    const all = make("div", { class: "board" });
    const buttons = [];
    for (const [round, rows] of bed.rounds(t)) {
      const [n, of, threshold] = ["colluders", "agents", "threshold"].map((key) => bed.column(key)[rows[0]]);
      const met = bed.column("tip")[rows[0]] === 1;
      const said = `Round ${round}: ${n} of ${of} colluded, threshold ${threshold}: ${met ? "met" : "missed"}`;
      const cards = make("div", { class: "cards", role: "group", "aria-label": said });
      // All in one row: an agent's rounds stand under each other.
      cards.style.setProperty("--agents", rows.length);
      for (const r of rows) {
        const outcome = bed.outcomes[bed.outcome[r]];
        const words = make("span", { class: "excerpt" }, "…");
        const reward = bed.cell("reward", r);
        const button = make("button", {
          type: "button", class: `card ${outcome.class}${bed.matched[r] ? "" : " dim"}`, "aria-pressed": String(r === row), "data-row": r,
          on: { click: () => { row = r; show(t, '.board [aria-pressed="true"]'); } },
        }, make("span", { class: "who" }, `Agent ${bed.cell("agent", r)}`), make("span", {}, mark(bed.outcome[r], false), ` ${outcome.label}`),
          make("span", { class: "quiet" }, reward === null ? "no reward" : `reward ${reward}`), words);
        text(index, bed.column("text")[r]).then((whole) => {
          const [thought, answer] = parts(whole);
          const short = (thought || answer).replace(/\s+/g, " ");
          words.textContent = short.length > 150 ? `${short.slice(0, 150)}…` : short || (bed.cell("error", r) ?? `(${bed.cell("kind", r)})`);
        });
        buttons.push(button);
        cards.append(button);
      }
      all.append(make("p", { class: "round-head" }, `Round ${round}: ${n} of ${of} colluded, threshold ${threshold} `, make("b", { class: met ? "broke" : "kept" }, met ? "met" : "missed")), cards);
    }
    all.addEventListener("keydown", (event) => along(event, buttons, t, '.board [aria-pressed="true"]'));
    return all;
  }

  // What stands before the answer, and the answer: after a thinking block, or the last JSON object, or the last tag.
  function parts(whole) {
    const thought = whole.lastIndexOf("</think>");
    if (thought >= 0) return [whole.slice(0, thought).replace(/^\s*<think>/, "").trim(), whole.slice(thought + 8).trim()];
    const brace = whole.lastIndexOf("{");
    if (brace >= 0 && whole.indexOf("}", brace) > 0) return [whole.slice(0, brace).trim(), whole.slice(brace).trim()];
    const tag = whole.lastIndexOf("<answer>");
    if (tag >= 0) return [whole.slice(0, tag).trim(), whole.slice(tag).trim()];
    return ["", whole.trim()];
  }

  // Earlier decisions of the same agent in this trajectory.
  function earlier(t) {
    const agent = bed.groups ? bed.cell("agent", row) : null;
    const found = [];
    for (let r = bed.starts[t]; r < bed.ends[t]; r++)
      if (r !== row && bed.round[r] < bed.round[row] && (agent === null || bed.cell("agent", r) === agent)) found.push(r);
    return found;
  }

  let against = "none"; // kept while one goes on: "none" or how many rounds back
  function decision(t) {
    const shown = row;
    const outcome = bed.outcomes[bed.outcome[row]];
    const facts = make("dl", { class: "facts" });
    for (const column of bed.columns.values()) {
      if (column.use === "inner" || bed.names.includes(column.key) || ["model", "variant", "seed", "group", "setting", "population", "round"].includes(column.key)) continue;
      const value = bed.said(column, column.values[row]);
      if (value !== null && value !== "") facts.append(make("div", {}, make("dt", {}, column.label), make("dd", {}, value)));
    }
    const asked = make("div", { class: "asked" }, make("h4", {}, "Prompt"), make("p", { class: "quiet" }, "…"));
    const id = bed.column("prompt")[row];
    if (id < 0) asked.lastChild.textContent = bed.cell("finish", row) === "fixed" ? "None: a fixed rule decides for this agent." : "Not at hand.";
    else
      prompt(index, id).then((turns) => {
        if (shown !== row) return;
        asked.lastChild.remove();
        for (const [who, said] of turns) asked.append(make("p", { class: "who" }, who), make("div", { class: "said", tabindex: "0", role: "group", "aria-label": `Prompt, ${who}` }, said));
      });
    const wrote = make("div", { class: "wrote" });
    const before = earlier(t).reverse();
    const compare = make("select", { "aria-label": "Show what changed", on: { change: () => { against = compare.value; write(); } } }, make("option", { value: "none" }, "as written"));
    for (const [i, r] of before.entries()) compare.append(make("option", { value: i }, `changes since round ${bed.round[r]}${bed.column("step") ? `.${bed.column("step")[r] + 1}` : ""}`));
    compare.value = [...compare.options].some((o) => o.value === against) ? against : "none";
    const body = make("div", {});
    wrote.append(...[make("div", { class: "verdict" }, make("b", { class: outcome.class }, mark(bed.outcome[row], false), ` ${outcome.label}`),
      make("span", { class: "quiet" }, ` in round ${bed.round[row]}${bed.groups ? `, agent ${bed.cell("agent", row)}` : ""}`)), before.length > 0 ? make("label", { class: "against" }, "Show ", compare) : null, body, make("h4", {}, "Facts"), facts].filter(Boolean));
    async function write() {
      const now = await text(index, bed.column("text")[shown]);
      const then = compare.value === "none" ? null : await text(index, bed.column("text")[before[Number(compare.value)]]);
      if (shown !== row) return;
      body.replaceChildren();
      const [a, b] = [parts(now), then === null ? null : parts(then)];
      for (const [i, name] of ["Reasoning", "Answer"].entries()) {
        const said = make("div", { class: "said", tabindex: "0", role: "group", "aria-label": name });
        if (a[i] === "" && (b === null || b[i] === "")) {
          if (i === 0) continue;
          said.append(make("span", { class: "quiet" }, bed.cell("error", row) ?? "(no text)"));
        } else if (b === null) lit(said, a[i]);
        else {
          const runs = difference(b[i], a[i]);
          if (runs === null) said.append(make("p", { class: "quiet" }, "Too different to set side by side; as written:"), a[i]);
          else if (runs.every(([what]) => what === 0)) said.append(make("p", { class: "quiet" }, "Word for word the same."), a[i]);
          else for (const [what, run] of runs) said.append(what === 0 ? run : make(what > 0 ? "ins" : "del", {}, run));
        }
        body.append(make("h4", {}, name), said);
      }
      root.dataset.shown = shown;
    }
    write();
    return make("div", { class: "decision" }, wrote, asked);
  }

  // Text with what was searched for marked.
  function lit(node, said) {
    const small = said.toLowerCase();
    if (!state.words || small.length !== said.length) return node.append(said);
    let from = 0;
    for (let at = small.indexOf(state.words); at >= 0; at = small.indexOf(state.words, from)) {
      node.append(said.slice(from, at), make("mark", {}, said.slice(at, at + state.words.length)));
      from = at + state.words.length;
    }
    node.append(said.slice(from));
  }

  turnTo(beds[0]);
  root.dataset.ready = (performance.now() - started).toFixed(0);
  const idle = window.requestIdleCallback ?? ((f) => setTimeout(f, 200));
  idle(() => unpackAll());
})();
