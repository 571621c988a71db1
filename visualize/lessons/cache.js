// Lesson 3: the recorded run forward pass by forward pass: what is read from the cache, computed, and written to it.

function createCacheLesson(section) {
  const slots = lessonSlots(section);
  let record = null;
  let at = 0; // forward passes done

  function show(next) {
    record = next;
    const what = record.causal ? "-causal" : "";
    slots["lead"].textContent = say("lessons.cache.lead" + what);
    if (lessonInstead(slots, record.passes.length ? "" : "lessons.cache.none")) return;
    slots["active"].textContent = say("lessons.cache.active" + what);
    const sums = totals(record.passes.length);
    const values = { whole: lessonCount(wholeSequence()), length: record.trace.length };
    slots["details"].textContent = say("lessons.cache.details" + what, values);
    slots["sum"].textContent = say(record.causal ? "lessons.cache.sum-causal" : "lessons.cache.sum", {
      prefills: record.passes.filter((pass) => pass.kind === "prefill").length, total: record.passes.length,
      others: record.passes.filter((pass) => pass.kind !== "prefill").length,
      with: lessonCount(sums.with), without: lessonCount(sums.without), times: (sums.without / sums.with).toFixed(1),
    });
    slots["pass"].max = record.passes.length;
    const second = record.passes.findIndex((pass) => pass.kind === "step" && pass.written > 0);
    at = Math.max(0, second) + 1;
    paint();
  }

  // Token positions processed in the first `count` passes, with the cache and by the same decoder without one.
  function totals(count) {
    const sums = { with: 0, without: 0 };
    for (const pass of record.passes.slice(0, count)) {
      sums.with += pass.computed;
      sums.without += pass.without;
    }
    return sums;
  }

  // What denoising the whole answer at once would process: every position in every step.
  function wholeSequence() {
    return record.steps.length * (record.prompt + record.trace.length);
  }

  function paint() {
    const pass = record.passes[at - 1];
    slots["pass"].value = at;
    slots["pass-said"].textContent = at + " / " + record.passes.length;
    slots["said"].textContent = sentence(pass);
    slots["pass"].setAttribute("aria-valuetext", at + ": " + slots["said"].textContent);
    slots["reads"].textContent = lessonCount(pass.cached);
    slots["computes"].textContent = lessonCount(pass.computed);
    slots["writes"].textContent = lessonCount(pass.written);
    slots["back"].setAttribute("aria-disabled", at === 1);
    slots["next"].setAttribute("aria-disabled", at === record.passes.length);
    const { groups, hidden } = blocks(pass);
    paintLessonBlocks(slots["blocks"], groups, { hidden, size: pass.size });
    paintBars();
  }

  function sentence(pass) {
    const size = pass.size;
    const values = { tokens: lessonCount(pass.written), tail: record.prompt % size, cached: pass.cached, size };
    if (pass.kind === "prefill") {
      const kind = record.causal ? "causal" : values.tail ? "prefill-tail" : "prefill";
      return say("lessons.cache.said." + kind, values);
    }
    const step = record.steps[pass.step];
    Object.assign(values, { masked: step.masked.length, revealed: step.revealed.length, step: step.step + 1,
                            block: lessonBlockAt(record.starts(size), step.span[0]) + 1 });
    if (record.causal) return say("lessons.cache.said.next", values);
    if (pass.kind === "commit") return say("lessons.cache.said.commit", values);
    return say(pass.written ? "lessons.cache.said.entering" : "lessons.cache.said.step", values);
  }

  // The prompt and every block as a card. Numbers are positions from the beginning of the prompt.
  function blocks(pass) {
    const { size, cached, computed, written } = pass;
    const done = pass.step === null ? 0 : pass.step + 1;
    const answer = lessonCells(record, record.idsAt(done));
    const fresh = new Set(pass.kind === "commit" || pass.step === null ? [] : record.steps[pass.step].revealed);
    const starts = record.starts(size);
    const full = record.causal ? record.prompt : record.prompt - (record.prompt % size);
    const groups = [];
    const stateOf = (begin, end) => {
      if (end <= cached) return "frozen";
      return begin < cached + written ? "entering" : begin < cached + computed ? "active" : "unopened";
    };
    if (full) {
      const text = (size < SMALL_BLOCK ? say("lessons.prompt") + " · " : "") + say("lessons.tokens", { n: full });
      const cells = [{ text, state: "settled", ghost: true }];
      groups.push({ state: stateOf(0, full), head: say("lessons.prompt"), cells });
    }
    let hidden = 0;
    let unopened = 0;
    starts.forEach((start, block) => {
      const begin = record.causal ? record.prompt + start : Math.floor((record.prompt + start) / size) * size;
      const cells = answer.slice(start, starts[block + 1]);
      const state = record.causal && fresh.has(start) ? "active" : stateOf(begin, begin + size);
      if (state === "unopened") unopened += 1;
      if (unopened > 2 && cells.every((cell) => cell.state === "masked")) { hidden += 1; return; }
      for (const cell of cells) if (fresh.has(cell.position)) cell.state = "new";
      const tail = block === 0 && !record.causal ? record.prompt % size : 0;
      const head = say("lessons.block", { block: block + 1 });
      const title = head + ": " + (state === "active" ? slots["active"].textContent : say("lessons.cache." + state));
      groups.push({ block, state, head, title, cells: [...lessonPromptTail(tail), ...cells] });
    });
    return { groups, hidden };
  }

  function paintBars() {
    const [now, whole] = [totals(at), totals(record.passes.length)];
    const widest = Math.max(1, whole.with, whole.without);
    for (const row of section.querySelectorAll("[data-bar]")) {
      const which = row.dataset.bar;
      row.dataset.value = now[which];
      row.querySelector("b").style.width = (100 * whole[which]) / widest + "%";
      row.querySelector("i").style.width = (100 * now[which]) / Math.max(1, whole[which]) + "%";
      row.querySelector("output").textContent = lessonCount(now[which]) + " / " + lessonCount(whole[which]);
    }
  }

  function go(to) {
    at = Math.max(1, Math.min(record.passes.length, to));
    paint();
  }

  slots["pass"].addEventListener("input", () => go(Number(slots["pass"].value)));
  slots["back"].addEventListener("click", () => go(at - 1));
  slots["next"].addEventListener("click", () => go(at + 1));

  return { show };
}
