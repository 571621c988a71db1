// The player: shows runs of a diffusion decoder, live or replayed. One copy serves the app and saved pages.
//
// createDiffusionPlayer(host, options) takes messages (see protocol.py) through receive(), keeps the runs they bring, asks
// options.missing(run, have) for what was lost, and offers options.links(run) for download when a run is over. What else
// `options` may hold makes a live page of it: picture(run, image), tokenize(text), and branch, observe, occlude, pause,
// which ask the server for something. Every paint is drawn from the record and from the scrubber's position, at most once
// per animation frame. Text of tokens reaches the page through textContent only, and state through data attributes only.

function createDiffusionPlayer(host, options) {
  const KEPT_RUNS = 12;
  const root = host.querySelector(".dvl");
  const slot = {};
  root.querySelectorAll("[data-slot]").forEach((node) => { slot[node.dataset.slot] = node; });
  sayAll(root);
  const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

  const runs = new Map();
  let run = createRun(null); // the one that is shown
  let cursor = 0;            // steps applied: 0 = before the first, run.steps.length = everything known
  let following = true;      // the newest step is shown as it arrives
  let timer = null;          // replay
  let waiting = 0;           // visitors before the run that was asked for; null = the model is being loaded
  let frame = 0;
  let selected = null;       // position in the inspector
  let kept = null;           // the same in the run that comes next, where it was asked for from the inspector

  const cells = createCells(slot["canvas"]);
  const blocks = createBlocks(slot["blocks"]);
  const heat = createHeatmap(slot["heat"], slot["heat-hint"], (step, position) => {
    keepPlace(slot["heat"]);
    pause();
    seek(step);
    select(position);
  });
  // The same run with more recorded, or without a part of the picture: the token that is looked into stays.
  const again = (ask) => ask && ((asked) => { kept = selected; ask(asked); });
  const observe = again(options.observe);
  const occlude = again(options.occlude);
  const changes = createChanges(slot, { redraw: schedule, branch: options.branch ? goOn : null });
  const inspector = createInspector(slot, {
    seek: (step) => { pause(); seek(step); }, observe,
    put: options.branch ? changes.put : null,
  });
  const overlay = createOverlay(slot, {
    seek: (step) => { pause(); seek(step); }, picture: options.picture, observe,
    occlude: occlude ? (region) => occlude({ run: run.id, region }) : null,
  });
  const branches = createBranches(slot, { show, picture: (of, image) => (options.picture ? options.picture(of.id, image) : "") });
  const spoken = createAnnouncer(slot["spoken"]);

  // -- receiving --

  function receive(message) {
    if (!message || !message.run) return;
    if (message.waiting !== undefined) { // the run shown so far stays until the new one begins
      waiting = message.waiting;
      return schedule();
    }
    waiting = 0;
    if (!runs.has(message.run)) begin(message.run);
    else if (message.trace) show(message.run); // a recording that is picked again
    const known = runs.get(message.run);
    const begins = Boolean(message.header) && !known.header;
    if (message.trace) loadTrace(known, message.trace, message.note || "");
    else mergeMessage(known, message);
    if (known !== run) return advance(known);
    if (begins) bringIntoView(root, slot["canvas"]);
    if (begins && options.begun) options.begun(slot["canvas"]);
    if (message.trace) startRecorded();
    advance(run);
  }

  function begin(id) {
    pause();
    run = createRun(id);
    runs.set(id, run);
    if (runs.size > KEPT_RUNS) runs.delete(runs.keys().next().value);
    cursor = 0;
    following = true;
    [selected, kept] = [kept, null];
    changes.clear();
    root.dataset.direction = "forward";
  }

  function startRecorded() {
    if (reducedMotion.matches) cursor = run.total;
    else play();
  }

  // Show a run that is kept, where the shown one stands.
  function show(id) {
    if (!runs.has(id) || runs.get(id) === run) return;
    pause();
    run = runs.get(id);
    changes.clear();
    following = run.total === null;
    cursor = knownSteps(run);
    if (run.header && selected >= run.header.length) selected = null;
    advance(run);
    if (options.shown) options.shown(id);
  }

  function advance(which) {
    const have = knownSteps(which);
    const expected = which.total === null ? which.heard : which.total;
    if (!which.recorded && (have < expected || !which.header)) fetchMissing(which, have);
    if (which === run && following && !timer) cursor = have;
    schedule();
  }

  async function fetchMissing(which, have) {
    if (which.fetching || which.tries > 20 || !options.missing) return;
    which.fetching = true;
    which.tries += 1;
    try {
      const answer = await options.missing(which.id, which.header ? have : 0);
      if (answer) {
        mergeMessage(which, answer);
        if (knownSteps(which) > have) which.tries = 0;
      }
    } catch (error) {
      console.warn("The steps that are missing could not be fetched.", error);
    }
    setTimeout(() => { which.fetching = false; advance(which); }, 120);
  }

  // -- painting --

  function schedule() {
    root.dataset.run = run.id || "";
    root.dataset.received = knownSteps(run);
    root.dataset.total = run.total === null ? "" : run.total;
    root.dataset.phase = run.recorded ? "recorded" : run.total !== null ? "finished" : run.id ? "running" : "empty";
    if (!frame) frame = requestAnimationFrame(() => { frame = 0; paint(); });
  }

  function paint() {
    slot["note"].textContent = noteText();
    if (!run.header) return;
    const have = knownSteps(run);
    cursor = Math.min(cursor, have);
    const state = stateAt(run, cursor);
    const bounds = blockStarts(run, cursor);
    const shape = blockShape(run, cursor);
    const complete = run.total !== null && cursor === run.total;
    const view = { run, have, cursor, state, bounds, shape, complete, selected, position: selected, steps: shape.steps,
                   active: activeBlock(bounds, state.last), blocks: blocksOf(run, bounds), kind: heatKind(), over: run.total !== null, playing: timer !== null,
                   changes: changes.get(), preview: changes.preview(state.ids) };
    cells.paint(view);
    if (!complete && (run.total === null || timer)) cells.keepInView(bounds[view.active]);
    paintCounters(view);
    paintControls(have);
    paintLinks();
    blocks.draw(view);
    heat.draw(view);
    view.entry = inspector.draw(view);
    overlay.draw(selected === null ? null : view);
    changes.paintBar(view);
    branches.draw([...runs.values()], run.id);
    if (run.total === null || timer) spoken.follow(view);
    else if (complete && !run.recorded) spoken.finished(run);
    root.dataset.kind = run.header.model.kind;
    root.dataset.complete = complete;
    root.dataset.playing = timer !== null;
    root.dataset.following = following;
    root.dataset.cursor = cursor;
    root.dataset.selected = selected === null ? "" : selected;
  }

  function noteText() {
    if (waiting === null) return say("player.loading");
    if (waiting) return say(waiting === 1 ? "player.waiting-one" : "player.waiting-many", { n: waiting });
    if (!run.header) return run.note;
    if (run.recorded) return say(run.note || "player.recorded-run", { model: run.header.model.name || "", question: questionOf(run) });
    if (run.total === null) return say(run.steps.length ? "player.answering" : "player.reading");
    if (run.reason === "stopped") return say("player.stopped", { n: run.total });
    if (run.reason === "length") return say("player.reached-length", { n: run.header.length });
    return say("player.ended");
  }

  function heatKind() {
    const observed = run.steps.some((step) => step && step.entropies);
    slot["heat-entropy"].disabled = !observed;
    if (!observed && slot["heat-kind"].value === "entropy") slot["heat-kind"].value = "confidence";
    const kind = slot["heat-kind"].value || "confidence";
    slot["heat-caption"].textContent = say(kind === "order" ? "player.heat-caption-order" : "player.heat-caption");
    return kind;
  }

  function paintCounters({ state, blocks, shape, active }) {
    const last = state.last;
    const prefill = run.prefill || run.header.prefill_milliseconds;
    const seconds = (prefill + state.milliseconds) / 1000;
    const of = (n, total) => say("player.n-of-m", { n, total });
    slot["block"].textContent = of(active + 1, Math.max(blocks, active + 1));
    slot["step"].textContent = last ? of(last.step + 1, Math.max(shape.steps, last.step + 1)) : of(0, shape.steps);
    slot["forwards"].textContent = last ? last.forwards : "–";
    slot["per-forward"].textContent = cursor ? (state.denoised / passesOf(run.steps, cursor)).toFixed(2) : "–";
    slot["per-second"].textContent = cursor && seconds > 0 ? Math.round(state.denoised / seconds) : "–";
    slot["prefill"].textContent = prefill > 0 ? Math.round(prefill) + " ms" : "–";
  }

  function paintControls(have) {
    const scrubber = slot["scrubber"];
    scrubber.max = have;
    scrubber.value = cursor;
    const block = cursor ? run.steps[cursor - 1].block + 1 : 1;
    scrubber.setAttribute("aria-valuetext", say("player.scrubber-at", { step: cursor, have, block }));
    slot["time"].textContent = cursor + " / " + have;
    for (const button of root.querySelectorAll("[data-act]")) {
      const act = button.dataset.act;
      const idle = { first: cursor === 0, back: cursor === 0, forward: cursor === have, last: cursor === have }[act];
      button.setAttribute("aria-disabled", Boolean(idle || !have)); // not `disabled`, which would take the focus away
      if (act === "play") button.setAttribute("aria-label", say(timer ? "player.pause" : "player.play"));
    }
    slot["hold"].hidden = !options.pause || run.total !== null || !run.header;
    paintMarks(have);
  }

  function paintMarks(have) {
    const starts = [];
    for (let i = 1; i < have; i += 1) if (run.steps[i].block !== run.steps[i - 1].block) starts.push(i);
    const key = have + ":" + starts.join(",");
    if (slot["marks"].dataset.key === key) return;
    slot["marks"].dataset.key = key;
    slot["marks"].textContent = "";
    for (const start of starts) {
      const mark = slot["marks"].appendChild(document.createElement("i"));
      mark.style.left = (100 * start) / have + "%";
    }
  }

  // Files are made by the server, and the figure only when somebody opens it.
  function paintLinks() {
    slot["take"].hidden = run.total === null || !options.links;
    if (slot["take"].hidden) return;
    const links = options.links(run.id, { confidence: "confidence", entropy: "entropy", order: "reveal" }[slot["heat-kind"].value]);
    for (const link of slot["take"].querySelectorAll("a[data-file]")) {
      const address = links[link.dataset.file];
      link.hidden = !address;
      if (address && link.getAttribute("href") !== address) link.href = address;
    }
    slot["details"].hidden = !links.png;
    const mode = document.body.classList.contains("dark") ? "?mode=dark" : "";
    const figure = slot["details"].open && links.png ? links.png + mode : "";
    if (!figure) slot["figure"].removeAttribute("src");
    else if (slot["figure"].getAttribute("src") !== figure) slot["figure"].src = figure;
  }

  // -- scrubbing and replay --

  function seek(step) {
    const have = knownSteps(run);
    const next = Math.max(0, Math.min(have, step));
    root.dataset.direction = next >= cursor ? "forward" : "back";
    cursor = next;
    following = run.total === null && cursor === have;
    schedule();
  }

  function seekBlock(way) {
    const bounds = [0];
    for (let i = 1; i < knownSteps(run); i += 1) if (run.steps[i].block !== run.steps[i - 1].block) bounds.push(i);
    bounds.push(knownSteps(run));
    pause();
    seek(way > 0 ? bounds.find((step) => step > cursor) ?? cursor : bounds.findLast((step) => step < cursor) ?? 0);
  }

  function beat() {
    const speed = Number(slot["speed"].value) || 1;
    return Math.max(40, Math.min(420, 9000 / Math.max(1, knownSteps(run)))) / speed;
  }

  function play() {
    if (timer || !run.header) return;
    if (cursor >= knownSteps(run)) cursor = 0;
    const tick = () => {
      if (cursor >= knownSteps(run) && run.total !== null) return pause();
      seek(cursor + 1);
      timer = setTimeout(tick, beat());
    };
    timer = setTimeout(tick, beat());
    schedule();
  }

  function pause() {
    clearTimeout(timer);
    timer = null;
    schedule();
  }

  const actions = {
    first: () => { pause(); seek(0); },
    back: () => { pause(); seek(cursor - 1); },
    play: () => { if (timer) pause(); else { if (run.total === null) following = false; play(); } },
    forward: () => { pause(); seek(cursor + 1); },
    last: () => { pause(); seek(knownSteps(run)); },
  };

  // What opens above a thing that was clicked does not push it away. A phone shows what opened instead (see select).
  function keepPlace(node) {
    if (innerWidth <= 700) return;
    const { top } = node.getBoundingClientRect();
    requestAnimationFrame(() => requestAnimationFrame(() => {
      scrollBy({ top: node.getBoundingClientRect().top - top, behavior: "instant" });
    }));
  }

  // -- looking inside, and changing --

  function select(position) {
    selected = position;
    slot["edit-form"].hidden = true;
    schedule();
    if (position !== null && innerWidth <= 700) { // on a phone the inspector opens below what is seen
      requestAnimationFrame(() => requestAnimationFrame(() => slot["inspector"].scrollIntoView({ block: "nearest" })));
    }
  }

  function goOn() {
    const list = changes.list(stateAt(run, cursor).ids);
    options.branch({ run: run.id, step: cursor, changes: list });
  }

  async function putTyped() {
    const ids = changes.preview(stateAt(run, cursor).ids) || stateAt(run, cursor).ids;
    const before = ids[selected] === null ? "" : tokenText(run, ids[selected]);
    const spaced = before ? /^\s/.test(before) : selected > 0;
    const typed = slot["edit-text"].value;
    const tokens = await options.tokenize({ text: spaced && !/^\s/.test(typed) ? " " + typed : typed });
    if (!tokens || !tokens.length) return;
    for (const [id, entry] of tokens) run.vocabulary.set(id, entryBytes(entry));
    slot["edit-form"].hidden = true;
    changes.putText(selected, tokens, ids, slot["edit-rest"].checked);
    if (innerWidth <= 700) slot["canvas"].scrollIntoView({ block: "nearest" }); // where the new text stands
  }

  const typed = createKeyboard(root, {
    actions, seekBlock, select, undo: changes.undo,
    selected: () => selected, hold, help: slot["help"], length: () => (run.header ? run.header.length : 0),
    visible: (position) => { const cell = root.querySelector('.dvl-cell[data-position="' + position + '"]'); return cell && cell.getClientRects().length > 0; },
  });

  function hold() {
    if (options.pause && run.total === null && run.header) options.pause({ run: run.id });
  }

  root.addEventListener("click", (event) => {
    const button = event.target.closest("[data-act]");
    if (button) return actions[button.dataset.act]();
    const cell = event.target.closest(".dvl-cell");
    if (cell && !String(getSelection())) select(Number(cell.dataset.position) === selected ? null : Number(cell.dataset.position));
  });
  slot["hold"].addEventListener("click", hold);
  slot["close"].addEventListener("click", () => select(null));
  slot["pin"].addEventListener("click", () => {
    const ids = changes.preview(stateAt(run, cursor).ids) || stateAt(run, cursor).ids;
    changes.togglePin(selected, ids[selected]);
  });
  slot["mask"].addEventListener("click", () => changes.put(selected, null));
  slot["edit"].addEventListener("click", () => {
    slot["edit-form"].hidden = !slot["edit-form"].hidden;
    const id = stateAt(run, cursor).ids[selected];
    slot["edit-text"].value = id === null || isEnd(run, id) ? "" : tokenText(run, id).trim();
    slot["edit-text"].focus();
  });
  slot["edit-form"].addEventListener("submit", (event) => { event.preventDefault(); putTyped(); });
  slot["observe"].addEventListener("click", () => observe({ run: run.id }));
  slot["observe-attention"].addEventListener("click", () => observe({ run: run.id }));
  slot["scrubber"].addEventListener("input", () => { pause(); seek(Number(slot["scrubber"].value)); });
  slot["heat-kind"].addEventListener("change", schedule);
  slot["ends"].addEventListener("change", () => { root.dataset.ends = slot["ends"].checked; });
  slot["details"].addEventListener("toggle", schedule);
  slot["help-open"].addEventListener("click", typed.openHelp);
  slot["full"].hidden = !document.fullscreenEnabled;
  slot["full"].addEventListener("click", () => { document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen(); });
  document.addEventListener("visibilitychange", () => { if (run.id && !document.hidden) advance(run); });

  const api = { receive, seek, play, pause, select, show, redraw: schedule };
  host.diffusionPlayer = api;
  return api;
}

// What can be downloaded of a run that is over, by the name of its link in the template; `kind` is that of the heatmap.
function runLinks(file, kind) {
  return { png: file(kind + ".png"), json: file("trace.json"), html: file("run.html"), gif: file("run.gif"),
           canvas: file("run.png"), svg: file(kind + ".svg"), csv: file("run.csv") };
}
