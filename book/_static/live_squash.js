/* The squash of chapter 2: a vector s to drag, what the squash makes of it, and of a small ring around it.

   `given` holds `start`, where s begins, and `ring`, the ring's radius. The lengths and gains are the chapter's formulas;
   tests/book/test_live_squash.py holds them to capsnb.squash and its gradient. */
"use strict";

capsnb.live("squash", ({ start, ring }) => {
  const { element, svg, said, chart, draggable, colours } = capsnb;
  const [WIDTH, HEIGHT, UNIT] = [330, 270, 60]; // of the plane, in its own pixels
  const FARTHEST = [2.5, 2]; // what s may reach, and the ring is still in the picture
  const KEY_STEP = 0.1;
  const LINES = [ // the three curves: colour, dash and marker say the same
    { name: "squash(s): length after", of: (n) => (n * n) / (1 + n * n), dash: "solid", ink: { stroke: colours[0] } },
    { name: "stretching: radial gain", of: (n) => (2 * n) / (1 + n * n) ** 2, dash: "dashed",
      ink: { stroke: colours[1], "stroke-dasharray": "8 5" } },
    { name: "turning: tangential gain", of: (n) => n / (1 + n * n), dash: "dotted",
      ink: { stroke: colours[2], "stroke-dasharray": "2 4" } },
  ];
  const MARKERS = ["M-5,0A5,5 0 1 1 5,0A5,5 0 1 1 -5,0", "M-5,-5H5V5H-5Z", "M0,-6L6,5H-6Z"];
  let s = start;

  const [x, y] = [(a) => WIDTH / 2 + UNIT * a, (b) => HEIGHT / 2 - UNIT * b];
  const drawn = svg("g");
  const handle = svg("circle", { r: 9, fill: colours[5] });
  const letter = svg("text", {}, "s");
  const plane = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": "The plane with s and squash(s)" },
    svg("path", { class: "live-grid", d: `M0,${y(0)}H${WIDTH}M${x(0)},0V${HEIGHT}` }),
    svg("circle", { class: "live-axes", cx: x(0), cy: y(0), r: UNIT, "stroke-dasharray": "2 4" }),
    svg("text", { x: x(0) + 4, y: y(-1) + 16 }, "length 1"), drawn, letter, handle);
  draggable(plane, handle, "s: drag it, or push it with the arrow keys",
    (a, b) => move((a - x(0)) / UNIT, (y(0) - b) / UNIT),
    (dx, dy) => move(s[0] + KEY_STEP * dx, s[1] + KEY_STEP * dy));

  const curves = chart("The length after the squash and the two gains of the gradient, against the length before",
    { name: "length before, n", from: 0, to: 3.25, ticks: [0, 1, 2, 3] },
    { name: "length after, gains", from: 0, to: 1, ticks: [0, 0.5, 1] });
  const many = Array.from({ length: 131 }, (_, i) => i / 40);
  const ends = [[0.74, "length after"], [0.13, "stretching"], [0.37, "turning"]];
  const now = svg("g");
  curves.plot.append(...LINES.map(({ of, ink }) => curves.line(many.map((n) => [n, of(n)]), { "stroke-width": 2.5, ...ink })),
    ...ends.map(([at, name]) => svg("text", { x: curves.right, y: curves.y(at), "text-anchor": "end" }, name)), now);

  const numbers = element("div", { class: "live-numbers" });
  const told = said();

  function move(a, b) { // to hundredths, so that 1 can be met exactly
    s = [a, b].map((value, i) => Math.round(100 * Math.max(-FARTHEST[i], Math.min(FARTHEST[i], value))) / 100);
    draw();
  }

  // An arrow from the middle, as one outline: a shaft 2 * half wide, and a head.
  function arrow(length, half, attributes) {
    const [end, head] = [UNIT * length, Math.min(UNIT * length, 8 * half)];
    const d = `M0,${-half}H${end - head}V${-3 * half}L${end},0L${end - head},${3 * half}V${half}H0Z`;
    return svg("path", { d, ...attributes });
  }

  function draw() {
    const n = Math.hypot(...s);
    const [after, radial, tangential] = LINES.map(({ of }) => of(n));
    const turned = { transform: `translate(${x(0)} ${y(0)}) rotate(${(-180 / Math.PI) * Math.atan2(s[1], s[0])})` };
    const outline = { fill: "none", "stroke-width": 2 };
    drawn.replaceChildren(svg("g", turned,
      arrow(n, 1.2, { fill: colours[5] }),
      svg("circle", { cx: UNIT * n, r: UNIT * ring, stroke: colours[5], "stroke-dasharray": "5 4", ...outline }),
      arrow(after, 3.5, { class: "squash-after", fill: colours[0] }),
      svg("ellipse", { class: "squash-ring", cx: UNIT * after, rx: UNIT * ring * radial, ry: UNIT * ring * tangential,
        stroke: "currentColor", ...outline })));
    letter.setAttribute("x", x(s[0]) - 3);
    letter.setAttribute("y", y(s[1]) - 18);
    handle.setAttribute("cx", x(s[0]));
    handle.setAttribute("cy", y(s[1]));
    now.replaceChildren(svg("path", { class: "live-axes", d: `M${curves.x(n)},${curves.top}V${curves.bottom}` }),
      ...LINES.map(({ of, ink }, i) => svg("path",
        { d: MARKERS[i], fill: ink.stroke, transform: `translate(${curves.x(n)} ${curves.y(of(n))})` })));
    numbers.replaceChildren(number("s: length before, n", n, colours[5], "solid"),
      ...LINES.map(({ name, of, ink, dash }) => number(name, of(n), ink.stroke, dash)));
    told.textContent = `Length ${n.toFixed(2)} becomes ${after.toFixed(2)}. ${easier(n, radial, tangential)}.`;
  }

  function number(name, value, ink, dash) {
    return element("div", {}, element("span", { class: "live-key", style: `--ink: ${ink}; --dash: ${dash}` }, name),
      element("span", {}, value.toFixed(3)));
  }

  function easier(n, radial, tangential) {
    if (n === 0) return "Both gains are zero: a capsule of length zero is told nothing";
    const ratio = radial / tangential;
    if (Math.abs(ratio - 1) < 0.01) return "Stretching and turning are equally easy, and the ring stays round";
    if (ratio > 1) return `Stretching is ${ratio.toFixed(2)} times as easy as turning`;
    return `Turning is ${(1 / ratio).toFixed(2)} times as easy as stretching`;
  }

  draw();
  return element("div", { role: "group", "aria-label": "A vector and its squash" },
    element("div", { class: "live-panels" }, plane, curves.picture), numbers, told);
});
