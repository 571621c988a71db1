// Lesson 1: which tokens of the answer noise hides at mask ratio t, from random numbers that were drawn beforehand.

function createNoiseLesson(section) {
  const slots = lessonSlots(section);
  let record = null;
  let draw = 0;

  function show(next) {
    record = next;
    const noise = record.lessons.noise;
    slots["lead"].textContent = say("lessons.noise.lead") + (record.causal ? " " + say("lessons.noise.causal") : "");
    if (lessonInstead(slots, noise ? "" : "lessons.noise.none")) return;
    draw = 0;
    const values = { low: noise.lowest, published: noise.lowest_published, draws: noise.draws.length };
    slots["details"].textContent = say("lessons.noise.details", values);
    paint();
  }

  function paint() {
    const { ids, block_size: size, tail } = record.lessons.caption;
    const { uniform, levels } = record.lessons.noise.draws[draw];
    const own = slots["own"].checked;
    const ratio = Number(slots["ratio"].value);
    const starts = lessonBlockStarts(tail, size, ids.length);
    const block = ids.map((id, position) => lessonBlockAt(starts, position));
    const level = block.map((index) => (own ? levels[index] : ratio));
    const hidden = ids.map((id, position) => uniform[position] <= level[position]);
    const cells = cover(ids, hidden);
    const groups = starts.map((start, index) => ({
      block: index, head: head(index, own), cells: cells.slice(start, starts[index + 1]),
    }));
    groups[0].cells.unshift(...lessonPromptTail(tail));
    paintLessonBlocks(slots["blocks"], groups, { size });
    const sum = hidden.reduce((total, is, position) => total + (is ? 1 / level[position] : 0), 0);
    const values = { hidden: hidden.filter(Boolean).length, total: ids.length, sum: sum.toFixed(1),
                     weight: (1 / ratio).toFixed(2) };
    slots["said"].textContent = say(own ? "lessons.noise.said-own" : "lessons.noise.said", values);
    slots["ratio"].disabled = own;
    slots["ratio-said"].textContent = own ? "" : "t = " + ratio.toFixed(2);
    slots["ratio"].setAttribute("aria-valuetext", ratio.toFixed(2));
  }

  // A hidden token keeps the width of its text, so that nothing moves while the slider does.
  function cover(ids, hidden) {
    const whole = lessonCells(record, ids);
    const left = lessonCells(record, ids.map((id, position) => (hidden[position] ? null : id)));
    return left.map((cell, j) => (cell.state === "masked" ? { ...cell, text: whole[j].text || "\u00a0" } : cell));
  }

  function head(index, own) {
    const t = record.lessons.noise.draws[draw].levels[index];
    const values = { block: index + 1, t: t.toFixed(2), weight: (1 / t).toFixed(1) };
    return say(own ? "lessons.noise.block-own" : "lessons.block", values);
  }

  slots["ratio"].addEventListener("input", paint);
  slots["own"].addEventListener("change", paint);
  slots["again"].addEventListener("click", () => {
    draw = (draw + 1) % record.lessons.noise.draws.length;
    paint();
  });

  return { show };
}
