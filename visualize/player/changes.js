// What a person wants to be different from here on: tokens set, masked again or pinned, with undo; and the bar that
// says so and goes on as a branch.
//
// A typed text takes as many cells as it has tokens, from its own cell on; what follows is masked again unless it is
// pinned or the visitor keeps it. A pinned token stays at its place, whatever else is masked again.

function createChanges(slot, actions) {
  let changes = empty();
  let past = [];

  function empty() {
    return { edits: new Map(), pins: new Map() }; // position -> id or null (mask again); position -> id
  }

  function clear() {
    changes = empty();
    past = [];
  }

  function remember() {
    past.push({ edits: new Map(changes.edits), pins: new Map(changes.pins) });
  }

  function undo() {
    if (past.length) changes = past.pop();
    actions.redraw();
  }

  function put(position, id) {
    remember();
    changes.edits.set(position, id);
    actions.redraw();
  }

  // `tokens` is [[id, text], ...]; `ids` what stands on the canvas now.
  function putText(position, tokens, ids, maskRest) {
    remember();
    tokens.forEach(([id], i) => { if (position + i < ids.length) changes.edits.set(position + i, id); });
    if (maskRest) {
      for (let later = position + tokens.length; later < ids.length; later += 1) {
        if (changes.pins.has(later)) continue;
        if (ids[later] === null) changes.edits.delete(later);
        else changes.edits.set(later, null);
      }
    }
    actions.redraw();
  }

  function togglePin(position, id) {
    remember();
    if (changes.pins.has(position)) changes.pins.delete(position);
    else changes.pins.set(position, id);
    actions.redraw();
  }

  // The canvas with the changes made; a pin holds its token even where it was still masked at this step.
  function preview(ids) {
    if (!changes.edits.size && !changes.pins.size) return null;
    const next = ids.slice();
    for (const [position, id] of changes.edits) next[position] = id;
    for (const [position, id] of changes.pins) next[position] = id;
    return next;
  }

  // What has to be sent: [[position, id or null], ...], only where it differs from the canvas.
  function list(ids) {
    const next = preview(ids) || ids;
    const found = [];
    next.forEach((id, position) => { if (id !== ids[position]) found.push([position, id]); });
    return found;
  }

  // The bar is always there, so that nothing below it moves; with nothing to go on from it says how to come to that.
  function paintBar({ run, cursor, state, over, playing }) {
    slot["changes"].hidden = !actions.branch;
    if (slot["changes"].hidden) return;
    const found = list(state.ids);
    const count = found.length;
    const put = found.filter(([, id]) => id !== null).length;
    const ahead = over && (count > 0 || (!playing && (cursor < run.total || run.reason === "stopped")));
    slot["changes-text"].textContent = count || changes.pins.size
      ? say("player.changed", { n: put, again: count - put, pins: changes.pins.size, step: cursor })
      : say(ahead ? "player.go-on-hint" : over ? "player.go-on-how" : "player.hold-how", { step: cursor });
    slot["changes"].dataset.quiet = !ahead;
    slot["go-on"].hidden = !ahead;
    slot["undo"].hidden = slot["discard"].hidden = !past.length;
    slot["go-on"].textContent = say(count ? "player.go-on-branch" : "player.go-on", { step: cursor });
    slot["changes"].dataset.count = count;
  }

  slot["undo"].addEventListener("click", undo);
  slot["discard"].addEventListener("click", () => { clear(); actions.redraw(); });
  slot["go-on"].addEventListener("click", () => actions.branch());

  return { get: () => changes, clear, put, putText, togglePin, preview, list, paintBar, undo };
}
