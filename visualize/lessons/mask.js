// Lesson 2: the attention mask of training as a matrix, from the runs that Python took from the mask itself.

function createMaskLesson(section) {
  const slots = lessonSlots(section);
  const SVG = "http://www.w3.org/2000/svg";
  let record = null;
  let table = null;  // the matrix of the block size that is chosen
  let when = "rows"; // or "decoding"
  let at = null;     // {row, column} of the cell that is described

  function show(next) {
    record = next;
    const masks = record.lessons.masks;
    if (lessonInstead(slots, masks ? "" : "lessons.mask.none")) return;
    const size = table ? table.block_size : record.lessons.caption.block_size;
    offerSizes(masks.sizes);
    slots["details"].textContent = say("lessons.mask.details");
    choose(masks.sizes.find((one) => one.block_size === size) || masks.sizes[masks.sizes.length - 1]);
  }

  function offerSizes(sizes) {
    slots["sizes"].textContent = "";
    for (const { block_size: size } of sizes) {
      const label = slots["sizes"].appendChild(document.createElement("label"));
      const input = label.appendChild(document.createElement("input"));
      Object.assign(input, { type: "radio", name: "dvl-lessons-size", value: size });
      label.appendChild(document.createElement("span")).textContent = size;
    }
  }

  function choose(next) {
    table = next;
    for (const input of slots["sizes"].querySelectorAll("input")) {
      input.checked = Number(input.value) === table.block_size;
    }
    const second = table.blocks.findIndex((block, index) => index >= table.noisy && block === 2);
    const row = second < 0 ? table.noisy : second + Math.min(2, table.block_size - 1);
    at = { row, column: table.blocks.lastIndexOf(1, table.noisy - 1) };
    paint();
  }

  const side = () => (when === "rows" ? table.positions.length : table.noisy);

  function paint() {
    const n = side();
    slots["matrix"].setAttribute("viewBox", "0 0 " + n + " " + n);
    slots["matrix"].setAttribute("aria-label", say("lessons.mask.label", { n, size: table.block_size }));
    paintCells();
    paintLines(n);
    paintAxis(slots["across"], n);
    paintAxis(slots["down"], n);
    for (const item of section.querySelectorAll(".dvl-lessons-legend li")) {
      item.toggleAttribute("data-absent", when === "decoding" && item.dataset.part !== "finished");
    }
    slots["remark"].textContent = say(when === "decoding" ? "lessons.mask.remark-answering"
      : table.block_size === 1 ? "lessons.mask.remark-one" : "lessons.mask.remark", { size: table.block_size });
    if (Math.max(at.row, at.column) >= n) at = { row: n - 1, column: 0 };
    point();
  }

  // One rectangle per run of cells; equal rows that follow each other share theirs.
  function paintCells() {
    slots["cells"].textContent = "";
    const rows = table[when];
    for (let top = 0, below; top < rows.length; top = below) {
      below = top + 1;
      while (below < rows.length && String(rows[below]) === String(rows[top])) below += 1;
      let left = 0;
      for (let i = 0; i < rows[top].length; left += rows[top][i + 1], i += 2) {
        const kind = record.lessons.masks.kinds[rows[top][i]];
        if (["within", "back", "finished"].includes(kind)) {
          rectangle(slots["cells"], left, top, rows[top][i + 1], below - top).dataset.part = kind;
        }
      }
    }
  }

  function paintLines(n) {
    slots["lines"].textContent = "";
    for (let i = 1; i < n; i += 1) {
      const kind = borders(i);
      if (!kind) continue;
      for (const [x1, y1, x2, y2] of [[i, 0, i, n], [0, i, n, i]]) {
        const line = slots["lines"].appendChild(document.createElementNS(SVG, "line"));
        for (const [name, value] of Object.entries({ x1, y1, x2, y2 })) line.setAttribute(name, value);
        line.dataset.border = kind;
      }
    }
  }

  function part(index) {
    if (index >= table.noisy) return "noisy";
    return table.positions[index] < record.lessons.masks.prompt ? "prompt" : "finished";
  }

  // What begins at an index: another part of the sequence, another block, or nothing.
  function borders(index) {
    if (part(index) !== part(index - 1)) return "part";
    return table.block_size >= 4 && table.blocks[index] !== table.blocks[index - 1] ? "block" : "";
  }

  function paintAxis(axis, n) {
    axis.textContent = "";
    for (const name of ["prompt", "finished", "noisy"]) {
      const cells = Array.from({ length: n }, (_, index) => index).filter((index) => part(index) === name);
      if (!cells.length) continue;
      const label = lessonSpan(axis, "");
      label.style.flexGrow = cells.length;
      label.textContent = say("lessons.mask.axis." + (when === "decoding" && name === "finished" ? "answer" : name));
    }
  }

  // -- one cell in words --

  function kindAt(row, column) {
    const runs = table[when][row];
    let i = 0;
    for (let left = runs[1]; left <= column; left += runs[i + 1]) i += 2;
    return record.lessons.masks.kinds[runs[i]];
  }

  function whoIs(index, asKey) {
    const [position, prompt] = [table.positions[index], record.lessons.masks.prompt];
    const ids = record.lessons.caption.ids;
    const values = { place: (position % table.block_size) + 1, block: table.blocks[index], n: position + 1,
                     token: position - prompt < ids.length ? record.name(ids[position - prompt]) : "" };
    if (position < prompt) return say("lessons.mask.who.prompt" + (index >= table.noisy ? "-noisy" : ""), values);
    if (when === "decoding") return say("lessons.mask.who.answer", values);
    if (index >= table.noisy) return say("lessons.mask.who.noisy", values);
    return say(asKey && values.token ? "lessons.mask.who.finished-token" : "lessons.mask.who.finished", values);
  }

  function point() {
    const { row, column } = at;
    const kind = kindAt(row, column);
    const allowed = ["within", "back", "finished"].includes(kind);
    const who = { query: whoIs(row, false), key: whoIs(column, true) };
    const said = say(allowed ? "lessons.mask.may" : "lessons.mask.may-not", who);
    slots["verdict"].textContent = (allowed ? "✓ " : "✕ ") + said[0].toUpperCase() + said.slice(1);
    slots["verdict"].parentElement.dataset.allowed = allowed;
    const why = when === "rows" ? kind : allowed ? "inference" : "inference-later";
    const blocks = { block: table.blocks[row], other: table.blocks[column] };
    slots["reason"].textContent = say("lessons.mask.why." + why, blocks);
    Object.assign(slots["matrix"].dataset, { row, column, kind });
    slots["cross"].textContent = "";
    rectangle(slots["cross"], 0, row, side(), 1);
    rectangle(slots["cross"], column, 0, 1, side());
    rectangle(slots["cross"], column, row, 1, 1).dataset.cell = "true";
  }

  function rectangle(group, x, y, width, height) {
    const node = group.appendChild(document.createElementNS(SVG, "rect"));
    for (const [name, value] of Object.entries({ x, y, width, height })) node.setAttribute(name, value);
    return node;
  }

  function move(row, column) {
    const last = side() - 1;
    const next = { row: Math.max(0, Math.min(last, row)), column: Math.max(0, Math.min(last, column)) };
    if (next.row === at.row && next.column === at.column) return;
    at = next;
    point();
  }

  function follow(event) {
    const box = slots["matrix"].getBoundingClientRect();
    const index = (offset, whole) => Math.floor((offset / whole) * side());
    move(index(event.clientY - box.top, box.height), index(event.clientX - box.left, box.width));
  }

  slots["matrix"].addEventListener("pointermove", follow);
  slots["matrix"].addEventListener("pointerdown", follow);
  slots["matrix"].addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    move(at.row + step[0], at.column + step[1]);
  });
  section.addEventListener("change", (event) => {
    if (event.target.name === "dvl-lessons-size") {
      choose(record.lessons.masks.sizes.find((one) => one.block_size === Number(event.target.value)));
    } else if (event.target.name === "dvl-lessons-when") {
      when = event.target.value;
      paint();
    }
  });

  return { show };
}
