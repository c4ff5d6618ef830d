/* The memory bar of chapter 17: two sliders move the parts of a training step's memory.

   `given.lines` holds, for each network, four coefficients of three parts: size = a + b * blocks + c * batch
   + d * blocks * batch, in MB. */
"use strict";

capsnb.live("memory", ({ lines }) => {
  const { element, slider, said, colours } = capsnb;
  const PARTS = ["weights, Adam's moments", "kept when the way back begins", "on top at the highest point"];
  const names = Object.keys(lines);
  const bars = element("div", { class: "memory-rows" });
  const told = said();
  const blocks = slider("blocks", Array.from({ length: 20 }, (_, k) => k + 1), 8, draw);
  const batch = slider("images", [16, 32, 64, 128, 256, 512], 128, draw);

  function sizes([a, b, c, d]) {
    const [n, B] = [blocks.read(), batch.read()];
    return PARTS.map((_, k) => Math.max(0, a[k] + b[k] * n + c[k] * B + d[k] * n * B));
  }

  function draw() {
    const all = names.map((name) => sizes(lines[name]));
    const totals = all.map((parts) => parts.reduce((sum, part) => sum + part, 0));
    const said = totals.map((total) => `${Math.round(total).toLocaleString("en")} MB`);
    const widest = Math.max(...totals);
    bars.replaceChildren(...names.map((name, i) => {
      const parts = all[i].map((size, k) => element("span", {
        title: `${PARTS[k]}: ${Math.round(size)} MB`, style: `width: ${(100 * size) / widest}%; background: ${colours[k]}`,
      }));
      return element("div", { class: "memory-row" }, element("span", { class: "memory-name" }, name),
        element("div", { class: "memory-track" }, ...parts), element("span", { class: "memory-total" }, said[i]));
    }));
    told.textContent = `${blocks.read()} blocks, ${batch.read()} images: ${names.map((name, i) => `${name} ${said[i]}`).join("; ")}.`;
  }

  const legend = element("div", { class: "live-legend", "aria-hidden": "true" },
    ...PARTS.map((part, k) => element("span", { style: `--ink: ${colours[k]}` }, part)));
  draw();
  return element("div", { role: "group", "aria-label": "Memory of a training step, by blocks and images" },
    blocks.row, batch.row, bars, legend, told);
});
