// The race: two recorded runs replayed on one axis of milliseconds.
//
// createRace(host, {button}) takes messages (see protocol.py) through receive(); `button` is what the page calls the
// button that begins a race. Every paint is drawn from the two runs and one moment on the axis, at most once per
// animation frame. Text reaches the page through textContent only, and state through data attributes only.

// A lane of a result message as a run: `ends` holds the millisecond on the axis at which each forward pass was over.
function raceRun(lane) {
  const ends = [];
  let at = lane.prefill_milliseconds;
  for (const step of lane.steps) ends.push((at += step.milliseconds));
  let offset = 0;
  const words = lane.words.map(([piece, differs]) => ({ start: offset, end: (offset += piece.length), differs }));
  return {
    ...lane, name: raceName(lane), ends, end: at, differing: words.filter((word) => word.differs),
    text: lane.words.map(([piece]) => piece).join(""),
    vocabulary: new Map(Object.entries(lane.vocabulary).map(([id, entry]) => [Number(id), entryBytes(entry)])),
    stops: new Set(lane.eos_token_ids),
    cells: Math.max(0, ...lane.steps.map((step) => step.span[1]), ...lane.given.map(([position]) => position + 1)),
  };
}

// What a lane is called: by its name, else after what it does.
function raceName(lane) {
  if (lane.name) return lane.name;
  if (lane.kind === "autoregressive") return say("race.name.autoregressive");
  const { block_size: size, steps, strategy, lookahead } = lane.settings;
  const words = [say("race.name.diffusion", { size, steps })];
  if (strategy && strategy !== "low_confidence_static") words.push(sayStrategy(strategy));
  if (lookahead) words.push(say("race.name.lookahead", { n: lookahead }));
  return words.join(say("race.name.comma"));
}

// What had happened in a run `at` milliseconds after its beginning.
// done: forward passes that were over; fresh: positions that the last of them settled; open: [start, end) of the
// block that was being denoised, or null; end: position of the first end token; tokens: settled ones of the answer.
function raceState(run, at) {
  let done = 0;
  while (done < run.ends.length && run.ends[done] <= at) done += 1;
  const ids = new Array(run.cells).fill(null);
  for (const [position, id] of run.given) ids[position] = id;
  for (const step of run.steps.slice(0, done)) for (const [position, id] of step.cells) ids[position] = id;
  const phase = done === run.steps.length ? "finished" : at < run.prefill_milliseconds ? "prefill" : "running";
  const fresh = new Set(phase === "running" && done ? run.steps[done - 1].cells.map(([position]) => position) : []);
  const open = phase === "running" && run.kind !== "autoregressive" ? run.steps[done].span : null;
  const stop = ids.findIndex((id) => run.stops.has(id));
  const end = stop < 0 ? ids.length : stop;
  const tokens = ids.slice(0, end).filter((id) => id !== null).length;
  return { done, ids, phase, fresh, open, end, tokens };
}

// Forward passes of that state, prefill included; the prefill took a pass when the first step was not the first one.
function raceForwards(run, state) {
  if (state.done) return run.steps[state.done - 1].forwards;
  return state.phase === "running" ? Math.min(1, run.steps[0].forwards - 1) : 0;
}

// A text cut where words begin or end that differ: [{text, differs}]. `offset` is the text's place in the answer.
function raceParts(text, offset, differing) {
  const parts = [];
  let at = 0;
  for (const word of differing) {
    const start = Math.max(at, word.start - offset);
    const end = Math.min(text.length, word.end - offset);
    if (end <= start) continue;
    if (start > at) parts.push({ text: text.slice(at, start), differs: false });
    parts.push({ text: text.slice(start, end), differs: true });
    at = end;
  }
  if (at < text.length) parts.push({ text: text.slice(at), differs: false });
  return parts;
}

// Distance of the axis' ticks: 1, 2 or 5 times a power of ten, for five or fewer ticks.
function raceTickDistance(total) {
  const power = 10 ** Math.floor(Math.log10(total / 5));
  return power * [1, 2, 5, 10].find((factor) => factor * power * 5 >= total);
}

