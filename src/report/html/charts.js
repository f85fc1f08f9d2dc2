// Values under the pointer or the arrow keys, and lines that can be put away, on charts that are drawn without it.
"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const make = (tag, attributes, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const draw = (tag, attributes) => {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const said = (value) => {
    const size = Math.abs(value);
    const text = size !== 0 && (size < 0.01 || size >= 1e6) ? value.toExponential(2) : String(+value.toPrecision(4));
    return text.replace(/-/g, "\u2212");
  };
  // The way from a value to a place in the drawing.
  const scale = (text) => {
    const [low, from, high, to] = text.split(" ").map(Number);
    return (value) => from + ((value - low) / (high - low || 1)) * (to - from);
  };

  const tip = make("div", { class: "tip", hidden: "" });
  const spoken = make("div", { class: "spoken", "aria-live": "polite" });

  function lines(svg) {
    return [...svg.querySelectorAll("g[data-line]")].map((group) => ({
      group,
      place: group.dataset.line,
      label: group.dataset.label,
      offset: Number(group.dataset.offset),
      style: group.classList[0],
      points: group.dataset.points ? group.dataset.points.split(" ").map((p) => p.split(",").map(Number)) : [],
    }));
  }

  function enhance(svg) {
    const all = lines(svg).filter((line) => line.points.length > 0);
    if (all.length === 0) return;
    const [nameX, nameY] = svg.dataset.names.split("|");
    const [x, y] = [scale(svg.dataset.x), scale(svg.dataset.y)];
    const [, bottom, , top] = svg.dataset.y.split(" ").map(Number);
    const cursor = draw("path", { class: "cursor", visibility: "hidden" });
    svg.append(cursor);
    let at = -1;
    const shown = () => all.filter((line) => !line.group.classList.contains("away"));
    const places = () => [...new Set(shown().flatMap((line) => line.points.map((p) => p[0])))].sort((a, b) => a - b);

    function show(value, speak) {
      const px = x(value);
      cursor.setAttribute("d", `M${px} ${bottom}V${top}`);
      cursor.setAttribute("visibility", "visible");
      const rows = [];
      for (const line of shown()) {
        const point = line.points.find((p) => p[0] === value);
        if (!point) continue;
        const interval = point.length > 2 ? ` (${said(point[2])} to ${said(point[3])})` : "";
        rows.push([line, said(point[1]) + interval, point[1]]);
      }
      rows.sort((a, b) => b[2] - a[2]);
      tip.replaceChildren(make("b", {}, `${nameX} ${said(value)}`));
      for (const [line, text] of rows) {
        const name = line.label || nameY;
        tip.append(make("div", {}, make("i", { class: `swatch ${line.style}` }), `${name ? name + ": " : ""}${text}`));
      }
      tip.hidden = false;
      const box = svg.getBoundingClientRect();
      const view = svg.viewBox.baseVal;
      const left = box.left + ((px - view.x) / view.width) * box.width;
      const wide = tip.offsetWidth;
      const right = left + 14 + wide > document.documentElement.clientWidth;
      const place = right ? Math.max(4, left - 14 - wide) : left + 14;
      tip.style.left = `${place + window.scrollX}px`;
      tip.style.top = `${Math.max(box.top, 4) + window.scrollY + 8}px`;
      if (speak) {
        const parts = rows.map(([line, text]) => `${line.label || nameY} ${text}`);
        spoken.textContent = `${nameX} ${said(value)}: ${parts.join("; ")}`;
      }
    }
    function hide() {
      at = -1;
      tip.hidden = true;
      cursor.setAttribute("visibility", "hidden");
    }
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const view = svg.viewBox.baseVal;
      const px = view.x + ((event.clientX - box.left) / box.width) * view.width;
      let best = null;
      for (const value of places()) if (best === null || Math.abs(x(value) - px) < Math.abs(x(best) - px)) best = value;
      if (best === null) return hide();
      at = places().indexOf(best);
      show(best, false);
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.setAttribute("tabindex", "0");
    svg.addEventListener("keydown", (event) => {
      const all = places();
      const go = { ArrowRight: at + 1, ArrowLeft: at < 0 ? all.length - 1 : at - 1, Home: 0, End: all.length - 1 }[event.key];
      if (event.key === "Escape") return hide();
      if (go === undefined || all.length === 0) return;
      event.preventDefault();
      at = Math.max(0, Math.min(all.length - 1, go));
      show(all[at], true);
    });
  }

  // Buttons that put lines away: one for each label, for all sizes of the chart.
  function legend(figure) {
    const charts = [...figure.querySelectorAll("svg.chart")];
    const labels = new Map();
    for (const svg of charts)
      for (const line of lines(svg)) if (line.label && !labels.has(line.label)) labels.set(line.label, line.style);
    if (labels.size < 2) return;
    const bar = make("div", { class: "legend", role: "group", "aria-label": "Lines shown" });
    for (const [label, style] of labels) {
      const button = make("button", { type: "button", "aria-pressed": "true" }, make("i", { class: `swatch ${style}` }), label);
      button.addEventListener("click", () => {
        const away = button.getAttribute("aria-pressed") === "true";
        button.setAttribute("aria-pressed", String(!away));
        for (const svg of charts) {
          for (const line of lines(svg)) {
            if (line.label !== label) continue;
            line.group.classList.toggle("away", away);
            for (const end of svg.querySelectorAll(`[data-end="${line.place}"]`)) end.classList.toggle("away", away);
          }
        }
      });
      bar.append(button);
    }
    figure.querySelector("figcaption").before(bar);
  }

  document.body.append(tip, spoken);
  // The browser's own titles would cover these values.
  for (const title of document.querySelectorAll("svg.chart path.mark > title")) title.remove();
  document.querySelectorAll("svg.chart").forEach(enhance);
  document.querySelectorAll("figure").forEach(legend);
})();
