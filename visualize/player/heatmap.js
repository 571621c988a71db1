// The heatmap inside the player: answer position across, step of the block down. Its kinds: confidence of every
// proposal, entropy where it was observed, and the order in which tokens were revealed.
//
// createHeatmap(canvas, hint, pick).draw({run, have, cursor, bounds, steps, kind, selected}) paints what is known, dims
// what lies after the scrubber, frames the row of the current step, and dots the cell in which a token was revealed.

function createHeatmap(canvas, hint, pick) {
  const GUTTER = 34;
  const AXIS = 18;
  const sheet = document.createElement("canvas"); // every step that is known, drawn once
  let drawn = "";
  let view = null;
  let layout = null;

  function draw(next) {
    view = next;
    const ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth;
    if (!width || !view.run.header) return;
    layout = plan(width);
    const height = layout.rows * layout.rowHeight + AXIS;
    if (canvas.style.height !== height + "px") canvas.style.height = height + "px";
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const colours = readColours();
    const key = [view.run.id, view.have, view.kind, layout.columns, width, height, ratio, colours.ink].join();
    if (drawn !== key) paintSteps(colours, width, height, ratio);
    drawn = key;
    paintKnown(pen, width, height, ratio);
    paintBounds(pen, colours);
    paintCursor(pen, colours);
    paintSelected(pen, colours);
    paintAxes(pen, colours);
    Object.assign(canvas.dataset, { left: GUTTER, columnWidth: layout.columnWidth, rowHeight: layout.rowHeight });
    const known = [view.run.id, view.have, view.kind].join();
    if (canvas.dataset.known !== known) canvas.setAttribute("aria-label", summary());
    canvas.dataset.known = known;
  }

  // Columns keep their width while a run goes on; when it is over, the blocks that were never opened are cut.
  function plan(width) {
    const { run, have } = view;
    let opened = 1;
    let rows = Math.min(64, view.steps);
    for (let i = 0; i < have; i += 1) {
      opened = Math.max(opened, run.steps[i].span[1]);
      rows = Math.max(rows, run.steps[i].step + 1);
    }
    const columns = run.total === null ? Math.max(opened, Math.min(run.header.length, 96)) : opened;
    const rowHeight = rows <= 4 ? 18 : rows <= 8 ? 12 : rows <= 16 ? 9 : Math.max(3, Math.floor(160 / rows));
    return { columns, rows, rowHeight, columnWidth: Math.min(16, (width - GUTTER - 1) / columns) };
  }

  function readColours() {
    const style = getComputedStyle(canvas);
    const value = (name) => style.getPropertyValue("--dvl-" + name).trim();
    return { scale: Array.from({ length: 9 }, (_, i) => value("scale-" + i)), ink: value("ink"), muted: value("muted"),
             line: value("line"), surface: value("surface"), accent: value("accent"), font: "10px " + value("mono") };
  }

  const x = (position) => GUTTER + position * layout.columnWidth;
  const y = (step) => step * layout.rowHeight;

  function paintSteps(colours, width, height, ratio) {
    sheet.width = Math.round(width * ratio);
    sheet.height = Math.round(height * ratio);
    const pen = sheet.getContext("2d");
    pen.scale(ratio, ratio);
    const cellWidth = layout.columnWidth - (layout.columnWidth > 4 ? 1 : 0);
    const cellHeight = layout.rowHeight - (layout.rowHeight > 4 ? 1 : 0);
    const dot = layout.columnWidth >= 4 && layout.rowHeight >= 6 ? Math.min(4, layout.columnWidth - 3) : 0;
    const shade = shades();
    for (let i = 0; i < view.have; i += 1) {
      const step = view.run.steps[i];
      const revealed = new Set(step.revealed);
      step.masked.forEach((position, j) => {
        const value = shade(step, i, j, revealed.has(position));
        if (value === null) return;
        pen.fillStyle = colours.scale[Math.min(8, Math.max(0, Math.round(value * 8)))];
        pen.fillRect(x(position), y(step.step), cellWidth, cellHeight);
      });
      pen.fillStyle = colours.surface;
      for (const position of dot && view.kind !== "order" ? step.revealed : []) {
        pen.fillRect(x(position) + (cellWidth - dot) / 2, y(step.step) + (cellHeight - dot) / 2, dot, dot);
      }
    }
  }

  // A value from 0 to 1 for every proposal: on the confidence scale sure is strong, so little entropy is, and so is late.
  function shades() {
    if (view.kind === "entropy") {
      let most = 1e-6;
      for (let i = 0; i < view.have; i += 1) for (const value of view.run.steps[i].entropies || []) most = Math.max(most, value);
      return (step, i, j) => (step.entropies ? 1 - step.entropies[j] / most : null);
    }
    if (view.kind === "order") return (step, i, j, revealed) => (revealed ? i / Math.max(1, view.have - 1) : null);
    return (step, i, j) => step.confidences[j];
  }

  // Steps up to the scrubber at full strength, later ones dimmed.
  function paintKnown(pen, width, height, ratio) {
    const copy = (left, top, w, h) => {
      if (w > 0 && h > 0) pen.drawImage(sheet, left * ratio, top * ratio, w * ratio, h * ratio, left, top, w, h);
    };
    pen.globalAlpha = 0.25;
    copy(0, 0, width, height);
    pen.globalAlpha = 1;
    const step = view.cursor ? view.run.steps[view.cursor - 1] : null;
    if (!step) return;
    const [start, end] = step.span;
    pen.clearRect(0, 0, x(start), height);
    copy(0, 0, x(start), height);
    pen.clearRect(x(start), 0, x(end) - x(start), y(step.step + 1));
    copy(x(start), 0, x(end) - x(start), y(step.step + 1));
  }

  function paintBounds(pen, colours) {
    const [, second, third] = view.bounds;
    if ((third - second) * layout.columnWidth < 10) return; // bars that close say nothing
    pen.strokeStyle = colours.muted;
    pen.setLineDash([1, 2]);
    pen.beginPath();
    for (const start of view.bounds) {
      if (start > layout.columns) break;
      pen.moveTo(x(start) - 0.5, 0);
      pen.lineTo(x(start) - 0.5, y(layout.rows) + 3);
    }
    pen.stroke();
    pen.setLineDash([]);
  }

  function paintCursor(pen, colours) {
    if (!view.cursor) return;
    const step = view.run.steps[view.cursor - 1];
    pen.strokeStyle = colours.ink;
    pen.lineWidth = 1.5;
    pen.strokeRect(x(step.span[0]) - 1, y(step.step) - 1, (step.span[1] - step.span[0]) * layout.columnWidth + 1, layout.rowHeight + 1);
    pen.lineWidth = 1;
  }

  function paintSelected(pen, colours) {
    if (view.selected === null || view.selected === undefined || view.selected >= layout.columns) return;
    pen.fillStyle = colours.ink;
    const middle = x(view.selected) + layout.columnWidth / 2;
    pen.beginPath();
    pen.moveTo(middle, y(layout.rows));
    pen.lineTo(middle - 4, y(layout.rows) + 5);
    pen.lineTo(middle + 4, y(layout.rows) + 5);
    pen.fill();
  }

  function paintAxes(pen, colours) {
    pen.fillStyle = colours.muted;
    pen.font = colours.font;
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    pen.fillText("1", GUTTER - 6, y(0) + layout.rowHeight / 2);
    if (layout.rows > 1) pen.fillText(String(layout.rows), GUTTER - 6, y(layout.rows - 1) + layout.rowHeight / 2);
    if (layout.rows > 4) pen.fillText(say("player.axis-step"), GUTTER - 6, y(layout.rows / 2));
    pen.textAlign = "left";
    let free = -Infinity;
    for (const start of view.bounds) {
      if (start >= layout.columns || x(start) < free) continue;
      const edge = canvas.clientWidth - pen.measureText(String(start)).width; // the last one stays inside
      pen.fillText(String(start), Math.min(x(start), edge), y(layout.rows) + 11);
      free = x(start) + 26;
    }
  }

  function summary() {
    const { run, have } = view;
    const values = [];
    for (let i = 0; i < have; i += 1) {
      const step = run.steps[i];
      step.masked.forEach((position, j) => { if (step.revealed.includes(position)) values.push(step.confidences[j]); });
    }
    const mean = values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
    return say("player.heat-summary", { kind: say("player.heat-" + view.kind), columns: layout.columns, rows: layout.rows,
                                        revealed: values.length, mean: values.length ? mean.toFixed(2) : "–" });
  }

  function under(event) {
    if (!layout || !view) return null;
    const box = canvas.getBoundingClientRect();
    const position = Math.floor((event.clientX - box.left - GUTTER) / layout.columnWidth);
    const row = Math.floor((event.clientY - box.top) / layout.rowHeight);
    for (let i = view.have - 1; i >= 0; i -= 1) {
      const step = view.run.steps[i];
      const j = step.step === row ? step.masked.indexOf(position) : -1;
      if (j >= 0) return { index: i, position, step, j };
    }
    return null;
  }

  canvas.addEventListener("mousemove", (event) => {
    const hit = under(event);
    hint.textContent = hit ? say("player.heat-hover", {
      position: hit.position, step: hit.step.step + 1, token: JSON.stringify(tokenText(view.run, hit.step.proposals[hit.j])),
      value: hit.step.confidences[hit.j].toFixed(2),
    }) + (hit.step.entropies ? " · " + say("player.nats", { value: hit.step.entropies[hit.j].toFixed(2) }) : "") : "";
  });
  canvas.addEventListener("mouseleave", () => { hint.textContent = ""; });
  canvas.addEventListener("click", (event) => {
    const hit = under(event);
    if (hit) pick(hit.index + 1, hit.position);
  });
  new ResizeObserver(() => { if (view) draw(view); }).observe(canvas.parentElement);
  new MutationObserver(() => { drawn = ""; if (view) draw(view); }).observe(document.body, { attributes: true, attributeFilter: ["class"] });

  return { draw };
}
