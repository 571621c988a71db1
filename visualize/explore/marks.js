// What chart and table share: a mark per setting, and how numbers are written.
//
// A mark's shape is the strategy; its colour is the mean confidence, and so is its filling: full from 90 %, a ring with
// a dot from 50 %, a bare ring below.

const EXPLORE_SHAPES = [
  "M6 0A6 6 0 1 1-6 0A6 6 0 1 1 6 0Z",
  "M-5.4-5.4H5.4V5.4H-5.4Z",
  "M0-7.4L6.8 4.8H-6.8Z",
  "M0-7.8L7.8 0L0 7.8L-7.8 0Z",
  "M0 7.4L6.8-4.8H-6.8Z",
  "M-2.6-7H2.6V-2.6H7V2.6H2.6V7H-2.6V2.6H-7V-2.6H-2.6Z",
  "M-7-4.2L-4.2-7L0-2.8L4.2-7L7-4.2L2.8 0L7 4.2L4.2 7L0 2.8L-4.2 7L-7 4.2L-2.8 0Z",
];
const EXPLORE_SVG = "http://www.w3.org/2000/svg";

function exploreSvg(parent, tag, attributes) {
  const node = parent.appendChild(document.createElementNS(EXPLORE_SVG, tag));
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  return node;
}

function exploreElement(parent, tag, text, name) {
  const node = parent.appendChild(document.createElement(tag));
  if (text !== undefined) node.textContent = text;
  if (name) node.className = name;
  return node;
}

// Paints a mark into an SVG group; called again, it changes what is there. Without a confidence it is a plain shape.
function explorePaintMark(group, shape, confidence) {
  const fill = confidence === undefined ? "full" : confidence === null || confidence < 0.5 ? "open" : confidence < 0.9 ? "dot" : "full";
  group.setAttribute("class", "dvl-explore-mark");
  group.dataset.fill = fill;
  if (confidence === null || confidence === undefined) delete group.dataset.level;
  else group.dataset.level = Math.min(8, Math.max(0, Math.round(confidence * 8)));
  const path = group.querySelector("path") || exploreSvg(group, "path");
  path.setAttribute("d", EXPLORE_SHAPES[shape % EXPLORE_SHAPES.length]);
  if (!group.querySelector("circle")) exploreSvg(group, "circle", { r: 2 });
}

// The same mark as a small picture beside text.
function exploreGlyph(parent, shape, confidence) {
  const svg = exploreSvg(parent, "svg", { viewBox: "-9 -9 18 18", width: 18, height: 18, "aria-hidden": "true" });
  explorePaintMark(exploreSvg(svg, "g"), shape, confidence);
  return svg;
}

const exploreStrategy = (row) => sayStrategy(row.strategy);

function exploreSetting(row) {
  return say(row.steps === 1 ? "explore.setting.one" : "explore.setting",
             { block: row.block_size, steps: row.steps, strategy: exploreStrategy(row) });
}

const exploreSeconds = (value) => value.toFixed(value >= 10 ? 1 : value >= 1 ? 2 : 3);

// Rounded down, so that only the same answer agrees to 100 %.
const explorePercent = (share) => (Math.floor(share * 1000 + 1e-9) / 10).toFixed(1) + " %";

const exploreConfidence = (value) => (value === null ? "–" : value.toFixed(3));
