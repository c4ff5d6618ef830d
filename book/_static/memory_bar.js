/* The memory bar of chapter 17: two sliders move the parts of a training step's memory.

   Its numbers come from the page: `data-lines` holds, for each network, four coefficients of three parts,
   size = a + b * blocks + c * batch + d * blocks * batch, in MB; `data-colours` the colours of the still picture, which
   stays where there is no JavaScript. */
"use strict";

(() => {
  const PARTS = ["weights, Adam's moments", "kept when the way back begins", "on top at the highest point"];

  function sizes([a, b, c, d], blocks, batch) {
    return PARTS.map((_, k) => Math.max(0, a[k] + b[k] * blocks + c[k] * batch + d[k] * blocks * batch));
  }

  function element(name, attributes = {}, text = "") {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  }

  function slider(label, values, start, changed) {
    const row = element("label", { class: "memory-slider" });
    const shown = element("output");
    const input = element("input", {
      type: "range", min: 0, max: values.length - 1, step: 1, value: values.indexOf(start),
    });
    const read = () => values[Number(input.value)];
    const show = () => {
      shown.textContent = String(read());
      input.setAttribute("aria-valuetext", `${read()} ${label}`);
    };
    input.addEventListener("input", () => { show(); changed(); });
    show();
    row.append(element("span", {}, label), input, shown);
    return { row, read };
  }

  function build(place) {
    const lines = JSON.parse(place.dataset.lines);
    const colours = JSON.parse(place.dataset.colours);
    const names = Object.keys(lines);
    const bars = element("div", { class: "memory-rows" });
    const said = element("p", { class: "memory-said", "aria-live": "polite" });
    const blocks = slider("blocks", Array.from({ length: 20 }, (_, k) => k + 1), 8, draw);
    const batch = slider("images", [16, 32, 64, 128, 256, 512], 128, draw);

    function draw() {
      const all = names.map((name) => sizes(lines[name], blocks.read(), batch.read()));
      const totals = all.map((parts) => parts.reduce((sum, part) => sum + part, 0));
      const widest = Math.max(...totals);
      bars.replaceChildren(...names.map((name, i) => {
        const bar = element("div", { class: "memory-track" });
        for (const [k, size] of all[i].entries()) {
          const part = element("span", { title: `${PARTS[k]}: ${Math.round(size)} MB` });
          part.style.width = `${(100 * size) / widest}%`;
          part.style.background = colours[k];
          bar.append(part);
        }
        const row = element("div", { class: "memory-row" });
        row.append(element("span", { class: "memory-name" }, name), bar,
          element("span", { class: "memory-total" }, `${Math.round(totals[i]).toLocaleString("en")} MB`));
        return row;
      }));
      said.textContent = `${blocks.read()} blocks, ${batch.read()} images: ` +
        names.map((name, i) => `${name} ${Math.round(totals[i]).toLocaleString("en")} MB`).join("; ") + ".";
    }

    const legend = element("div", { class: "memory-legend", "aria-hidden": "true" });
    for (const [k, part] of PARTS.entries()) {
      const key = element("span", {}, part);
      key.style.setProperty("--ink", colours[k]);
      legend.append(key);
    }
    const live = element("div", { role: "group", "aria-label": "Memory of a training step, by blocks and images" });
    live.append(blocks.row, batch.row, bars, legend, said);
    draw();
    place.replaceChildren(live);
  }

  document.addEventListener("DOMContentLoaded", () => {
    for (const place of document.querySelectorAll(".memory-bar[data-lines]")) build(place);
  });
})();
