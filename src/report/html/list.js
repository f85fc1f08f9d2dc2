// What the viewer stands on: packed blocks, a list that draws only what is in sight, and differences of texts.
"use strict";
const Traces = (() => {
  // ---- packed blocks

  function unpacked(id) {
    const element = document.getElementById(id);
    const packed = element.textContent;
    element.remove();
    const bytes = Uint8Array.fromBase64 ? Uint8Array.fromBase64(packed) : Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  const promised = new Map();
  // A block once: its text, turned into something by `read`.
  function block(id, read) {
    if (!promised.has(id)) promised.set(id, unpacked(id).then(read));
    return promised.get(id);
  }

  // The place of the last start that is not above `value`.
  function place(starts, value) {
    let [low, high] = [0, starts.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (starts[middle] <= value) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  const texts = (index, i) => block(`traces-texts-${i}`, (joined) => joined.split("\0"));

  async function text(index, id) {
    const i = place(index.texts, id);
    return (await texts(index, i))[id - index.texts[i]];
  }

  // A prompt as turns: who speaks, and what.
  async function prompt(index, id) {
    const lines = await block("traces-lines", JSON.parse);
    const i = Math.floor(id / index.prompts);
    const found = (await block(`traces-prompts-${i}`, JSON.parse))[id - i * index.prompts];
    const turns = [];
    for (const line of found) {
      if (lines[line].startsWith("\u0001")) turns.push([lines[line].slice(1), []]);
      else turns[turns.length - 1][1].push(lines[line]);
    }
    return turns.map(([who, said]) => [who, said.join("\n")]);
  }

  // Lower-case texts of a block in one string, and where each begins in it: to be searched in one go.
  const searched = new Map();
  async function searchable(index, i) {
    if (!searched.has(i)) {
      const starts = [];
      let at = 0;
      const lower = (await texts(index, i)).map((t) => {
        const small = t.toLowerCase();
        starts.push(at);
        at += small.length + 1;
        return small;
      });
      searched.set(i, { starts, joined: lower.join("\0") });
    }
    return searched.get(i);
  }

  // Which texts hold `wanted`, as 1 and 0; `ready` blocks only.
  function search(index, wanted, found) {
    found.fill(0);
    for (const [i, { starts, joined }] of searched) {
      let from = joined.indexOf(wanted);
      while (from >= 0) {
        const at = place(starts, from);
        found[index.texts[i] + at] = 1;
        if (at + 1 >= starts.length) break;
        from = joined.indexOf(wanted, starts[at + 1]);
      }
    }
  }

  // ---- elements

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "on") for (const [event, what] of Object.entries(value)) node.addEventListener(event, what);
      else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  }

  // ---- a list of any length of which only the rows in sight exist

  class List {
    constructor({ label, height, row, chosen }) {
      Object.assign(this, { height, row, chosen, count: 0, at: -1, drawn: new Map() });
      this.space = make("div", { class: "space", role: "presentation" });
      this.node = make("div", { class: "list", role: "listbox", tabindex: "0", "aria-label": label }, this.space);
      this.node.addEventListener("scroll", () => this.draw(), { passive: true });
      this.node.addEventListener("keydown", (event) => this.key(event));
      new ResizeObserver(() => this.draw()).observe(this.node);
    }

    fill(count) {
      this.count = count;
      this.at = -1;
      this.space.style.height = `${count * this.height}px`;
      this.node.scrollTop = 0;
      for (const node of this.drawn.values()) node.remove();
      this.drawn.clear();
      this.draw();
    }

    draw() {
      const first = Math.max(0, Math.floor(this.node.scrollTop / this.height) - 4);
      const last = Math.min(this.count, Math.ceil((this.node.scrollTop + this.node.clientHeight) / this.height) + 4);
      for (const [i, node] of this.drawn) {
        if (i >= first && i < last) continue;
        node.remove();
        this.drawn.delete(i);
      }
      for (let i = first; i < last; i++) {
        if (this.drawn.has(i)) continue;
        const node = make("div", {
          class: "item", role: "option", id: `item-${i}`, "aria-posinset": i + 1, "aria-setsize": this.count,
          "aria-selected": String(i === this.at), on: { click: () => this.choose(i) },
        }, ...this.row(i));
        node.style.top = `${i * this.height}px`;
        node.style.height = `${this.height}px`;
        this.drawn.set(i, node);
        this.space.append(node);
      }
    }

    choose(i, quiet = false) {
      if (i < 0 || i >= this.count) return;
      this.drawn.get(this.at)?.setAttribute("aria-selected", "false");
      this.at = i;
      const top = i * this.height;
      if (top < this.node.scrollTop) this.node.scrollTop = top;
      else if (top + this.height > this.node.scrollTop + this.node.clientHeight)
        this.node.scrollTop = top + this.height - this.node.clientHeight;
      this.draw();
      this.drawn.get(i)?.setAttribute("aria-selected", "true");
      this.node.setAttribute("aria-activedescendant", `item-${i}`);
      if (!quiet) this.chosen(i);
    }

    key(event) {
      const page = Math.max(1, Math.floor(this.node.clientHeight / this.height) - 1);
      const go = { ArrowDown: this.at + 1, ArrowUp: this.at - 1, PageDown: this.at + page, PageUp: this.at - page, Home: 0, End: this.count - 1 };
      if (!(event.key in go)) return;
      event.preventDefault();
      this.choose(Math.max(0, Math.min(this.count - 1, go[event.key])));
    }
  }

  // ---- differences by word (Myers' greedy algorithm)

  const words = (text) => text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];

  // Runs of [what, text], what being -1 taken out, 0 kept, 1 put in; none where the texts are too far apart to compare.
  function difference(before, after, most = 1500) {
    const [a, b] = [words(before), words(after)];
    let head = 0;
    while (head < a.length && head < b.length && a[head] === b[head]) head++;
    let tail = 0;
    while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
    const [x, y] = [a.slice(head, a.length - tail), b.slice(head, b.length - tail)];
    const steps = path(x, y, most);
    if (!steps) return null;
    const runs = [];
    const add = (what, word) => {
      if (runs.length > 0 && runs[runs.length - 1][0] === what) runs[runs.length - 1][1] += word;
      else runs.push([what, word]);
    };
    for (const word of a.slice(0, head)) add(0, word);
    for (const [what, word] of steps) add(what, word);
    for (const word of a.slice(a.length - tail)) add(0, word);
    return runs;
  }

  function path(a, b, most) {
    const [n, m] = [a.length, b.length];
    const limit = Math.min(n + m, most);
    const reach = new Int32Array(2 * limit + 3);
    const mid = limit + 1;
    const trail = [];
    for (let d = 0; d <= limit; d++) {
      trail.push(reach.slice(mid - d - 1, mid + d + 2));
      for (let k = -d; k <= d; k += 2) {
        const down = k === -d || (k !== d && reach[mid + k - 1] < reach[mid + k + 1]);
        let x = down ? reach[mid + k + 1] : reach[mid + k - 1] + 1;
        while (x < n && x - k < m && a[x] === b[x - k]) x++;
        reach[mid + k] = x;
        if (x >= n && x - k >= m) return back(a, b, trail, d);
      }
    }
    return null;
  }

  function back(a, b, trail, d) {
    const steps = [];
    let [x, y] = [a.length, b.length];
    for (; d > 0; d--) {
      const reach = trail[d];
      const of = (k) => reach[k + d + 1];
      const k = x - y;
      const down = k === -d || (k !== d && of(k - 1) < of(k + 1));
      const from = down ? k + 1 : k - 1;
      const start = of(from);
      while (x > start + (down ? 0 : 1) && y > start - from + (down ? 1 : 0)) steps.push([0, a[--x], y--]);
      if (down) steps.push([1, b[--y]]);
      else steps.push([-1, a[--x]]);
    }
    while (x > 0) steps.push([0, a[--x]]);
    return steps.reverse();
  }

  return { block, text, texts, prompt, searchable, search, make, List, difference };
})();
