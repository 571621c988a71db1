// The chart of a sweep: time across, agreement with the slow setting up, a mark per setting.
//
// createExploreChart(holder, {point(index or null), pick(index)}).draw({rows, shapes, shown}) paints. Marks keep their
// nodes from one paint to the next, so that a mark keeps the keyboard's focus while others arrive.

// Where the axis of time goes from and to, and its ticks: logarithmic when the slowest takes over ten times the fastest.
function exploreTimeAxis(rows) {
  const low = Math.min(...rows.map((row) => row.fastest));
  const high = Math.max(...rows.map((row) => row.slowest));
  const log = low > 0 && high / low > 10;
  const from = log ? low / 1.25 : 0;
  const to = (high || 1) * (log ? 1.25 : 1.08);
  const share = log ? (value) => Math.log(value / from) / Math.log(to / from) : (value) => value / to;
  const ticks = [];
  if (log) {
    const each = Math.log10(to / from) > 3 ? [1] : [1, 2, 5];
    for (let power = Math.floor(Math.log10(from)); power <= Math.log10(to); power += 1) {
      for (const factor of each) ticks.push(factor * 10 ** power);
    }
  } else {
    const power = 10 ** Math.floor(Math.log10(to / 5));
    const distance = power * [1, 2, 5, 10].find((factor) => factor * power * 6 >= to);
    for (let i = 0; i * distance <= to; i += 1) ticks.push(i * distance);
  }
  return { log, share, ticks: ticks.filter((tick) => tick >= from && tick <= to) };
}

// Where the axis of agreement begins, and the distance of its ticks: marks that all agree well get the room to differ.
function exploreShareAxis(rows) {
  const low = Math.min(...rows.map((row) => row.agreement));
  const from = Math.min(0.75, Math.max(0, Math.floor(low * 4 - 0.2) / 4));
  return { from, distance: from >= 0.75 ? 0.05 : from >= 0.5 ? 0.1 : 0.25 };
}

// Places for labels that cover neither a mark nor another label; a setting that finds none has none.
// marks: [{x, y, text}], in order of importance; covered: boxes [left, top, right, bottom] where nothing may stand.
// Returns [{x, y, anchor} or null].
function explorePlaceLabels(marks, area, covered = []) {
  const taken = [...covered, ...marks.map(({ x, y }) => [x - 8, y - 8, x + 8, y + 8])];
  const free = (box) => box[0] >= area.left && box[2] <= area.right && box[1] >= area.top && box[3] <= area.bottom
    && taken.every((other) => box[2] <= other[0] || box[0] >= other[2] || box[3] <= other[1] || box[1] >= other[3]);
  return marks.map(({ x, y, text }) => {
    const width = text.length * 6.2;
    const places = [
      { x: x + 11, y: y + 4, anchor: "start", left: x + 12 }, { x: x - 11, y: y + 4, anchor: "end", left: x - 12 - width },
      { x, y: y + 21, anchor: "middle", left: x - width / 2 }, { x, y: y - 13, anchor: "middle", left: x - width / 2 },
    ];
    for (const place of places) {
      const box = [place.left - 4, place.y - 10, place.left + width + 4, place.y + 3];
      if (!free(box)) continue;
      taken.push(box);
      return place;
    }
    return null;
  });
}

