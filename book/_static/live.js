/* What the live figures share. A figure is a file of its own, live_NAME.js, which calls

     capsnb.live("NAME", (given, place) => element)

   A cell of a chapter puts its place into the page (`capsnb.plots.live`): the still picture, which stays where there is no
   JavaScript, and `given`, the numbers that the cell computed. Nothing here asks for anything; the files are plain scripts,
   since a browser loads no modules from a disk. */
"use strict";

const capsnb = (() => {
  const figures = {};
  const colours = Array.from({ length: 6 }, (_, k) => `var(--capsnb-colour-${k})`); // as in capsnb.plots.COLOURS

  function live(name, build) {
    figures[name] = build;
  }

  function fill(made, attributes, children) {
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined) made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
  }

  // element("p", { class: "x" }, "text or", other, "elements"); svg likewise, for what stands in a picture.
  function element(name, attributes = {}, ...children) {
    return fill(document.createElement(name), attributes, children);
  }

  function svg(name, attributes = {}, ...children) {
    return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
  }

  // A labelled slider over a list of values. `shown` says a value; `changed` is called after each move.
  function slider(label, values, start, changed, shown = String) {
    const output = element("output", { "aria-hidden": "true" });
    const input = element("input", { type: "range", min: 0, max: values.length - 1, step: 1 });
    const read = () => values[Number(input.value)];
    function show() {
      output.textContent = shown(read());
      input.setAttribute("aria-valuetext", `${shown(read())} ${label}`);
    }
    function write(value) { // the value, or the nearest one
      const distances = values.map((one) => Math.abs(one - value));
      input.value = distances.indexOf(Math.min(...distances));
      show();
    }
    input.addEventListener("input", () => { show(); changed(); });
    write(start);
    return { row: element("label", { class: "live-slider" }, element("span", {}, label), input, output), input, read, write };
  }

  function button(label, pressed) {
    const made = element("button", { type: "button", class: "live-button" }, label);
    made.addEventListener("click", pressed);
    return made;
  }

  // Numbers that a cell packed: rows of whole numbers of eight bits, in base64, and a scale for each row.
  function unpacked({ numbers, scale }) {
    const whole = Int8Array.from(atob(numbers), (letter) => letter.charCodeAt(0));
    const width = whole.length / scale.length;
    return scale.map((unit, i) => Float64Array.from(whole.subarray(i * width, (i + 1) * width), (one) => unit * one));
  }

  // A square image of grey values from 0 to 1. It says its label, or nothing where what stands around it says enough.
  function grey(side) {
    const canvas = element("canvas", { width: side, height: side, class: "live-grey", "aria-hidden": "true" });
    function paint(values, label) {
      const pixels = new ImageData(side, side);
      values.forEach((value, k) => pixels.data.set([...Array(3).fill(255 * value), 255], 4 * k));
      canvas.getContext("2d").putImageData(pixels, 0, 0);
      if (label) fill(canvas, { role: "img", "aria-label": label, "aria-hidden": "false" }, []);
    }
    return { canvas, paint };
  }

  // A sentence that screen readers speak when it changes.
  function said() {
    return element("p", { class: "live-said", "aria-live": "polite" });
  }

  // A chart's frame: `across` and `up` say { name, from, to, ticks, shown }. `x` and `y` place numbers in the picture, `line`
  // draws a curve through points, and `plot` takes what is drawn.
  function chart(label, across, up, { width = 330, height = 270, left = 48 } = {}) {
    const [top, right, bottom] = [12, width - 12, height - 42];
    const x = (value) => left + ((right - left) * (value - across.from)) / (across.to - across.from);
    const y = (value) => bottom - ((bottom - top) * (value - up.from)) / (up.to - up.from);
    const centred = { "text-anchor": "middle" };
    const plot = svg("g");
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
      ...across.ticks.map((tick) => svg("text", { x: x(tick), y: bottom + 17, ...centred }, (across.shown || String)(tick))),
      ...up.ticks.map((tick) => svg("path", { class: "live-grid", d: `M${left},${y(tick)}H${right}` })),
      ...up.ticks.map((tick) => svg("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, (up.shown || String)(tick))),
      svg("path", { class: "live-axes", d: `M${left},${top}V${bottom}H${right}` }),
      svg("text", { x: (left + right) / 2, y: height - 6, ...centred }, across.name),
      svg("text", { transform: `translate(12 ${(top + bottom) / 2}) rotate(-90)`, ...centred }, up.name), plot);
    const line = (points, ink) => svg("path", { ...ink, fill: "none", d: `M${points.map(([a, b]) => `${x(a)},${y(b)}`).join("L")}` });
    return { picture, plot, x, y, line, left, right, top, bottom };
  }

  // Something in a picture that a pointer drags and arrow keys push. `moved` gets the pointer's place in the picture's own
  // units, `pushed` the step (dx, dy) of an arrow key in steps, y upwards.
  function draggable(picture, handle, label, moved, pushed) {
    for (const [key, value] of Object.entries({ tabindex: 0, role: "application", "aria-label": label })) handle.setAttribute(key, value);
    handle.classList.add("live-handle");
    function place(event) {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse());
      moved(at.x, at.y);
    }
    picture.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      picture.setPointerCapture(event.pointerId);
      handle.focus({ preventScroll: true });
      place(event);
    });
    picture.addEventListener("pointermove", (event) => { if (picture.hasPointerCapture(event.pointerId)) place(event); });
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    handle.addEventListener("keydown", (event) => {
      if (!steps[event.key]) return;
      event.preventDefault();
      pushed(...steps[event.key]);
    });
  }

  document.addEventListener("DOMContentLoaded", () => {
    for (const place of document.querySelectorAll(".live[data-live]")) {
      const build = figures[place.dataset.live];
      if (build) place.replaceChildren(build(JSON.parse(place.dataset.given), place));
    }
  });

  return { live, element, svg, slider, button, said, chart, unpacked, grey, draggable, colours };
})();
