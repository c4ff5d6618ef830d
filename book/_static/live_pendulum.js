/* The mass on a spring of chapter 10: momentum layers step by step, out, and home again by the inverse.

   `given` holds `start`, the spring's `slope` and `rest`, and the `gamma` and the number of `layers` to begin with. All of it is
   float32, rounded after each operation as torch does; tests/book/test_live_pendulum.py holds every bit to torch's. */
"use strict";

capsnb.live("pendulum", (given) => {
  const { element, svg, slider, button, said, chart, colours } = capsnb;
  const round = Math.fround;
  const [HIGHEST, LEAST, MOST] = [2.4, -8, 4]; // of x, and of the error's power of ten
  const PAUSE = 40; // milliseconds between layers, all the way
  const OUT = { stroke: colours[0], "stroke-width": 2, "stroke-dasharray": "7 4" };
  const HOME = { stroke: colours[1], "stroke-width": 1.5, fill: "none" };
  const FORETOLD = { stroke: "currentColor", "stroke-width": 2, "stroke-dasharray": "2 4" };

  const gammas = [...Array.from({ length: 19 }, (_, k) => (k + 1) / 20), 0.99, 1];
  const gamma = slider("γ", gammas, given.gamma, begin);
  const layers = slider("layers", Array.from({ length: 10 }, (_, k) => 10 * (k + 1)), given.layers, begin);
  const buttons = [["Step", () => go(forward)], ["Back", () => go(backward)], ["All the way there", () => allTheWay(forward)],
    ["All the way home", () => allTheWay(backward)]].map(([label, press]) => button(label, press));
  const panels = element("div", { class: "live-panels" });
  const numbers = element("div", { class: "live-numbers" });
  const told = said();
  let n, x, v, out, home, path, error, waiting; // out: [x, v] of each layer; home: [layer, x] of those come back to

  const push = (at) => round(round(given.slope) * round(given.rest - at));
  const pushed = (at) => round(round(1 - gamma.read()) * push(at));

  function forward() { // equations 3 and 4
    if (n === layers.read()) return false;
    v = round(round(round(gamma.read()) * v) + pushed(x));
    x = round(x + v);
    n += 1;
    out.splice(n, Infinity, [x, v]);
    home = [];
    return true;
  }

  function backward() { // equations 5 and 6
    if (n === 0) return false;
    x = round(x - v);
    v = round(round(v - pushed(x)) / round(gamma.read()));
    n -= 1;
    home.push([n, x]);
    return true;
  }

  function go(step) {
    clearTimeout(waiting);
    step();
    draw();
    tell();
  }

  // Layer after layer, if movement is welcome; otherwise at once. What is said is said at the end.
  function allTheWay(step) {
    clearTimeout(waiting);
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    let more = step();
    while (still && more) more = step();
    draw();
    if (more) waiting = setTimeout(() => allTheWay(step), PAUSE);
    else tell();
  }

  function begin() {
    clearTimeout(waiting);
    [n, x, v, out, home] = [0, round(given.start), 0, [[round(given.start), 0]], []];
    const across = { name: "layer", from: 0, to: layers.read(), ticks: [0, layers.read() / 2, layers.read()] };
    path = chart("The height x of the mass, by layer: out, and home", across,
      { name: "x", from: 0, to: HIGHEST, ticks: [0, given.rest, given.start] }, { left: 92 });
    error = chart("The error of x on the way home, by layer, beside what γ to the power −n foretells", across,
      { name: "error on the way home", from: LEAST, to: MOST, ticks: [-8, -4, 0, 4],
        shown: (tick) => ({ [LEAST]: "0", 0: "1" }[tick] || `1e${tick}`) }, { left: 62 });
    panels.replaceChildren(path.picture, error.picture);
    draw();
    tell();
  }

  const inside = (at) => at >= 0 && at <= HIGHEST;
  const missed = ([layer, at]) => (Number.isFinite(at) ? Math.abs(at - out[layer][0]) : Infinity);
  const foretold = (undone) => 2 ** -24 * gamma.read() ** -undone;
  const power = (size) => Math.min(MOST, Math.max(LEAST, Math.log10(size))); // none at all lies on the chart's floor

  function draw() {
    path.plot.replaceChildren(path.line(out.map(([at], k) => [k, at]), OUT),
      ...home.filter(([, at]) => inside(at)).map(([k, at]) => svg("circle", { ...HOME, cx: path.x(k), cy: path.y(at), r: 3.5 })),
      ...(inside(x) ? hanging(path.y(x)) : []));
    const last = out.length - 1;
    const farthest = gamma.read() < 1 ? Math.min(last, (MOST * Math.LN10 + 24 * Math.LN2) / -Math.log(gamma.read())) : last;
    error.plot.replaceChildren(
      error.line([[last, power(foretold(0))], [last - farthest, power(foretold(farthest))]], FORETOLD),
      ...home.map((one) => svg("path", { class: "pendulum-error", fill: colours[1],
        transform: `translate(${error.x(one[0])} ${error.y(power(missed(one)))})`, d: "M0,-5L4.5,3.5H-4.5Z" })));
    numbers.replaceChildren(number("x", x), number("v", v),
      number("x on the way out", out[n][0]), number("v on the way out", out[n][1]));
    buttons.forEach((one, k) => one.setAttribute("aria-disabled", String(k % 2 ? n === 0 : n === layers.read())));
  }

  // The spring from above, the mass, and a line to where it is on its way.
  function hanging(height) {
    const spring = Array.from({ length: 12 }, (_, k) => `${[40, 28][k % 2]},${4 + ((height - 16) * (k + 1)) / 13}`).join("L");
    return [svg("path", { class: "live-grid", d: `M34,${height}H${path.x(n)}` }),
      svg("path", { class: "live-axes", d: `M34,2L${spring}L34,${height - 10}` }),
      svg("circle", { cx: 34, cy: height, r: 10, fill: colours[home.length ? 1 : 0] }),
      svg("circle", { cx: path.x(n), cy: height, r: 4, fill: "currentColor" })];
  }

  const minus = (text) => text.replaceAll("-", "−");
  const few = (size) => minus(size >= 0.01 && size < 1000 ? String(Number(size.toPrecision(2))) : size.toExponential(1));

  function number(name, value) { // nine digits tell float32 numbers apart
    return element("div", {}, element("span", {}, name), element("span", {}, minus(String(Number(value.toPrecision(9))))));
  }

  function tell() {
    const where = `γ = ${gamma.read()}, layer ${n} of ${layers.read()}`;
    if (!home.length) {
      told.textContent = minus(`${where}: x = ${x.toFixed(3)}, v = ${v.toFixed(3)}.`);
      return;
    }
    const [undone, size] = [out.length - 1 - n, missed(home.at(-1))];
    const far = size < Infinity ? `${few(size)} from where it was` : "beyond float32's numbers";
    told.textContent = `${where}, ${undone} undone: ${size === 0 ? "exactly where it was" : far}${inside(x) ? "" : ", off the picture"}. `
      + `Half a last digit, times γ to the power −${undone}, is ${few(foretold(undone))}.`;
  }

  begin();
  const keys = [[colours[0], "dashed", "out"], [colours[1], "solid", "home (○), its error (▲)"],
    ["currentColor", "dotted", "γ to the power −n"]];
  const legend = element("div", { class: "live-row", "aria-hidden": "true" }, ...keys.map(([ink, dash, name]) =>
    element("span", { class: "live-key", style: `--ink: ${ink}; --dash: ${dash}` }, name)));
  return element("div", { role: "group", "aria-label": "A mass on a spring, out through the layers and home again" },
    gamma.row, layers.row, element("div", { class: "live-row" }, ...buttons), panels, legend, numbers, told);
});
