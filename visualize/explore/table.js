// The table of a sweep: sorted by a click on a heading, each row tied to its mark; and the same as CSV.

const EXPLORE_COLUMNS = [
  { field: "strategy", title: "explore.strategy", shown: exploreStrategy, text: true },
  { field: "block_size", title: "explore.block", shown: (row) => row.block_size },
  { field: "steps", title: "explore.steps", shown: (row) => row.steps },
  { field: "seconds", title: "explore.seconds", shown: (row) => exploreSeconds(row.seconds) },
  { field: "forwards", title: "explore.forwards", shown: (row) => row.forwards },
  { field: "tokens", title: "explore.tokens", shown: (row) => row.tokens },
  { field: "tokens_per_forward", title: "explore.perForward", shown: (row) => row.tokens_per_forward.toFixed(2) },
  { field: "confidence", title: "explore.confidence", shown: (row) => exploreConfidence(row.confidence) },
  { field: "agreement", title: "explore.agreement", shown: (row) => explorePercent(row.agreement) },
];

const EXPLORE_CSV = ["index", "slow", "block_size", "steps", "strategy", "runs", "seconds", "fastest", "slowest", "forwards",
                     "tokens", "tokens_per_forward", "agreement", "same", "confidence", "text"];

// Rows as CSV. Text that a spreadsheet would take for a formula begins with an apostrophe.
function exploreCsv(rows) {
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    if (typeof value !== "string") return String(value);
    const safe = /^[\s\u0000]*[=+\-@\uff1d\uff0b\uff0d\uff20]|^[\t\r\n]/.test(value) ? "'" + value : value;
    return /[",\r\n]/.test(safe) || safe !== value ? '"' + safe.replaceAll('"', '""') + '"' : safe;
  };
  return [EXPLORE_CSV, ...rows.map((row) => EXPLORE_CSV.map((field) => row[field]))]
    .map((line) => line.map(cell).join(",") + "\r\n").join("");
}

function createExploreTable(head, body, options) {
  const nodes = new Map(); // index of a row -> its line
  const headings = EXPLORE_COLUMNS.map((column) => {
    const heading = exploreElement(head, "th");
    heading.scope = "col";
    if (column.text) heading.dataset.text = "true";
    const button = exploreElement(heading, "button", say(column.title));
    button.type = "button";
    button.addEventListener("click", () => sortBy(column.field));
    return heading;
  });
  let sort = { field: null, way: 1 };
  let view = null;

  // A click sorts upwards, the next one downwards, a third gives back the order they were run in.
  function sortBy(field) {
    if (sort.field !== field) sort = { field, way: 1 };
    else sort = sort.way === 1 ? { field, way: -1 } : { field: null, way: 1 };
    if (view) draw(view);
  }

  function sorted() {
    const { field, way } = sort;
    const compare = (a, b) => {
      if (field === null || a[field] === b[field]) return a.index - b.index;
      if (a[field] === null || b[field] === null) return a[field] === null ? 1 : -1; // what is unknown stands last
      return (a[field] < b[field] ? -1 : 1) * way;
    };
    return [...view.rows].sort(compare);
  }

  function draw(next) {
    view = next;
    EXPLORE_COLUMNS.forEach((column, i) => {
      headings[i].setAttribute("aria-sort", sort.field !== column.field ? "none" : sort.way > 0 ? "ascending" : "descending");
    });
    for (const [index, node] of nodes) {
      if (view.rows.some((row) => row.index === index)) continue;
      node.remove();
      nodes.delete(index);
    }
    sorted().forEach((row, place) => {
      const node = nodes.get(row.index) || addLine(row.index);
      paintLine(node, row);
      if (body.children[place] !== node) body.insertBefore(node, body.children[place] || null);
    });
  }

  function addLine(index) {
    const node = document.createElement("tr");
    node.dataset.index = index;
    node.values = EXPLORE_COLUMNS.map((column) => {
      const cell = exploreElement(node, column.text ? "th" : "td");
      if (!column.text) return cell;
      cell.scope = "row";
      const button = exploreElement(cell, "button");
      button.type = "button";
      button.addEventListener("focus", () => options.point(index));
      button.addEventListener("blur", () => options.point(null));
      node.glyph = exploreElement(button, "span");
      node.badge = document.createElement("span");
      const name = exploreElement(button, "span");
      button.append(node.badge);
      node.badge.className = "dvl-explore-badge";
      return name;
    });
    node.addEventListener("pointerenter", () => options.point(index));
    node.addEventListener("pointerleave", () => options.point(null));
    node.addEventListener("click", () => options.pick(index));
    nodes.set(index, node);
    return node;
  }

  function paintLine(node, row) {
    const key = JSON.stringify(row);
    node.dataset.shown = row.index === view.shown;
    if (node.key === key) return;
    node.key = key;
    EXPLORE_COLUMNS.forEach((column, i) => { node.values[i].textContent = column.shown(row); });
    node.glyph.replaceChildren();
    exploreGlyph(node.glyph, view.shapes.get(row.strategy), row.confidence);
    node.badge.textContent = row.slow ? say("explore.slow") : "";
  }

  return { draw, csv: () => exploreCsv(sorted()) };
}
