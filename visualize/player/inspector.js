// The token inspector: what the model considered at one position, up to the step that is shown.
//
// createInspector(slots, actions).draw({run, cursor, position, state, changes}); actions: {seek, observe, close, put, mask,
// pin}, those that change a run may be missing (a saved page).

function createInspector(slot, actions) {
  const panel = slot["inspector"];
  let drawn = "";

  // The proposal that the step on show made here, or the latest one before it.
  function current(run, cursor, position) {
    const all = proposalsAt(run, position);
    const before = all.filter((entry) => entry.index < cursor);
    return { all, entry: before[before.length - 1] || null };
  }

  function draw(view) {
    const { run, cursor, position, state, changes } = view;
    panel.hidden = position === null;
    if (position === null) { drawn = ""; return null; }
    const { all, entry } = current(run, cursor, position);
    const changed = changes && changes.edits.has(position);
    const key = [run.id, knownSteps(run), cursor, position, run.total, changed, changes && changes.pins.has(position), dvlLanguage()].join("|");
    if (key === drawn) return entry;
    drawn = key;
    const id = changed ? changes.edits.get(position) : state.ids[position];
    slot["inspected"].textContent = say("player.inspected", { position });
    slot["inspected-text"].textContent = id === null ? "▢" : shownText(run, id);
    paintFacts(run, state, position, entry, id, changed);
    paintCandidates(run, state, position, entry);
    paintHistory(run, all, cursor);
    paintActions(id, position, changes);
    return entry;
  }

  function shownText(run, id) {
    if (isEnd(run, id)) return say("player.end-token");
    const text = tokenText(run, id);
    return text.includes("\ufffd") ? hex(run, id) : JSON.stringify(text);
  }

  function hex(run, id) {
    return [...(run.vocabulary.get(id) || [])].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  }

  // A token that a person or a template put was never proposed: it has an origin instead of a step and a confidence.
  function paintFacts(run, state, position, entry, id, changed) {
    const facts = [];
    const add = (name, value) => facts.push([say("player.fact-" + name), value]);
    if (id !== null) add("id", String(id));
    const given = (run.header.given || []).some(([place, token]) => place === position && token === id);
    if (id !== null && (changed || state.confidences[position] === null)) {
      add("origin", say(given && !changed ? "player.given" : "player.put-by-hand"));
    } else paintProposal(run, state, position, entry, id, add);
    slot["facts"].textContent = "";
    for (const [name, value] of facts) {
      const pair = slot["facts"].appendChild(document.createElement("div"));
      pair.appendChild(document.createElement("dt")).textContent = name;
      pair.appendChild(document.createElement("dd")).textContent = value;
    }
  }

  function paintProposal(run, state, position, entry, id, add) {
    const reveals = proposalsAt(run, position).filter((found) => found.revealed && found.index < state.count);
    const reveal = reveals[reveals.length - 1];
    if (id !== null && reveal) {
      const step = run.steps[reveal.index];
      add("revealed", say("player.at-step", { step: reveal.index + 1, inner: step.step + 1, block: step.block + 1 }));
    }
    if (entry) add("confidence", entry.confidence.toFixed(3));
    if (entry && entry.candidates && entry.candidates.length > 1) add("margin", (entry.candidates[0][1] - entry.candidates[1][1]).toFixed(3));
    if (entry && entry.entropy !== null) add("entropy", say("player.nats", { value: entry.entropy.toFixed(3) }));
  }

  function paintCandidates(run, state, position, entry) {
    const list = slot["candidates"];
    list.textContent = "";
    const ranking = entry ? entry.candidates || [[entry.id, entry.confidence]] : [];
    slot["candidates-title"].textContent = entry
      ? say("player.candidates-at", { step: entry.index + 1 }) : say("player.not-proposed");
    for (const [id, probability] of ranking) {
      const row = list.appendChild(document.createElement("li"));
      const button = row.appendChild(document.createElement("button"));
      button.type = "button";
      button.className = "dvl-candidate";
      button.dataset.id = id;
      button.style.setProperty("--share", (100 * probability).toFixed(1) + "%");
      button.appendChild(document.createElement("span")).textContent = shownText(run, id);
      button.appendChild(document.createElement("b")).textContent = probability.toFixed(3);
      if (actions.put) {
        button.title = say("player.put-candidate");
        button.addEventListener("click", () => actions.put(position, id));
      } else button.disabled = true;
    }
    const lacking = Boolean(entry) && !entry.candidates;
    const offered = entry && !run.steps[entry.index].attention && (run.header.images || []).length; // beside the picture
    slot["observe"].hidden = !lacking || !actions.observe || offered;
    slot["unobserved"].hidden = !lacking;
  }

  // How sure the leading candidate was from step to step; the shade changes where another token took the lead.
  function paintHistory(run, all, cursor) {
    const chart = slot["history"];
    chart.textContent = "";
    let shade = 0;
    all.forEach((entry, i) => {
      if (i && entry.id !== all[i - 1].id) shade = 1 - shade;
      const button = chart.appendChild(document.createElement("button"));
      button.type = "button";
      button.dataset.shade = shade;
      button.dataset.revealed = entry.revealed;
      button.dataset.now = entry.index === cursor - 1;
      button.dataset.later = entry.index >= cursor;
      button.style.setProperty("--height", Math.round(entry.confidence * 100) + "%");
      const said = say("player.history-step", { step: entry.index + 1, token: shownText(run, entry.id), value: entry.confidence.toFixed(2) });
      button.title = said;
      button.setAttribute("aria-label", said);
      button.addEventListener("click", () => actions.seek(entry.index + 1));
    });
    const changes = all.filter((entry, i) => i && entry.id !== all[i - 1].id).length;
    slot["history-title"].textContent = all.length
      ? say(changes === 1 ? "player.history-one" : "player.history-many", { n: changes }) : "";
  }

  function paintActions(id, position, changes) {
    slot["change"].hidden = !actions.put;
    if (!actions.put) return;
    const pinned = changes.pins.has(position);
    slot["pin"].textContent = say(pinned ? "player.unpin" : "player.pin");
    slot["pin"].setAttribute("aria-pressed", pinned);
    slot["pin"].disabled = id === null;
    slot["mask"].disabled = id === null;
  }

  return { draw };
}
