// The block view: the cached prompt and every block as a chip: in the cache, being denoised, or not opened yet, with the
// steps it really used and the tokens each forward pass revealed.

function createBlocks(strip) {
  let drawn = "";

  function draw({ run, cursor, bounds, active, blocks, complete, shape }) {
    const prompt = (run.header.prompt || {}).num_tokens || 0;
    const counts = bounds.map(() => []);
    for (let i = 0; i < cursor; i += 1) counts[activeBlock(bounds, run.steps[i])].push(run.steps[i].revealed.length);
    const last = complete ? counts.reduce((at, list, block) => (list.length ? block : at), 0) : active;
    const shown = bounds.slice(0, complete ? last + 1 : Math.max(last + 1, Math.min(last + 3, blocks)));
    const rest = complete ? 0 : Math.max(0, blocks - shown.length);
    const key = [run.id, prompt, complete, active, shown.length, rest, dvlLanguage(), ...counts.map((list) => list.join("."))].join("|");
    if (key === drawn) return;
    drawn = key;
    strip.textContent = "";
    if (prompt) chip("prompt", say("player.prompt-chip", { n: prompt }), [], say("player.prompt-cached", { n: prompt }));
    shown.forEach((start, block) => {
      const state = complete || block < active ? "cached" : block === active ? "active" : "unopened";
      const used = counts[block].length;
      const revealed = counts[block].join(" + ");
      const said = say("player.block-" + state, { block: block + 1, used, limit: shape.steps, revealed: revealed || "0" });
      chip(state, String(block + 1), counts[block], said);
    });
    if (rest) chip("rest", "+ " + rest, [], say("player.blocks-rest", { n: rest }));
  }

  // One bar per forward pass, as tall as the tokens it revealed.
  function chip(state, label, counts, said) {
    const node = strip.appendChild(document.createElement("li"));
    node.className = "dvl-block";
    node.dataset.state = state;
    node.title = said;
    node.setAttribute("aria-label", said);
    const name = node.appendChild(document.createElement("b"));
    name.textContent = label;
    const bars = node.appendChild(document.createElement("span"));
    const most = Math.max(1, ...counts);
    for (const count of counts.slice(0, 32)) {
      const bar = bars.appendChild(document.createElement("i"));
      bar.style.height = 3 + Math.round((9 * count) / most) + "px";
      if (!count) bar.dataset.empty = "true";
    }
  }

  return { draw };
}
