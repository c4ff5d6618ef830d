/* The routing explorer of chapter 03: real votes, routed here, one round at a time.

   `given.names` are the output capsules. Each of `given.examples` has its `label`, its `image`, the `votes` (a row for each
   part: J times E numbers) and the `lengths` of the parts, type by type, place by place. All parts are routed; the rows
   that are shown are the longest. */
"use strict";

// On its own, so that a test can hold it to capsnb.routing_by_agreement. The wrong axis is I, the parts.
capsnb.routed = (votes, J, rounds, wrong = false) => {
  const E = votes[0].length / J;
  const sum = (list, of) => list.reduce((total, one, k) => total + of(one, k), 0);
  const flipped = (rows) => rows[0].map((_, j) => rows.map((row) => row[j]));
  function softmax(row) {
    const powers = row.map((b) => Math.exp(b - Math.max(...row)));
    return powers.map((power) => power / sum(powers, Number));
  }
  function squash(s) {
    const q = sum(s, (x) => x * x);
    return s.map((x) => (q / (1 + q)) * x / Math.sqrt(q + 1e-8));
  }
  let logits = votes.map(() => Array(J).fill(0));
  return Array.from({ length: rounds }, () => {
    const couplings = wrong ? flipped(flipped(logits).map(softmax)) : logits.map(softmax);
    const v = Array.from({ length: J }, (_, j) => squash(Array.from({ length: E }, (_, e) =>
      sum(votes, (vote, i) => couplings[i][j] * vote[j * E + e]))));
    const agreement = votes.map((vote) => v.map((output, j) => sum(output, (x, e) => x * vote[j * E + e])));
    logits = logits.map((row, i) => row.map((b, j) => b + agreement[i][j]));
    return { couplings, agreement, lengths: v.map((output) => Math.hypot(...output)) };
  });
};

