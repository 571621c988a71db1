// Lesson 5: the visitor guesses which mask the recorded run fills next; the trace says who was right.

function createGuessLesson(section) {
  const ROUNDS = 8; // of one game
  const BY_CONFIDENCE = ["low_confidence_static", "low_confidence_dynamic", "factor"];
  const slots = lessonSlots(section);
  let record = null;
  let rounds = []; // indices of the steps that leave a choice
  let first = 0;   // where in `rounds` this game began
  let at = 0;      // rounds done in this game
  let picked = null;
  let score = 0;
  let chance = 0;  // what guessing blindly would have scored on average

  function show(next) {
    record = next;
    rounds = record.causal ? [] : record.steps.flatMap((step, index) =>
      (step.revealed.length && step.revealed.length < step.masked.length ? [index] : []));
    const strategy = (record.trace.settings || {}).strategy || "";
    const lead = BY_CONFIDENCE.includes(strategy) ? "lessons.guess.lead" : "lessons.guess.lead-other";
    slots["lead"].textContent = say(lead, { strategy: sayStrategy(strategy) });
    slots["lead"].hidden = record.causal;
    slots["details"].textContent = say("lessons.guess.details", { strategy: sayStrategy(strategy), slow: sayStrategy("low_confidence_static") });
    const reason = record.causal ? "lessons.guess.causal" : rounds.length ? "" : "lessons.guess.none";
    if (lessonInstead(slots, reason)) return;
    first = rounds.length > 1 && rounds[0] === 0 ? 1 : 0; // before the first step there is nothing to go by
    start();
  }

  function start() {
    [at, picked, score, chance] = [0, null, 0, 0];
    paint();
  }

  const length = () => Math.min(ROUNDS, rounds.length);
  const index = () => rounds[(first + at) % rounds.length];

  // Positions that count as right: what was revealed, and what was exactly as sure to the digits of the record.
  function rightPicks(step) {
    const right = new Set(step.revealed);
    if (!BY_CONFIDENCE.includes(record.settingsAt(index()).strategy)) return right;
    const least = Math.min(...step.revealed.map((position) => record.proposal(step, position).confidence));
    step.masked.forEach((position, j) => { if (step.confidences[j] >= least) right.add(position); });
    return right;
  }

  function pick(position) {
    if (picked !== null) return;
    const step = record.steps[index()];
    const right = rightPicks(step);
    picked = position;
    score += right.has(position) ? 1 : 0;
    chance += right.size / step.masked.length;
    paint();
    slots["next"].focus({ preventScroll: true });
  }

  function next() {
    if (at + 1 < length()) {
      at += 1;
      picked = null;
      paint();
    } else {
      first = (first + length()) % rounds.length;
      start();
    }
    const mask = slots["draft"].querySelector("button");
    if (mask) mask.focus({ preventScroll: true });
  }

  // -- painting --

  function paint() {
    const step = record.steps[index()];
    const over = picked !== null && at + 1 === length();
    Object.assign(section.dataset, { step: index(), score, picked: picked ?? "" });
    slots["where"].textContent = say("lessons.guess.round", { n: at + 1, rounds: length() });
    const done = at + (picked === null ? 0 : 1);
    slots["score"].textContent = done ? say("lessons.guess.score", { score, n: done }) : "";
    slots["next"].hidden = picked === null;
    slots["next"].textContent = say(over ? "lessons.guess.again" : "lessons.guess.next");
    slots["told"].textContent = picked === null ? question() : answer(step) + (over ? " " + result() : "");
    paintDraft(step);
    paintRanking(step);
  }

  function question() {
    const before = at ? rounds[(first + at - 1) % rounds.length] : -1;
    const skipped = at && index() > before ? index() - before - 1 : 0;
    return (skipped ? say("lessons.guess.skipped", { n: skipped }) + " " : "") + say("lessons.guess.question");
  }

  function answer(step) {
    const mine = record.proposal(step, picked);
    const [best] = surestFirst(step, step.revealed);
    const values = { token: record.name(mine.id), confidence: lessonPercent(mine.confidence), n: step.revealed.length,
                     chosen: record.name(best.id), chosen_confidence: lessonPercent(best.confidence) };
    if (step.revealed.includes(picked)) {
      return say(step.revealed.length > 1 ? "lessons.guess.right-several" : "lessons.guess.right", values);
    }
    return say(rightPicks(step).has(picked) ? "lessons.guess.tie" : "lessons.guess.wrong", values);
  }

  function surestFirst(step, positions) {
    return positions.map((position) => ({ position, ...record.proposal(step, position) }))
      .sort((a, b) => b.confidence - a.confidence);
  }

  function result() {
    return say("lessons.guess.result", { score, rounds: length(), chance: chance.toFixed(1) });
  }

  function paintDraft(step) {
    const draft = lessonDraft(record, index(), step.span[0]);
    draft.groups.flatMap((group) => group.cells).forEach((cell) => {
      const open = step.masked.includes(cell.position);
      if (open && picked === null) {
        Object.assign(cell, { pick: true, text: "", title: say("lessons.guess.mask", { place: cell.position + 1 }) });
      } else if (open) {
        cell.verdict = step.revealed.includes(cell.position) ? "chosen" : cell.position === picked ? "missed" : "open";
        if (cell.verdict === "chosen") Object.assign(cell, { state: "new", ...shownText(step, cell.position) });
      }
      if (cell.position === picked) cell.mark = "true";
    });
    paintLessonBlocks(slots["draft"], draft.groups, { ...draft, lines: true });
    if (picked === null) keepLessonInView(slots["draft"], "button");
  }

  // Text of a token that this step reveals; characters may be spread over tokens.
  function shownText(step, position) {
    const { text, end, partial } = lessonCells(record, record.idsAt(index() + 1))[position];
    return { text, end, partial };
  }

  // What the model proposed at every mask, the surest first.
  function paintRanking(step) {
    slots["ranking"].textContent = "";
    slots["waiting"].hidden = picked !== null;
    if (picked === null) return;
    for (const { position, id, confidence } of surestFirst(step, step.masked)) {
      const row = slots["ranking"].appendChild(document.createElement("li"));
      row.dataset.position = position;
      if (step.revealed.includes(position)) row.dataset.chosen = "true";
      if (position === picked) row.dataset.picked = "true";
      lessonSpan(row, "dvl-lessons-rank-token").textContent = record.name(id);
      lessonSpan(row, "dvl-lessons-number").textContent = lessonPercent(confidence);
      const notes = [...(row.dataset.chosen ? [say("lessons.guess.chosen")] : []),
                     ...(row.dataset.picked ? [say("lessons.guess.yours")] : [])];
      lessonSpan(row, "dvl-lessons-quiet").textContent = notes.join(", ");
    }
  }

  slots["draft"].addEventListener("click", (event) => {
    const cell = event.target.closest("button") && event.target.closest("[data-position]");
    if (cell) pick(Number(cell.dataset.position));
  });
  slots["next"].addEventListener("click", next);

  return { show };
}
