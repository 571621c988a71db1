// The explore page: one question under many decoding settings, as a chart, a table, and one setting in full.
//
// createExplore(host).receive(message) takes the messages of protocol.py; each holds the whole state so far.
// Every paint is drawn from the newest message and from the setting that is pointed at, at most once per animation
// frame. Text reaches the page through textContent only, and state through data attributes only.

function createExplore(host) {
  const root = host.querySelector(".dvl-explore");
  const slot = Object.fromEntries([...root.querySelectorAll("[data-slot]")].map((node) => [node.dataset.slot, node]));
  const chart = createExploreChart(slot["plot"], { point, pick });
  const table = createExploreTable(slot["head"], slot["body"], { point, pick });
  const retired = new Set(); // ids of sweeps that were replaced: their late messages are not for us

  let message = null;
  let before = null;         // the last message of a sweep that had rows, shown until there are newer ones
  let pointed = null;        // index of the row under the pointer or the focus
  let picked = null;         // index of the row that was clicked; it stays when the pointer leaves
  let frame = 0;

  function receive(next) {
    if (!next || !next.sweep || retired.has(next.sweep)) return;
    if ((!message || message.sweep !== next.sweep) && !next.recorded) bringIntoView(root);
    if (message && message.sweep !== next.sweep) {
      retired.add(message.sweep);
      if (message.rows.length) before = message;
      pointed = null;
      picked = null;
    }
    message = next;
    schedule();
  }

  function point(index) {
    pointed = index;
    schedule();
  }

  function pick(index) {
    picked = index;
    pointed = null;
    schedule();
  }

  function schedule() {
    if (!frame) frame = requestAnimationFrame(() => { frame = 0; paint(); });
  }

  function paint() {
    root.dataset.phase = message ? message.phase : "empty";
    root.dataset.sweep = message ? message.sweep : "";
    slot["note"].textContent = note();
    paintProgress();
    root.dataset.rows = message ? message.rows.length : 0;
    const source = message && !message.rows.length ? before : message;
    const rows = source ? source.rows : [];
    root.dataset.shows = !rows.length ? "nothing" : source === message ? "now" : "before";
    if (!rows.length) return;
    const shown = rows.find((row) => row.index === pointed) || rows.find((row) => row.index === picked) || rows[0];
    const view = { rows, shapes: shapesOf(source), shown: shown.index };
    root.dataset.shown = shown.index;
    chart.draw(view);
    table.draw(view);
    paintLegend(view);
    paintDetail(shown, view);
  }

  // Strategy -> number of its shape, in the plan's order, so that no mark changes its shape while rows arrive.
  function shapesOf({ plan, rows }) {
    const names = [...(plan ? plan.settings : []), ...rows].map((setting) => setting.strategy);
    return new Map([...new Set(names)].map((name, number) => [name, number]));
  }

  function note() {
    if (!message) return say("explore.empty");
    const { phase, plan, progress, rows, sentence } = message;
    const old = before && !rows.length ? " " + say("explore.before") : "";
    if (phase === "failed") return sayTrouble(sentence) + old;
    if (phase === "stopped") return rows.length ? say("explore.stopped", { count: rows.length }) : say("explore.stopped-none") + old;
    if (phase === "finished") {
      const rounds = plan.repeats > 1 ? "explore.finished.rounds" : "explore.finished";
      const found = say(rounds, { count: rows.length, repeats: plan.repeats }) + " " + best(rows);
      return message.recorded ? say("explore.recorded", message.recorded) + " " + found : found;
    }
    if (!progress) return plan ? say("explore.starting", { total: plan.total }) : "";
    return say("explore.running", { n: progress.done + 1, total: progress.total, setting: exploreSetting(progress) });
  }

  // What people came for: how much faster the same answer can be had.
  function best(rows) {
    const slow = rows.find((row) => row.slow);
    const [fastest] = rows.filter((row) => row.same && row.seconds < slow.seconds).sort((a, b) => a.seconds - b.seconds);
    if (!fastest) return say("explore.best.none");
    return say("explore.best", { setting: exploreSetting(fastest), ratio: (slow.seconds / fastest.seconds).toFixed(2) });
  }

  function paintProgress() {
    const { progress = null, plan = null } = message || {};
    const [done, total] = progress ? [progress.done, progress.total] : [0, plan ? plan.total : 1];
    slot["bar"].setAttribute("aria-valuemax", total);
    slot["bar"].setAttribute("aria-valuenow", done);
    slot["bar"].firstElementChild.style.width = (100 * done) / total + "%";
    const list = (plan ? plan.skipped : []).map((setting) => setting.block_size + "/" + setting.steps);
    slot["skipped"].textContent = list.length ? say("explore.skipped", { list: [...new Set(list)].join(", ") }) : "";
  }

  function paintLegend({ shapes }) {
    const key = JSON.stringify([...shapes]);
    if (slot["shapes"].dataset.key === key) return;
    slot["shapes"].dataset.key = key;
    slot["shapes"].replaceChildren();
    for (const [strategy, shape] of shapes) {
      const entry = exploreElement(slot["shapes"], "span");
      exploreGlyph(entry, shape);
      exploreElement(entry, "span", exploreStrategy({ strategy }));
    }
    slot["scale"].replaceChildren();
    exploreElement(slot["scale"], "span", say("explore.scale"));
    for (const [name, value] of [["open", 0.3], ["dot", 0.7], ["full", 1]]) {
      const entry = exploreElement(slot["scale"], "span");
      exploreGlyph(entry, 0, value);
      exploreElement(entry, "span", say("explore.scale." + name));
    }
  }

  function paintDetail(row, { rows, shapes }) {
    const key = JSON.stringify([row, rows[0]]);
    if (slot["detail"].key === key) return;
    slot["detail"].key = key;
    const slow = rows.find((other) => other.slow);
    slot["glyph"].replaceChildren();
    exploreGlyph(slot["glyph"], shapes.get(row.strategy), row.confidence);
    slot["name"].textContent = exploreSetting(row);
    slot["badge"].hidden = !row.slow;
    slot["numbers"].replaceChildren();
    for (const [title, value] of numbers(row, slow)) {
      const pair = exploreElement(slot["numbers"], "div");
      exploreElement(pair, "dt", say(title));
      exploreElement(pair, "dd", String(value));
    }
    slot["answer"].textContent = row.text || say("explore.answer.none");
    slot["expected-box"].hidden = !slow || row.same;
    slot["expected"].textContent = slow ? slow.text || say("explore.answer.none") : "";
    slot["detail"].scrollTop = 0;
  }

  function numbers(row, slow) {
    const [seconds, fastest, slowest] = [row.seconds, row.fastest, row.slowest].map(exploreSeconds);
    const lines = [["explore.seconds", say(row.runs > 1 ? "explore.seconds.runs" : "explore.seconds.value",
                                          { seconds, fastest, slowest, runs: row.runs })]];
    if (slow && !row.slow && row.seconds > 0) {
      lines.push(["explore.ratio", say("explore.ratio.value", { ratio: (slow.seconds / row.seconds).toFixed(2) })]);
    }
    lines.push(["explore.forwards", row.forwards], ["explore.tokens", row.tokens],
               ["explore.perForward", row.tokens_per_forward.toFixed(2)], ["explore.confidence", exploreConfidence(row.confidence)]);
    if (!row.slow) lines.push(["explore.agreement", say("explore.agreement.value", { agreement: explorePercent(row.agreement) })]);
    return lines;
  }

  // A byte-order mark, or spreadsheets misread what is not ASCII.
  function download() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(["\ufeff" + table.csv()], { type: "text/csv;charset=utf-8" }));
    link.download = "explore.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  slot["csv"].addEventListener("click", download);
  root.addEventListener("keydown", (event) => { if (event.key === "Escape") pick(null); });
  sayAll(root);
  schedule();

  const api = { receive, redraw: schedule };
  host.explore = api;
  return api;
}
