// The canvas of the player: the answer as text, a cell per position. State reaches the page as data attributes only.
//
// createCells(canvas).paint({run, state, bounds, active, complete, changed, selected}) touches the cells that changed.

function createCells(canvas) {
  const ATTRIBUTES = ["state", "block", "ahead", "first", "after", "eos", "partial", "newline", "level", "pattern",
                      "changed", "pinned", "selected"];
  let cells = [];
  let keys = []; // what each cell shows now
  let shownRun = null;

  function paint(view) {
    const { run, state, bounds, active, blocks, complete } = view;
    if (shownRun !== run || cells.length !== run.header.length) build(run);
    const ids = view.preview || state.ids;
    const shown = cellTexts(ids, run.vocabulary, state.isEnd);
    const first = new Set(bounds);
    let block = -1;
    let hidden = 0;
    ids.forEach((id, position) => {
      if (first.has(position)) { block += 1; if (block > active + 2 && block < blocks && id === null) hidden += 1; }
      const cell = describe(view, ids, position, shown[position]);
      cell.block = complete || block < active ? "done" : block === active ? "active" : "ahead";
      cell.ahead = id !== null || block <= active ? "" : block > active + 2 ? "far" : String(block - active);
      if (complete && id === null) cell.block = "ahead";
      if (complete && cell.state === "new") cell.state = "settled";
      if (first.has(position) && position > 0) cell.first = "true";
      apply(position, cell);
    });
    cells.more.textContent = hidden
      ? say(hidden === 1 ? "player.more-block" : "player.more-blocks", { n: hidden }) : "";
  }

  function describe(view, ids, position, shown) {
    const { state, changes, selected } = view;
    const id = ids[position];
    const confidence = state.confidences[position];
    const cell = { state: id === null ? "masked" : state.fresh.has(position) ? "new" : "settled", text: shown.text };
    if (position > state.end) cell.after = "true";
    if (position === selected) cell.selected = "true";
    if (changes && changes.edits.has(position)) cell.changed = id === null ? "mask" : "edit";
    if (changes && changes.pins.has(position)) cell.pinned = "true";
    if (id === null) return cell;
    if (state.isEnd(id)) { cell.eos = "true"; cell.text = ""; }
    if (shown.partial) cell.partial = "true";
    if (/\n/.test(cell.text)) cell.newline = "true";
    if (confidence !== null && !cell.changed) {
      cell.level = String(Math.min(8, Math.max(0, Math.round(confidence * 8))));
      cell.pattern = confidence < 0.5 ? "dotted" : confidence < 0.9 ? "dashed" : "solid";
      cell.title = say("player.confidence-is", { value: confidence.toFixed(2) });
    }
    return cell;
  }

  function apply(position, cell) {
    const key = JSON.stringify(cell);
    if (keys[position] === key) return;
    keys[position] = key;
    const node = cells[position];
    for (const name of ATTRIBUTES) {
      if (cell[name]) node.dataset[name] = cell[name];
      else delete node.dataset[name];
    }
    const lead = cell.text.match(/^ */)[0];
    if (node.lead.textContent !== lead) node.lead.textContent = lead;
    if (node.token.textContent !== cell.text.slice(lead.length)) node.token.textContent = cell.text.slice(lead.length);
    if (cell.title) node.token.title = cell.title;
    else node.token.removeAttribute("title");
  }

  function build(run) {
    cells = [];
    keys = [];
    shownRun = run;
    canvas.textContent = "";
    for (let position = 0; position < run.header.length; position += 1) {
      const node = document.createElement("span");
      node.className = "dvl-cell";
      node.dataset.position = position;
      node.lead = node.appendChild(document.createTextNode(""));
      node.token = node.appendChild(document.createElement("span"));
      node.token.className = "dvl-tok";
      cells.push(canvas.appendChild(node));
    }
    cells.more = canvas.appendChild(document.createElement("span"));
    cells.more.className = "dvl-more";
    canvas.scrollTop = 0;
  }

  function keepInView(position) {
    const node = cells[position];
    if (!node || canvas.scrollHeight <= canvas.clientHeight) return;
    const top = node.getBoundingClientRect().top - canvas.getBoundingClientRect().top;
    if (top < 0 || top > canvas.clientHeight - 80) canvas.scrollTop += top - canvas.clientHeight / 3;
  }

  return { paint, keepInView };
}