function createExploreChart(holder, options) {
  const svg = exploreSvg(holder, "svg", { role: "group" });
  const frame = exploreSvg(svg, "g", { "aria-hidden": "true" });
  const marks = exploreSvg(svg, "g");
  const span = exploreSvg(svg, "path", { class: "dvl-explore-span", "aria-hidden": "true" }); // of the shown setting's runs
  const over = exploreSvg(svg, "g", { class: "dvl-explore-over", "aria-hidden": "true" }); // its mark again, on top
  const labels = exploreSvg(svg, "g", { "aria-hidden": "true" });
  const nodes = new Map(); // index of a row -> its mark
  let view = null;
  let order = [];          // indices from the fastest to the slowest, the way of the arrow keys

  function draw(next) {
    view = next;
    const width = holder.clientWidth;
    if (!width || !view.rows.length) return;
    const height = width < 520 ? 320 : 400;
    const area = { left: 46, right: width - 12, top: 52, bottom: height - 44 };
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    svg.setAttribute("aria-label", say("explore.plot", { count: view.rows.length }));
    const time = exploreTimeAxis(view.rows);
    const share = exploreShareAxis(view.rows);
    Object.assign(svg.dataset, { log: time.log, from: share.from });
    const x = (seconds) => area.left + time.share(seconds) * (area.right - area.left);
    const y = (value) => area.bottom - (value - share.from) / (1 - share.from) * (area.bottom - area.top);
    paintFrame(time, share, area, x, y);
    paintMarks(x, y);
    paintLabels(area, x, y);
  }

  function text(parent, content, attributes) {
    const node = exploreSvg(parent, "text", attributes);
    node.textContent = content;
    return node;
  }

  function paintFrame(time, share, area, x, y) {
    frame.replaceChildren();
    for (let value = share.from; value < 1.001; value += share.distance) {
      exploreSvg(frame, "line", { class: "dvl-explore-grid", x1: area.left, x2: area.right, y1: y(value), y2: y(value) });
      text(frame, Math.round(100 * value) + " %", { x: area.left - 8, y: y(value) + 4, "text-anchor": "end" });
    }
    let free = -Infinity;
    for (const tick of time.ticks) {
      if (x(tick) < free) continue;
      const label = String(Number(tick.toPrecision(3)));
      exploreSvg(frame, "line", { class: "dvl-explore-tick", x1: x(tick), x2: x(tick), y1: area.bottom, y2: area.bottom + 4 });
      text(frame, label, { x: x(tick), y: area.bottom + 18, "text-anchor": "middle" });
      free = x(tick) + label.length * 7 + 12;
    }
    text(frame, say("explore.y"), { x: 0, y: 12 });
    text(frame, say(time.log ? "explore.x.log" : "explore.x"), { x: area.right, y: area.bottom + 38, "text-anchor": "end" });
    const slow = view.rows.find((row) => row.slow);
    if (!slow) return;
    const at = x(slow.seconds);
    const anchor = at > area.right - 48 ? "end" : at < area.left + 48 ? "start" : "middle";
    exploreSvg(frame, "line", { class: "dvl-explore-slow", x1: at, x2: at, y1: area.top - 14, y2: area.bottom });
    text(frame, say("explore.slow"), { class: "dvl-explore-slow", x: at, y: area.top - 19, "text-anchor": anchor });
  }

  function paintMarks(x, y) {
    span.removeAttribute("d");
    for (const [index, node] of nodes) {
      if (view.rows.some((row) => row.index === index)) continue;
      node.remove();
      nodes.delete(index);
    }
    order = [...view.rows].sort((a, b) => a.seconds - b.seconds).map((row) => row.index);
    for (const row of view.rows) {
      const node = nodes.get(row.index) || addMark(row.index);
      const [left, top] = [x(row.seconds), y(row.agreement)];
      node.setAttribute("transform", `translate(${left.toFixed(1)} ${top.toFixed(1)})`);
      explorePaintMark(node.mark, view.shapes.get(row.strategy), row.confidence);
      node.dataset.slow = row.slow;
      node.dataset.shown = row.index === view.shown;
      node.setAttribute("aria-pressed", row.index === view.shown);
      node.setAttribute("tabindex", row.index === view.shown ? 0 : -1);
      node.setAttribute("aria-label", say(row.slow ? "explore.mark.slow" : "explore.mark", {
        setting: exploreSetting(row), seconds: exploreSeconds(row.seconds), agreement: explorePercent(row.agreement) }));
      if (row.index !== view.shown) continue;
      paintOver(row, node);
      if (row.runs > 1) span.setAttribute("d", `M${x(row.fastest)} ${top - 5}v10m0-5H${x(row.slowest)}m0-5v10`);
    }
  }

  function paintOver(row, node) {
    over.replaceChildren();
    over.setAttribute("transform", node.getAttribute("transform"));
    exploreSvg(over, "circle", { class: "dvl-explore-halo", r: 11 });
    explorePaintMark(exploreSvg(over, "g"), view.shapes.get(row.strategy), row.confidence);
  }

  function addMark(index) {
    const node = exploreSvg(marks, "g", { class: "dvl-explore-point", role: "button" });
    node.dataset.index = index;
    exploreSvg(node, "circle", { class: "dvl-explore-reach", r: 13 });
    exploreSvg(node, "circle", { class: "dvl-explore-ring", r: 11 });
    node.mark = exploreSvg(node, "g");
    nodes.set(index, node);
    return node;
  }

  function paintLabels(area, x, y) {
    labels.replaceChildren();
    const first = (row) => (row.index === view.shown ? -2 : row.slow ? -1 : row.index);
    const rows = [...view.rows].sort((a, b) => first(a) - first(b));
    const named = rows.map((row) => ({ x: x(row.seconds), y: y(row.agreement), text: row.block_size + "/" + row.steps }));
    const room = { left: area.left, right: area.right + 12, top: area.top - 12, bottom: area.bottom + 14 };
    const runs = rows.filter((row) => row.index === view.shown && row.runs > 1) // whose span is drawn
      .map((row) => [x(row.fastest), y(row.agreement) - 5, x(row.slowest), y(row.agreement) + 5]);
    explorePlaceLabels(named, room, runs).forEach((place, i) => {
      if (!place) return;
      const node = text(labels, named[i].text, { x: place.x, y: place.y, "text-anchor": place.anchor });
      node.dataset.shown = rows[i].index === view.shown;
    });
  }

  const under = (event) => event.target.closest(".dvl-explore-point");

  svg.addEventListener("pointerover", (event) => { if (under(event)) options.point(Number(under(event).dataset.index)); });
  svg.addEventListener("pointerout", (event) => { if (under(event)) options.point(null); });
  svg.addEventListener("click", (event) => { if (under(event)) options.pick(Number(under(event).dataset.index)); });
  svg.addEventListener("keydown", (event) => {
    if (!under(event) || event.altKey || event.ctrlKey || event.metaKey) return;
    const at = order.indexOf(Number(under(event).dataset.index));
    const to = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: order.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const index = order[Math.max(0, Math.min(order.length - 1, to))];
    options.pick(index);
    nodes.get(index).focus();
  });
  new ResizeObserver(() => { if (view) draw(view); }).observe(holder);

  return { draw };
}
