// The keyboard: everything the player does with the mouse, and a card that says how.
//
// createKeyboard(root, {actions, seekBlock, select, selected, length, visible, undo, hold, help}) listens while the focus is in
// the player, or nowhere.

function createKeyboard(root, player) {
  const STEPS = { ArrowLeft: "back", ArrowRight: "forward", Home: "first", End: "last" };

  function openHelp() {
    if (!player.help.open) player.help.showModal();
  }

  player.help.addEventListener("click", (event) => { if (event.target === player.help || event.target.closest("button")) player.help.close(); });

  // Tab walks from token to token once one is chosen; escape gives Tab back to the page.
  function walk(way) {
    let position = player.selected() + way;
    while (position >= 0 && position < player.length() && !player.visible(position)) position += way;
    if (position >= 0 && position < player.length()) player.select(position);
    else player.select(null);
    return position >= 0 && position < player.length();
  }

  function onKey(event) {
    const nowhere = event.target === document.body;
    if (!nowhere && !root.contains(event.target)) return;
    if (nowhere && !root.getClientRects().length) return; // another tab of the page
    if (player.help.open) return;
    if ((event.ctrlKey || event.metaKey) && event.key === "z" && event.target.tagName !== "INPUT") { player.undo(); event.preventDefault(); return; }
    if (event.altKey || event.ctrlKey || event.metaKey || isOwn(event)) return;
    if (handle(event)) event.preventDefault();
  }

  // Keys that what has the focus needs itself; a slider needs those that move it, and no others.
  function isOwn({ target, key }) {
    if (target.type === "range") return /^(Arrow|Home|End|Page)/.test(key);
    return /SELECT|INPUT|TEXTAREA/.test(target.tagName);
  }

  function handle(event) {
    const inCanvas = Boolean(event.target.closest && event.target.closest(".dvl-canvas"));
    if (event.key === "Tab" && inCanvas && player.selected() !== null) return walk(event.shiftKey ? -1 : 1);
    if (event.key === "Enter" && inCanvas && player.selected() === null) {
      for (let position = 0; position < player.length(); position += 1) {
        if (player.visible(position)) { player.select(position); return true; }
      }
    }
    if (event.key === "Escape") {
      if (player.selected() !== null) player.select(null);
      else player.hold();
      return true;
    }
    if (event.key === "?") { openHelp(); return true; }
    if (event.key === "[" || event.key === "]") { player.seekBlock(event.key === "]" ? 1 : -1); return true; }
    const act = STEPS[event.key] || (event.key === " " && !(event.target.closest && event.target.closest("button, summary, a")) ? "play" : null);
    if (!act) return false;
    player.actions[act]();
    return true;
  }

  document.addEventListener("keydown", onKey);
  return { openHelp };
}

// The live region of a screen reader: block, step and the words that are new, at most one sentence every two seconds.
function createAnnouncer(node) {
  let said = 0;
  let from = null;   // {run, cursor} up to which everything was said
  let done = null;

  function follow(view) {
    if (from === null || from.run !== view.run || from.cursor > view.cursor) from = { run: view.run, cursor: view.cursor };
    const now = performance.now();
    if (now - said < 2000 || view.cursor === from.cursor) return;
    const positions = [];
    for (let i = from.cursor; i < view.cursor; i += 1) positions.push(...view.run.steps[i].revealed);
    const texts = cellTexts(view.state.ids, view.run.vocabulary, view.state.isEnd);
    const words = positions.sort((a, b) => a - b).map((position) => texts[position].text.trim()).filter(Boolean).join(" ");
    node.textContent = say("player.spoken", { block: view.active + 1, step: view.state.last.step + 1, words: words || "–" });
    said = now;
    from = { run: view.run, cursor: view.cursor };
  }

  function finished(run) {
    if (done === run.id) return;
    done = run.id;
    node.textContent = say("player.spoken-done", { n: run.total });
  }

  return { follow, finished };
}
