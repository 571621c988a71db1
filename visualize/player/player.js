// The player: shows one run of a diffusion decoder, live or replayed. One copy serves the app and saved pages.
//
// createDiffusionPlayer(host, {missing, links}) takes messages (see protocol.py) through receive(), keeps the run,
// asks missing(run, have) for what was lost, and offers links(run) = {png, json} for download when it is over;
// every paint is drawn from that record and from the scrubber's position, at most once per animation frame.
// Text of tokens reaches the page through textContent only, and state through data attributes only.

function createDiffusionPlayer(host, options) {
  const root = host.querySelector(".dvl");
  const slot = {};
  root.querySelectorAll("[data-slot]").forEach((node) => { slot[node.dataset.slot] = node; });
  const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
  const heat = createHeatmap(slot["heat"], slot["heat-hint"], seek);

  let run = emptyRun(null);
  let cursor = 0;            // steps applied: 0 = before the first, run.steps.length = everything known
  let following = true;      // the newest step is shown as it arrives
  let timer = null;          // replay
  let waiting = 0;           // visitors before the run that was asked for
  let frame = 0;
  let reached = {};          // the state painted last, to go on from
  let cells = [];
  let keys = [];             // what each cell shows now, so that a paint touches changed cells only
  const retired = new Set(); // ids of runs that were replaced: their late messages are not for us

  // -- receiving --

  function emptyRun(id) {
    return { id, header: null, vocabulary: new Map(), steps: [], heard: 0, total: null, reason: null, note: "",
             prefill: 0, recorded: false, fetching: false, tries: 0 };
  }

  function receive(message) {
    if (!message || !message.run || retired.has(message.run)) return;
    if (message.waiting !== undefined) { // the run shown so far stays until the new one begins
      waiting = message.waiting;
      return schedule();
    }
    waiting = 0;
    if (message.run !== run.id) start(message.run);
    if (message.trace) loadTrace(message.trace, message.note || "");
    else merge(message);
    advance();
  }

  function start(id) {
    if (run.id) retired.add(run.id);
    pause();
    run = emptyRun(id);
    cursor = 0;
    following = true;
    root.dataset.direction = "forward";
  }

  function merge(message) {
    if (message.header && !run.header) bringIntoView();
    if (message.header) run.header = message.header;
    if (message.prefill_milliseconds) run.prefill = message.prefill_milliseconds;
    for (const [id, entry] of Object.entries(message.vocabulary || {})) run.vocabulary.set(Number(id), entryBytes(entry));
    if (message.step) run.steps[message.seq - 1] = message.step;
    (message.steps || []).forEach((step, i) => { run.steps[message.seq - 1 + i] = step; });
    run.heard = Math.max(run.heard, run.steps.length, message.seq || 0);
    if (message.done) {
      run.total = message.done.steps;
      run.reason = message.done.reason;
      slot["spoken"].textContent = "Finished after " + run.total + " steps.";
    }
  }

  // On a phone the canvas lies below the question: whoever asked gets to see the answer form.
  function bringIntoView() {
    const top = slot["canvas"].getBoundingClientRect().top;
    if (top > innerHeight - 120) root.scrollIntoView({ behavior: reducedMotion.matches ? "auto" : "smooth", block: "start" });
  }

  function loadTrace(trace, note) {
    reached = {};
    run.header = trace;
    run.steps = trace.steps;
    run.total = trace.steps.length;
    run.reason = trace.finish_reason;
    run.note = note;
    run.recorded = true;
    run.vocabulary = new Map(Object.entries(trace.vocabulary).map(([id, entry]) => [Number(id), entryBytes(entry)]));
    if (reducedMotion.matches) cursor = run.total;
    else play();
  }

  // Steps that have arrived without a gap: a hidden tab and a busy page lose messages.
  function known() {
    let n = 0;
    while (n < run.steps.length && run.steps[n]) n += 1;
    return n;
  }

  function advance() {
    const have = known();
    const expected = run.total === null ? run.heard : run.total;
    if (!run.recorded && (have < expected || !run.header)) fetchMissing(have);
    if (following && !timer) cursor = have;
    schedule();
  }

  async function fetchMissing(have) {
    const asked = run;
    if (asked.fetching || asked.tries > 20 || !options.missing) return;
    asked.fetching = true;
    asked.tries += 1;
    try {
      const answer = await options.missing(asked.id, asked.header ? have : 0);
      if (answer && asked === run) {
        merge(answer);
        if (known() > have) asked.tries = 0;
      }
    } catch (error) {
      console.warn("The steps that are missing could not be fetched.", error);
    }
    setTimeout(() => { asked.fetching = false; if (asked === run) advance(); }, 120);
  }

  // -- the state at a step --

  // Ids and confidences after `count` steps. A step forward builds on the state before it.
  function stateAt(count) {
    const from = reached.run === run && reached.count <= count ? reached : blank();
    for (let i = from.count; i < count; i += 1) {
      const step = run.steps[i];
      const revealed = new Set(step.revealed);
      from.milliseconds += step.milliseconds;
      step.masked.forEach((position, j) => {
        from.ids[position] = revealed.has(position) ? step.proposals[j] : null;
        from.confidences[position] = revealed.has(position) ? step.confidences[j] : null;
      });
    }
    from.count = count;
    reached = from;
    const last = count ? run.steps[count - 1] : null;
    const stops = new Set(run.header.model.eos_token_ids || []);
    const end = from.ids.findIndex((id) => stops.has(id));
    const state = { ...from, last, fresh: new Set(last ? last.revealed : []), isEnd: (id) => stops.has(id) };
    state.end = end < 0 ? run.header.length : end;
    state.answered = state.ids.slice(0, state.end).filter((id) => id !== null).length;
    return state;
  }

  function blank() {
    const nothing = { run, count: 0, milliseconds: 0, ids: new Array(run.header.length).fill(null),
                      confidences: new Array(run.header.length).fill(null) };
    for (const [position, id] of run.header.given || []) nothing.ids[position] = id;
    return nothing;
  }

  // An autoregressive model reveals token by token, whatever its settings say.
  function blockShape() {
    if (run.header.model.kind === "autoregressive") return { size: 1, steps: 1 };
    return { size: Math.max(1, run.header.settings.block_size || 1), steps: Math.max(1, run.header.settings.steps || 1) };
  }

  // Start of every block. Blocks are aligned to the prompt, whose tail shares the first one.
  function blockStarts() {
    const { size } = blockShape();
    const step = run.steps[0];
    let next = size - (((run.header.prompt || {}).num_tokens || 0) % size);
    if (step) next = step.block ? step.span[0] - (step.block - 1) * size : step.span[1];
    const bounds = [0];
    for (; next < run.header.length; next += size) bounds.push(next);
    return bounds;
  }

  // -- painting --

  function schedule() {
    root.dataset.run = run.id || "";
    root.dataset.received = known();
    root.dataset.total = run.total === null ? "" : run.total;
    root.dataset.phase = run.recorded ? "recorded" : run.total !== null ? "finished" : run.id ? "running" : "empty";
    if (!frame) frame = requestAnimationFrame(() => { frame = 0; paint(); });
  }

  function paint() {
    slot["note"].textContent = noteText();
    if (!run.header) return;
    const have = known();
    cursor = Math.min(cursor, have);
    const state = stateAt(cursor);
    const bounds = blockStarts();
    const complete = run.total !== null && cursor === run.total;
    paintCells(state, bounds, complete);
    paintCounters(state, bounds);
    paintControls(have);
    paintLinks();
    const tokenText = (id) => new TextDecoder().decode(run.vocabulary.get(id) || new Uint8Array());
    heat.draw({ run, have, cursor, bounds, steps: blockShape().steps, tokenText });
    root.dataset.kind = run.header.model.kind;
    root.dataset.complete = complete;
    root.dataset.playing = timer !== null;
    root.dataset.following = following;
    root.dataset.cursor = cursor;
  }

  function noteText() {
    if (waiting) return "Waiting: " + waiting + (waiting === 1 ? " visitor is" : " visitors are") + " before you.";
    if (run.recorded || !run.header) return run.note;
    if (run.total === null) return run.steps.length ? "Answering …" : "Reading the question …";
    if (run.reason === "stopped") return "Stopped after step " + run.total + "; what was there is kept.";
    if (run.reason === "length") return "Finished: the answer reached its full length of " + run.header.length + " tokens.";
    return "Finished: the model ended its answer.";
  }

  function paintCells(state, bounds, complete) {
    if (cells.length !== run.header.length || cells.run !== run.id) buildCells();
    const shown = cellTexts(state.ids, run.vocabulary, state.isEnd);
    const active = state.last ? state.last.block : 0;
    const first = new Set(bounds);
    let block = -1;
    let hidden = 0;
    state.ids.forEach((id, position) => {
      if (first.has(position)) { block += 1; if (block > active + 2 && id === null) hidden += 1; }
      const cell = describe(state, position, shown[position]);
      cell.block = complete || block < active ? "done" : block === active ? "active" : "ahead";
      cell.ahead = id !== null || block <= active ? "" : block > active + 2 ? "far" : String(block - active);
      if (complete && id === null) cell.block = "ahead";
      if (complete && cell.state === "new") cell.state = "settled";
      if (first.has(position) && position > 0) cell.first = "true";
      apply(position, cell);
    });
    cells.more.textContent = hidden && !(complete && state.end < state.ids.length)
      ? "+ " + hidden + (hidden === 1 ? " block" : " blocks") : "";
    if (!complete && (run.total === null || timer)) keepInView(bounds[active]);
  }

  function describe(state, position, shown) {
    const id = state.ids[position];
    const confidence = state.confidences[position];
    const cell = { state: id === null ? "masked" : state.fresh.has(position) ? "new" : "settled", text: shown.text };
    if (position > state.end) cell.after = "true";
    if (id === null) return cell;
    if (state.isEnd(id)) { cell.eos = "true"; cell.text = ""; }
    if (shown.partial) cell.partial = "true";
    if (/\n/.test(cell.text)) cell.newline = "true";
    if (confidence !== null) {
      cell.level = String(Math.min(8, Math.max(0, Math.round(confidence * 8))));
      cell.pattern = confidence < 0.5 ? "dotted" : confidence < 0.9 ? "dashed" : "solid";
      cell.title = "confidence " + confidence.toFixed(2);
    }
    return cell;
  }

  const ATTRIBUTES = ["state", "block", "ahead", "first", "after", "eos", "partial", "newline", "level", "pattern"];

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

  function buildCells() {
    cells = [];
    keys = [];
    const canvas = slot["canvas"];
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
    cells.run = run.id;
    canvas.scrollTop = 0;
  }

  function keepInView(position) {
    const node = cells[position];
    const canvas = slot["canvas"];
    if (!node || canvas.scrollHeight <= canvas.clientHeight) return;
    const top = node.getBoundingClientRect().top - canvas.getBoundingClientRect().top;
    if (top < 0 || top > canvas.clientHeight - 80) canvas.scrollTop += top - canvas.clientHeight / 3;
  }

  function paintCounters(state, bounds) {
    const last = state.last;
    const prefill = run.header.prefill_milliseconds || run.prefill;
    const seconds = (prefill + state.milliseconds) / 1000;
    const perBlock = blockShape().steps;
    slot["block"].textContent = (last ? last.block + 1 : 1) + " of " + bounds.length;
    slot["step"].textContent = last ? last.step + 1 + " of " + Math.max(perBlock, last.step + 1) : "0 of " + perBlock;
    slot["forwards"].textContent = last ? last.forwards : "–";
    slot["per-forward"].textContent = cursor ? (state.answered / cursor).toFixed(2) : "–";
    slot["per-second"].textContent = cursor && seconds > 0 ? Math.round(state.answered / seconds) : "–";
    slot["prefill"].textContent = prefill > 0 ? Math.round(prefill) + " ms" : "–";
  }

  // -- scrubbing and replay --

  function paintControls(have) {
    const scrubber = slot["scrubber"];
    scrubber.max = have;
    scrubber.value = cursor;
    const block = cursor ? run.steps[cursor - 1].block + 1 : 1;
    scrubber.setAttribute("aria-valuetext", "step " + cursor + " of " + have + ", block " + block);
    slot["time"].textContent = cursor + " / " + have;
    for (const button of root.querySelectorAll("[data-act]")) {
      const act = button.dataset.act;
      const idle = { first: cursor === 0, back: cursor === 0, forward: cursor === have, last: cursor === have }[act];
      button.setAttribute("aria-disabled", Boolean(idle || !have)); // not `disabled`, which would take the focus away
      if (act === "play") button.setAttribute("aria-label", timer ? "Pause" : "Play");
    }
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

  // The figure is drawn by the server, and only when somebody opens it.
  function paintLinks() {
    slot["take"].hidden = run.total === null || !options.links;
    if (slot["take"].hidden) return;
    const links = options.links(run.id);
    const mode = document.body.classList.contains("dark") ? "?mode=dark" : "";
    for (const name of ["png", "json"]) if (slot[name].getAttribute("href") !== links[name]) slot[name].href = links[name];
    const figure = slot["details"].open ? links.png + mode : "";
    if (!figure) slot["figure"].removeAttribute("src");
    else if (slot["figure"].getAttribute("src") !== figure) slot["figure"].src = figure;
  }

  function seek(step) {
    const have = known();
    const next = Math.max(0, Math.min(have, step));
    root.dataset.direction = next >= cursor ? "forward" : "back";
    cursor = next;
    following = run.total === null && cursor === have;
    schedule();
  }

  function beat() {
    const speed = Number(slot["speed"].value) || 1;
    return Math.max(40, Math.min(420, 9000 / Math.max(1, known()))) / speed;
  }

  function play() {
    if (timer || !run.header) return;
    if (cursor >= known()) cursor = 0;
    const tick = () => {
      if (cursor >= known() && run.total !== null) return pause();
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
    last: () => { pause(); seek(known()); },
  };

  root.addEventListener("click", (event) => {
    const button = event.target.closest("[data-act]");
    if (button) actions[button.dataset.act]();
  });
  slot["scrubber"].addEventListener("input", () => { pause(); seek(Number(slot["scrubber"].value)); });
  slot["ends"].addEventListener("change", () => { root.dataset.ends = slot["ends"].checked; });
  root.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || /SELECT|INPUT/.test(event.target.tagName)) return;
    const key = { ArrowLeft: "back", ArrowRight: "forward", Home: "first", End: "last" }[event.key]
      || (event.key === " " && !event.target.closest("button, summary, a") ? "play" : null);
    if (!key) return;
    event.preventDefault();
    actions[key]();
  });
  slot["details"].addEventListener("toggle", schedule);
  document.addEventListener("visibilitychange", () => { if (run.id && !document.hidden) advance(); });

  const api = { receive, seek, play, pause, redraw: schedule };
  host.diffusionPlayer = api;
  return api;
}
