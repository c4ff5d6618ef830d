/* The knobs of chapter 04: sixteen sliders turn the numbers of a digit's capsule, and a small decoder draws it here.

   `given.layers` is the decoder: `weight`, packed row by row, and `bias` of each layer. `given.digits` holds for each digit
   its `starts`, capsules of test images with their `image`; `directions`, how the capsule moves when one of
   `given.properties` grows by one standard deviation; and those `deviations`. */
"use strict";

// On their own, so that tests can hold them to the decoder and the measures in Python.
capsnb.drawn = (layers, numbers) => layers.reduce((x, { weight, bias }, k) => weight.map((row, i) => {
  const sum = row.reduce((total, w, e) => total + w * x[e], bias[i]);
  return k < layers.length - 1 ? Math.max(0, sum) : 1 / (1 + Math.exp(-sum));
}), numbers);

// Ink, slant, width, height, right, up: the chapter's `measure`.
capsnb.measured = (pixels, side) => {
  const middle = (side - 1) / 2;
  const ink = pixels.reduce((sum, one) => sum + one, 0);
  const mean = (of) => pixels.reduce((sum, one, k) =>
    sum + one * of(k % side - middle, Math.floor(k / side) - middle), 0) / ink;
  const [x, y] = [mean((a) => a), mean((_, b) => b)];
  const [xx, yy, xy] = [mean((a) => (a - x) ** 2), mean((_, b) => (b - y) ** 2), mean((a, b) => (a - x) * (b - y))];
  return [ink, -xy / yy, Math.sqrt(xx), Math.sqrt(yy), x, -y];
};

capsnb.live("knobs", ({ layers, digits, properties }) => {
  const { element, slider, button, grey, unpacked, said } = capsnb;
  const [SIDE, MOST] = [28, 4]; // MOST deviations fill half of a track
  const read = layers.map(({ weight, bias }) => ({ weight: unpacked(weight), bias }));
  const size = digits[0].starts[0].capsule.length;
  const state = { digit: 3, start: 0, property: properties.indexOf("slant"), hand: Array(size).fill(0) };
  const signed = (value, places = 2) => {
    const text = Math.abs(value).toFixed(places);
    return Number(text) ? (value < 0 ? "−" : "+") + text : text;
  };
  const range = (most, step) => Array.from({ length: Math.round(2 * most / step) + 1 }, (_, k) => k * step - most);
  const start = () => digits[state.digit].starts[state.start];
  const way = () => digits[state.digit].directions[state.property];
  const added = (k) => state.hand[k] + along.read() * way()[k]; // by hand, and on the way along a direction

  // Sliders move in steps, what a walk adds lies between them: the figures say what is added, to the digit.
  const along = slider("deviations", range(4, 0.2), 0,
    () => draw(`along ${properties[state.property]} ${signed(along.read(), 1)}`), (value) => signed(value, 1));
  const knobs = state.hand.map((_, k) => {
    const knob = slider(`number ${k}`, range(0.5, 0.02), 0, () => {
      state.hand[k] += knob.read() - added(k);
      draw(`number ${k} ${signed(added(k))}`);
    }, () => signed(added(k)));
    return knob;
  });
  const property = element("select", { class: "live-button" }, ...properties.map((name) => element("option", {}, name)));
  property.selectedIndex = state.property;
  property.addEventListener("change", () => { // what has been turned stays turned
    state.hand = state.hand.map((_, k) => added(k));
    along.write(0);
    state.property = property.selectedIndex;
    draw(`next along ${properties[state.property]}`);
  });

  function begin(change) {
    Object.assign(state, change, { hand: Array(size).fill(0) });
    along.write(0);
    draw("as in the image");
  }

  const image = grey(SIDE);
  const drawing = grey(SIDE);
  const choices = digits.map(({ starts }, digit) => {
    const made = button("", () => begin({ digit, start: 0 }));
    const small = grey(SIDE);
    small.paint(unpacked(starts[0].image)[0]);
    made.append(small.canvas);
    made.setAttribute("aria-label", `digit ${digit}`);
    return made;
  });
  const back = button("Back to the image", () => begin({}));
  const another = button("", () => begin({ start: (state.start + 1) % digits[state.digit].starts.length }));
  const measures = element("div", { class: "knobs-measures", "aria-hidden": "true" });
  const told = said();

  function draw(turned) {
    const capsule = start().capsule.map((value, k) => value + added(k));
    const alone = (numbers) => digits.flatMap((_, digit) => (digit === state.digit ? numbers : Array(size).fill(0)));
    const pixels = capsnb.drawn(read, alone(capsule));
    const before = capsnb.measured(capsnb.drawn(read, alone(start().capsule)), SIDE);
    const change = capsnb.measured(pixels, SIDE).map((value, p) => (value - before[p]) / digits[state.digit].deviations[p]);
    const length = Math.hypot(...capsule);
    const moved = capsule.map((_, k) => k).filter((k) => Math.abs(added(k)) >= 0.005);
    const which = moved.length > 4 ? `${moved.length} numbers turned`
      : moved.map((k) => `number ${k} ${signed(added(k))}`).join(", ");
    image.paint(unpacked(start().image)[0], `Test image of a ${state.digit}`);
    drawing.paint(pixels, `Drawing of a ${state.digit}: ${which || "as in the image"}`);
    knobs.forEach((knob, k) => knob.write(added(k)));
    choices.forEach((made, digit) => made.setAttribute("aria-pressed", String(digit === state.digit)));
    another.textContent = `Another ${state.digit}`;
    const row = (name, left, width, value, kind) => element("div", { class: `knobs-measure ${kind}` },
      element("span", {}, name),
      element("div", {}, element("div", { style: `left: ${left}%; width: ${width}%` })), element("span", {}, value));
    measures.replaceChildren(row("length", 0, 100 * Math.min(1, length), length.toFixed(2), "knobs-length"),
      ...change.map((value, p) => {
        const wide = 50 * Math.min(1, Math.abs(value) / MOST);
        return row(properties[p], value < 0 ? 50 - wide : 50, wide, signed(value, 1), value < 0 ? "knobs-less" : "");
      }));
    const [first, second] = change.map((_, p) => p).sort((a, b) => Math.abs(change[b]) - Math.abs(change[a]));
    told.textContent = `${state.digit}, ${turned}. The capsule's length is ${length.toFixed(2)}`
      + `${length < 1 ? "" : ", more than a squash can give"}. ` + (moved.length
        ? `In the drawing, ${properties[first]} has changed by ${signed(change[first], 1)} and ${properties[second]} by `
          + `${signed(change[second], 1)} deviations.`
        : "The drawing is the decoder's own.");
  }

  begin({});
  const panel = (caption, { canvas }, kind) =>
    element("figure", { class: kind }, canvas, element("figcaption", {}, caption));
  return element("div", { class: "knobs", role: "group", "aria-label": "Knobs of a capsule" },
    element("div", { class: "live-row knobs-digits" }, ...choices),
    element("div", { class: "knobs-top" }, panel("image", image, "knobs-image"), panel("drawing", drawing, "knobs-drawing"),
      measures),
    element("div", { class: "knobs-sliders", role: "group", "aria-label": "Added to each number" },
      ...knobs.map((knob) => knob.row)),
    element("div", { class: "knobs-along" }, element("label", {}, "or all sixteen at once, along ", property), along.row),
    element("div", { class: "live-row" }, back, another), told);
});