function raceDuration(milliseconds) {
  if (milliseconds >= 10000) return say("race.s", { n: (milliseconds / 1000).toFixed(1) });
  return say("race.ms", { n: milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds) });
}

// Which lane was faster by what ratio, and the times it comes from: [sentence, sentence]. A ratio needs two medians
// that were measured.
function raceVerdict(runs) {
  const [fast, slow] = runs[0].median_seconds <= runs[1].median_seconds ? runs : [runs[1], runs[0]];
  if (!(fast.median_seconds > 0)) return [say("race.unmeasured"), ""];
  const ratio = slow.median_seconds / fast.median_seconds;
  const tie = ratio < 1.005;
  const count = fast.seconds.length;
  const time = (run) => {
    const [median, low, high] = [run.median_seconds, Math.min(...run.seconds), Math.max(...run.seconds)]
      .map((seconds) => raceDuration(seconds * 1000));
    return count > 1 ? say("race.range", { median, low, high }) : median;
  };
  const faster = tie ? say("race.tie")
    : say("race.faster", { fast: fast.name, slow: slow.name, ratio: ratio.toFixed(ratio < 10 ? 2 : 1) });
  const times = say(count > 1 ? "race.times.median" : "race.times.once", { fast: time(fast), slow: time(slow), runs: count });
  const overlap = count > 1 && !tie && Math.max(...fast.seconds) >= Math.min(...slow.seconds);
  return [faster, overlap ? times + " " + say("race.overlap") : times];
}

