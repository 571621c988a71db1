// Tokens as people read them, block by block: the one way in which all lessons show the answer.
//
// paintLessonBlocks(node, groups, {lines, hidden, size}) fills `node`; a group is {state, head, title, cells}, a cell
// is {position, text, state, ...} as lessonCells makes them. With `lines` the answer keeps its line breaks; `hidden`
// blocks are only counted; blocks of a `size` below SMALL_BLOCK get neither heads nor bars between them.

const SMALL_BLOCK = 4;

// A cell for every answer position. ids: null = masked.
function lessonCells(record, ids) {
  return cellTexts(ids, record.vocabulary, record.isEnd).map(({ text, partial }, position) => {
    const id = ids[position];
    if (id !== null && record.isEnd(id)) return { position, text: say("lessons.end"), state: "settled", end: true };
    return { position, text, state: id === null ? "masked" : "settled", ...(partial ? { partial } : {}) };
  });
}

// Cells for the tokens of the prompt that share the answer's first block.
function lessonPromptTail(count) {
  const title = say("lessons.prompt-token");
  return Array.from({ length: count }, () => ({ text: "·", state: "settled", ghost: true, title }));
}

// The answer after `count` steps, in blocks; blocks beyond the next one are only counted.
function lessonDraft(record, count, active) {
  const answer = lessonCells(record, record.idsAt(count));
  const size = record.sizeAt(Math.max(0, count - 1));
  const starts = record.starts(size);
  const open = lessonBlockAt(starts, active);
  const groups = [];
  const complete = count === record.steps.length && record.trace.finish_reason;
  starts.forEach((start, block) => {
    const cells = answer.slice(start, starts[block + 1]);
    const empty = cells.every((cell) => cell.state === "masked");
    if (empty && (complete || block > open + 1)) return;
    groups.push({ block, state: complete || block < open ? "frozen" : block === open ? "active" : "unopened", cells });
  });
  const hidden = complete ? 0 : starts.length - groups.length;
  return { groups, hidden, size };
}

function lessonBlockAt(starts, position) {
  let block = 0;
  while (block + 1 < starts.length && starts[block + 1] <= position) block += 1;
  return block;
}

function paintLessonBlocks(node, groups, { lines = false, hidden = 0, size = SMALL_BLOCK } = {}) {
  node.textContent = "";
  node.toggleAttribute("data-small", size < SMALL_BLOCK);
  for (const group of groups) {
    const block = lessonSpan(node, "dvl-lessons-block");
    for (const name of ["state", "marked"]) if (group[name]) block.dataset[name] = group[name];
    if (group.block !== undefined) block.dataset.block = group.block;
    if (group.head && size >= SMALL_BLOCK) lessonSpan(block, "dvl-lessons-head").textContent = group.head;
    if (group.title) block.setAttribute("aria-label", group.title);
    if (group.title) block.setAttribute("role", "group");
    const line = lines ? block : lessonSpan(block, "dvl-lessons-line");
    for (const cell of group.cells) paintLessonCell(line, cell, lines);
  }
  if (hidden) lessonSpan(node, "dvl-lessons-more").textContent = say("lessons.more", { n: hidden });
}

function paintLessonCell(line, cell, lines) {
  const node = lessonSpan(line, "dvl-lessons-cell");
  for (const name of ["position", "state", "end", "partial", "mark", "ghost", "verdict"]) {
    if (cell[name] !== undefined) node.dataset[name] = cell[name];
  }
  const newline = /\n/.test(cell.text);
  const lead = lines ? cell.text.match(/^ */)[0] : "";
  node.appendChild(document.createTextNode(lead));
  const token = node.appendChild(document.createElement(cell.pick ? "button" : "span"));
  token.className = "dvl-lessons-tok";
  if (cell.pick) token.type = "button";
  else if (cell.title || cell.state === "masked") token.setAttribute("role", "img");
  const label = cell.title || (cell.state === "masked" ? say("lessons.masked") : "");
  if (label) token.setAttribute("aria-label", label);
  if (cell.title) token.title = cell.title;
  if (lines && newline) node.dataset.newline = "true";
  token.textContent = lines ? cell.text.slice(lead.length) : visibleSigns(cell.text);
  if (!lines && /^[ \n]+$/.test(cell.text)) node.dataset.blank = "true";
}

// One line of text in which spaces and line breaks that stand alone can be seen.
function visibleSigns(text) {
  const plain = text.replace(/\n/g, "↵").replace(/^ (?=.)/, "");
  return plain.trim() ? plain : plain.replace(/ /g, "␣");
}

function lessonSpan(parent, name) {
  const node = parent.appendChild(document.createElement("span"));
  node.className = name;
  return node;
}

// A draft scrolls by itself, never the page, so that the token concerned is in view.
function keepLessonInView(draft, selector) {
  const node = draft.querySelector(selector);
  if (!node || draft.scrollHeight <= draft.clientHeight) return;
  draft.scrollTop += node.getBoundingClientRect().top - draft.getBoundingClientRect().top - draft.clientHeight / 3;
}