capsnb.live("routing", ({ names, examples }) => {
  const { element, button, grey, unpacked, said } = capsnb;
  const [ROUNDS, SHOWN, SIDE, WINDOW, STRIDE] = [10, 12, 28, 17, 2];
  const J = names.length;
  const state = { example: 1, round: 1, wrong: false, agreement: false };
  const read = examples.map(({ label, image, votes, lengths }) => {
    const longest = lengths.map((_, i) => i).sort((a, b) => lengths[b] - lengths[a]).slice(0, SHOWN);
    return { label, image: unpacked(image)[0], votes: unpacked(votes), lengths, longest };
  });
  const told = said();
  const table = element("table", { class: "routing-table" });

  function set(change) {
    Object.assign(state, change);
    draw();
  }

  const choices = read.map(({ label, image }, k) => {
    const made = button("", () => set({ example: k }));
    const small = grey(SIDE);
    small.paint(image);
    made.append(small.canvas);
    made.setAttribute("aria-label", `image of a ${label}`);
    return made;
  });
  const step = button("Step", () => set({ round: Math.min(ROUNDS, state.round + 1) }));
  const back = button("Back", () => set({ round: Math.max(1, state.round - 1) }));
  const again = button("Start again", () => set({ round: 1 }));
  const views = ["Couplings", "Agreement"].map((name, k) => button(name, () => set({ agreement: k === 1 })));
  const wrong = button("Softmax over the wrong axis", () => set({ wrong: !state.wrong }));

  // .12 rather than 0.12: twelve columns have to fit a phone.
  function short(value) {
    const text = Math.abs(value).toFixed(2).replace(/^0\./, ".");
    return (value < 0 && Number(text) ? "−" : "") + text;
  }

  function total(value) { // in bold where it is the one unit that a softmax shares out
    const one = Math.abs(value - 1) < 1e-6;
    return element("td", { class: one ? "routing-one" : null }, value.toFixed(value < 10 ? 2 : 1));
  }

  // A part, drawn as the window of the image that it sees.
  function part({ image, lengths }, i) {
    const places = (SIDE - WINDOW + 1) / STRIDE;
    const [type, y, x] = [Math.floor(i / places ** 2), Math.floor(i / places) % places, i % places];
    const small = grey(SIDE);
    const inside = (at, start) => at >= STRIDE * start && at < STRIDE * start + WINDOW;
    const label = `part ${i + 1}: type ${type + 1}, row ${y + 1}, column ${x + 1}, length ${lengths[i].toFixed(2)}`;
    small.paint(image.map((value, k) => (inside(k % SIDE, x) && inside(Math.floor(k / SIDE), y) ? 0.3 + 0.7 * value : 0.3 * value)),
      label);
    return element("th", { scope: "row", title: label }, small.canvas);
  }

  function draw() {
    const example = read[state.example];
    const now = capsnb.routed(example.votes, J, state.round, state.wrong).at(-1);
    const order = names.map((_, j) => j).sort((a, b) => now.lengths[b] - now.lengths[a]);
    const values = state.agreement ? now.agreement : now.couplings;
    const mark = (j) => (j === order[0] ? "routing-longest" : null);
    const gives = now.couplings.map((row) => row.reduce((sum, c) => sum + c, 0));
    const columns = names.map((_, j) => now.couplings.reduce((sum, row) => sum + row[j], 0));
    const head = (text) => element("th", { scope: "row" }, text);
    const bars = now.lengths.map((length, j) => element("td", { class: mark(j) },
      element("div", { class: "routing-bar" }, element("div", { style: `height: ${100 * length}%` })), short(length)));
    const rows = example.longest.map((i) => element("tr", {}, part(example, i),
      ...values[i].map((value) => element("td", {
        class: value < 0 ? "routing-against" : null, style: `--share: ${60 * Math.min(1, 1.5 * Math.abs(value))}%`,
      }, short(value))), state.agreement ? element("td") : total(gives[i])));
    const corner = state.agreement ? ["td"] : ["th", { scope: "col" }, "sum"];
    table.replaceChildren(
      element("caption", {}, `${state.agreement ? "Agreement of votes and outputs" : "Couplings"} in round ${state.round}, `
        + `for the ${SHOWN} longest of ${gives.length} parts`),
      element("thead", {}, element("tr", {}, element("td"),
        ...names.map((name, j) => element("th", { scope: "col", class: mark(j) }, name)), element(...corner))),
      element("tbody", { class: "routing-lengths" }, element("tr", {}, head("length"), ...bars, element("td"))),
      element("tbody", {}, ...rows),
      element("tfoot", {}, element("tr", {}, ...(state.agreement ? [element("td", {}, "\u00a0")]
        : [head(`all ${gives.length}`), ...columns.map(total), element("td")]))));
    const press = (made, on) => made.setAttribute("aria-pressed", String(on));
    choices.forEach((made, k) => press(made, k === state.example));
    views.forEach((made, k) => press(made, state.agreement === (k === 1)));
    press(wrong, state.wrong);
    step.setAttribute("aria-disabled", String(state.round === ROUNDS));
    for (const made of [back, again]) made.setAttribute("aria-disabled", String(state.round === 1));
    const length = (j) => `${names[j]} with length ${now.lengths[j].toFixed(3)}`;
    const ends = [Math.min(...gives), Math.max(...gives)].map((give) => give.toFixed(3));
    told.textContent = `Image of a ${example.label}, round ${state.round}: the longest output is ${length(order[0])}, then `
      + `${length(order[1])}. ` + (state.wrong
        ? `Wrong axis: a part gives away ${ends.join(" to ")} of itself, and each column sums to 1.`
        : "Each part gives away exactly 1.");
  }

  draw();
  return element("div", { class: "routing", role: "group", "aria-label": "Routing by agreement, round by round" },
    element("div", { class: "live-row" }, ...choices, step, back, again),
    element("div", { class: "live-row" }, ...views, wrong), table, told);
});