function createRace(host, options) {
  const root = host.querySelector(".dvl-race");
  const slot = slotsOf(root);
  const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

  let race = null;       // of the messages taken now; those of earlier races are no longer heard
  const retired = new Set();
  let news = {};         // the last message that brought no result
  let recorded = null;   // {model, machine, question} of a result that nobody asked for
  let answers = null;    // "same", "spacing" or "different"
  let lanes = [];        // {run, view, row, cells, painted} of the result
  let total = 1;         // end of the common axis, in milliseconds
  let cursor = 0;        // the moment shown, in milliseconds
  let slower = 1;        // how many times slower than true time the replay goes
  let chosen = false;    // whether somebody said so
  let clock = null;      // of the replay: at `wall` the cursor stood at `at`
  let frame = 0;

  function slotsOf(within) {
    return Object.fromEntries([...within.querySelectorAll("[data-slot]")].map((node) => [node.dataset.slot, node]));
  }

  function receive(message) {
    if (!message || !message.race || retired.has(message.race)) return;
    if (race && message.race !== race) retired.add(race);
    if (message.race !== race && !message.recorded) bringIntoView(root);
    const repeated = message.race === race && root.dataset.race === race;
    race = message.race;
    if (!message.result) pause();
    else if (!repeated) {
      load(message.result);
      if (!chosen) slower = message.recorded ? 10 : 1; // a small model's race is over within a blink
      recorded = message.recorded || null;
      if (recorded) waitForEyes();
      else requestAnimationFrame(() => requestAnimationFrame(() => bringIntoView(root, slot["lanes"])));
    }
    news = message.result ? {} : message;
    schedule();
  }

  function load(result) {
    root.dataset.race = race;
    root.dataset.complete = ""; // so that the verdict is written anew
    answers = result.answers;
    const runs = result.lanes.map(raceRun);
    total = Math.max(...runs.map((run) => run.end)) || 1;
    slot["rows"].replaceChildren();
    lanes = runs.map((run, index) => ({ run, ...buildLane(run, index), row: buildRow(run), painted: "" }));
    buildTicks();
    cursor = reducedMotion.matches ? total : 0;
    clock = null;
    if (!reducedMotion.matches) play();
  }

  // What nobody asked for begins when it is first seen: its tab may be closed.
  function waitForEyes() {
    if (!clock) return;
    pause();
    const mine = race;
    const observer = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      observer.disconnect();
      if (race === mine && cursor === 0) play();
    }, { threshold: 0.3 });
    observer.observe(slot["lanes"]);
  }

  // -- building --

  function add(parent, tag, name) {
    const node = parent.appendChild(document.createElement(tag));
    if (name) node.className = name;
    return node;
  }

  function buildLane(run, index) {
    const [first] = slot["lanes"].children;
    const node = slot["lanes"].children[index] || slot["lanes"].appendChild(first.cloneNode(true));
    node.dataset.kind = run.kind;
    const view = { node, ...slotsOf(node) };
    view["name"].textContent = run.name;
    view["room"].textContent = run.text; // unseen: keeps the room that the whole answer will need
    view["text"].replaceChildren();
    view["page"].scrollTop = 0;
    const cells = Array.from({ length: run.cells }, (_, position) => {
      const cell = add(view["text"], "span", "dvl-race-cell");
      cell.dataset.position = position;
      return { node: cell, lead: cell.appendChild(document.createTextNode("")), token: add(cell, "span"), key: "" };
    });
    return { view, cells };
  }

  // A bar from 0 to the run's end, once in full and once as far as the cursor, and a tick where each pass ended.
  function buildRow(run) {
    const row = add(slot["rows"], "div", "dvl-race-row");
    add(row, "span", "dvl-race-label").textContent = run.name;
    const bar = add(row, "div", "dvl-race-bar");
    for (const layer of ["whole", "played"]) {
      const stretch = add(add(bar, "div", "dvl-race-" + layer), "div");
      stretch.style.width = (100 * run.end) / total + "%";
      const prefill = add(stretch, "i");
      prefill.dataset.kind = "prefill";
      prefill.style.width = (run.end ? (100 * run.prefill_milliseconds) / run.end : 0) + "%";
      add(stretch, "i").dataset.kind = "steps";
    }
    const svg = bar.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "svg"));
    svg.setAttribute("viewBox", "0 0 " + total + " 1");
    svg.setAttribute("preserveAspectRatio", "none");
    const path = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "path"));
    path.setAttribute("d", run.ends.map((end) => "M" + end + " 0V1").join(""));
    path.setAttribute("vector-effect", "non-scaling-stroke");
    return row;
  }

  function buildTicks() {
    slot["ticks"].replaceChildren();
    const distance = raceTickDistance(total);
    const count = Math.floor(total / distance);
    for (let i = 0; i <= count; i += 1) {
      const value = Number((i * distance).toPrecision(6));
      const tick = add(slot["ticks"], "i");
      tick.style.left = (100 * value) / total + "%";
      tick.dataset.edge = i === 0 ? "start" : value > 0.92 * total ? "end" : "";
      add(tick, "span").textContent = i === count ? say("race.ms", { n: value }) : value;
    }
  }

  // -- painting --

  function schedule() {
    if (!frame) frame = requestAnimationFrame(() => { frame = 0; paint(); });
  }

  function paint() {
    if (clock) cursor = Math.min(total, clock.at + (performance.now() - clock.wall) / slower);
    if (cursor >= total) clock = null;
    root.dataset.phase = news.running ? "running" : news.failed ? "failed" : news.stopped ? "stopped"
      : lanes.length ? "result" : "empty";
    root.dataset.holds = lanes.length > 0;
    paintNews();
    if (lanes.length) {
      const complete = cursor >= total;
      lanes.forEach((lane) => paintLane(lane, complete));
      paintControls();
      if (root.dataset.complete !== String(complete)) paintVerdict(complete);
      root.dataset.complete = complete;
      root.dataset.at = cursor;
    }
    root.dataset.playing = clock !== null;
    if (clock) schedule();
  }

  function paintNews() {
    const { running } = news;
    const kept = recorded ? say("race.recorded", { ...recorded, ...options }) : say("race.earlier");
    const sentence = running ? runningText(running) : news.failed ? sayTrouble(news.failed)
      : news.stopped ? say("race.stopped", options) : recorded ? kept : lanes.length ? "" : say("race.empty", options);
    const earlier = (news.failed || news.stopped) && lanes.length ? " " + kept : "";
    if (slot["note"].textContent !== sentence + earlier) slot["note"].textContent = sentence + earlier;
    if (running) slot["progress"].style.width = (100 * running.before) / (running.lanes.length * (running.runs + 1)) + "%";
  }

  function runningText({ lanes: all, lane, run, runs }) {
    const values = { lane: lane + 1, lanes: all.length, name: raceName(all[lane]), run, runs };
    return say(run ? "race.running" : "race.warmup", values);
  }

  // The bar and the stopwatch go with every frame; the rest changes only when a forward pass is over.
  function paintLane(lane, complete) {
    const { run, view, row } = lane;
    const at = Math.min(cursor, run.end);
    row.style.setProperty("--dvl-race-at", (100 * at) / total + "%");
    view["seconds"].textContent = (at / 1000).toFixed(3);
    const state = raceState(run, cursor);
    const key = [state.done, state.phase, complete].join();
    if (lane.painted === key) return;
    lane.painted = key;
    view.node.dataset.phase = state.phase;
    view["how"].textContent = run.kind === "autoregressive" ? say("race.kind.autoregressive")
      : say("race.kind.diffusion", { size: run.settings.block_size, steps: run.settings.steps });
    view["state"].textContent = say("race.state." + state.phase, { time: raceDuration(run.end) });
    view["page"].setAttribute("aria-label", say("race.lane", { name: run.name }));
    paintCounters(run, view, state);
    paintCells(lane, state, complete);
  }

  function paintCounters(run, view, state) {
    const seconds = state.done ? run.ends[state.done - 1] / 1000 : 0;
    const speed = seconds > 0 ? state.tokens / seconds : 0;
    view["forwards"].textContent = raceForwards(run, state);
    view["tokens"].textContent = state.tokens;
    view["per-forward"].textContent = state.done ? (state.tokens / passesOf(run.steps, state.done)).toFixed(2) : "–";
    view["per-second"].textContent = seconds > 0 ? speed.toFixed(speed < 100 ? 1 : 0) : "–";
  }

  function paintCells(lane, state, complete) {
    const { run, view, cells } = lane;
    const shown = cellTexts(state.ids, run.vocabulary, (id) => run.stops.has(id));
    let offset = 0;
    cells.forEach((cell, position) => {
      const { text, partial } = shown[position];
      const parts = raceParts(text, offset, complete && position < state.end ? run.differing : []);
      offset += text.length;
      apply(cell, cellState(run, state, position), partial, parts);
    });
    const last = cells[Math.max(...state.fresh)];
    if (last && clock) keepInView(view["page"], last.node);
  }

  // "hidden": not opened yet; "after": behind an end token, which is no answer.
  function cellState(run, state, position) {
    const id = state.ids[position];
    const open = state.open && position >= state.open[0] && position < state.open[1];
    if (id === null) return open ? "masked" : "hidden";
    if (run.stops.has(id) || position > state.end) return open ? "after" : "hidden";
    return state.fresh.has(position) && run.kind !== "autoregressive" ? "new" : "settled";
  }

  function apply(cell, state, partial, parts) {
    const key = JSON.stringify([state, partial, parts]);
    if (cell.key === key) return;
    cell.key = key;
    cell.node.dataset.state = state;
    cell.node.dataset.partial = partial;
    const lead = parts.length ? parts[0].text.match(/^ */)[0] : "";
    cell.lead.textContent = lead;
    cell.token.replaceChildren();
    parts.forEach((part, i) => {
      const piece = part.differs ? add(cell.token, "mark", "dvl-race-differs") : add(cell.token, "span");
      piece.textContent = i ? part.text : part.text.slice(lead.length);
    });
  }

  function keepInView(page, node) {
    if (page.scrollHeight <= page.clientHeight) return;
    const top = node.getBoundingClientRect().top - page.getBoundingClientRect().top;
    if (top < 0 || top > page.clientHeight - 48) page.scrollTop += top - page.clientHeight / 2;
  }

  function paintControls() {
    slot["head"].style.left = (100 * cursor) / total + "%";
    slot["scrubber"].max = total;
    slot["scrubber"].value = cursor;
    const values = { at: Math.round(cursor), end: Math.round(total) };
    slot["scrubber"].setAttribute("aria-valuetext", say("race.scrubber.value", values));
    const width = String(values.end).length;
    slot["time"].textContent = say("race.ms", { n: String(values.at).padStart(width, "\u2007") + " / " + values.end });
    const play = root.querySelector("[data-act=play]");
    play.title = say(clock ? "race.pause" : "race.play");
    play.setAttribute("aria-label", play.title);
    for (const button of root.querySelectorAll("[data-slower]")) {
      const factor = Number(button.dataset.slower);
      button.setAttribute("aria-pressed", factor === slower);
      button.title = factor === 1 ? say("race.speed.true") : say("race.speed.slower", { factor });
      button.setAttribute("aria-label", button.title);
    }
    const factor = { factor: slower, time: raceDuration(total * slower) };
    slot["factor"].textContent = say(slower === 1 ? "race.factor.true" : "race.factor.slower", factor);
  }

  // Its place is kept before it is seen, and it is spoken when the replay has reached the end.
  function paintVerdict(complete) {
    const [one, other] = lanes.map((lane) => raceState(lane.run, Infinity).tokens);
    const [faster, times] = raceVerdict(lanes.map((lane) => lane.run));
    const lengths = one === other ? "" : " " + say("race.answers.lengths", { one, other });
    const sentences = { faster, times, answers: say("race.answers." + answers) + lengths };
    for (const [name, sentence] of Object.entries(sentences)) slot[name].textContent = sentence;
    slot["spoken"].textContent = complete ? Object.values(sentences).join(" ") : "";
  }

  // -- replay --

  function seek(milliseconds) {
    clock = null;
    cursor = Math.max(0, Math.min(total, milliseconds));
    schedule();
  }

  function play() {
    if (!lanes.length) return;
    if (cursor >= total) cursor = 0;
    clock = { wall: performance.now(), at: cursor };
    schedule();
  }

  function pause() {
    clock = null;
    schedule();
  }

  function setSlower(factor) {
    if (clock) clock = { wall: performance.now(), at: cursor };
    slower = factor;
    chosen = true;
    if (cursor >= total && !reducedMotion.matches) play(); // whoever slows it down wants to see it
    schedule();
  }

  // To the next moment before or behind the cursor at which something happened in either lane.
  function stepTo(direction) {
    const moments = [0, total, ...lanes.flatMap(({ run }) => [run.prefill_milliseconds, ...run.ends])];
    const beyond = moments.filter((moment) => (moment - cursor) * direction > 0);
    if (beyond.length) seek(direction > 0 ? Math.min(...beyond) : Math.max(...beyond));
  }

  const actions = {
    restart: () => { seek(0); play(); },
    play: () => { if (clock) pause(); else play(); },
    back: () => stepTo(-1),
    forward: () => stepTo(1),
    first: () => seek(0),
    last: () => seek(total),
  };

  root.addEventListener("click", (event) => {
    const button = event.target.closest("[data-act], [data-slower]");
    if (button) button.dataset.act ? actions[button.dataset.act]() : setSlower(Number(button.dataset.slower));
  });
  slot["scrubber"].addEventListener("input", () => seek(Number(slot["scrubber"].value)));
  root.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !lanes.length) return;
    const key = { ArrowLeft: "back", ArrowRight: "forward", Home: "first", End: "last" }[event.key]
      || (event.key === " " && !event.target.closest("button") ? "play" : null);
    if (!key) return;
    event.preventDefault();
    actions[key]();
  });
  // A hidden tab paints nothing: the replay waits there, and goes on from what was last seen.
  document.addEventListener("visibilitychange", () => {
    if (clock) clock = { wall: performance.now(), at: cursor };
    schedule();
  });

  sayAll(root);
  schedule();
  const api = { receive, seek, play, pause };
  host.dvlRace = api;
  return api;
}
