// Lesson 4: the stops that tour.py found in the recorded run, one after the other.

function createTourLesson(section) {
  const slots = lessonSlots(section);
  let record = null;
  let at = 0;

  function show(next) {
    record = next;
    const stops = record.tour;
    if (lessonInstead(slots, stops.length ? "" : "lessons.tour.none")) return;
    slots["lead"].textContent = say("lessons.tour.lead", { n: stops.length });
    at = 0;
    slots["stops"].textContent = "";
    stops.forEach((stop, index) => {
      const item = slots["stops"].appendChild(document.createElement("li"));
      const button = item.appendChild(document.createElement("button"));
      Object.assign(button, { type: "button", textContent: index + 1 });
      button.addEventListener("click", () => go(index));
    });
    paint();
  }

  function paint() {
    const stop = record.tour[at];
    slots["told"].textContent = sentence(stop);
    slots["where"].textContent = say("lessons.tour.where", { step: stop.step, steps: record.steps.length });
    slots["back"].setAttribute("aria-disabled", at === 0);
    slots["next"].setAttribute("aria-disabled", at === record.tour.length - 1);
    slots["stops"].querySelectorAll("button").forEach((button, index) => {
      button.setAttribute("aria-current", index === at ? "step" : "false");
    });
    Object.assign(section.dataset, { stop: stop.kind, step: stop.step });
    const step = record.steps[Math.max(0, stop.step - 1)];
    const draft = lessonDraft(record, stop.step, step.span[0]);
    for (const group of draft.groups) {
      for (const cell of group.cells) {
        if (stop.position === cell.position) cell.mark = "true";
        if (stop.step && cell.state === "settled" && step.revealed.includes(cell.position)) cell.state = "new";
      }
      if (stop.span && group.cells.some((cell) => cell.position === stop.span[0])) group.marked = "true";
    }
    paintLessonBlocks(slots["draft"], draft.groups, { ...draft, lines: true });
    keepLessonInView(slots["draft"], "[data-mark], [data-marked], [data-state=active]");
  }

  function sentence(stop) {
    const values = {};
    for (const [name, value] of Object.entries(stop.counts)) values[name] = lessonCount(value);
    for (const [name, value] of Object.entries(stop.shares)) values[name] = lessonPercent(value);
    for (const [name, value] of Object.entries(stop.tokens)) values[name] = record.name(value);
    return say("lessons.tour." + stop.kind, values);
  }

  function go(to) {
    at = Math.max(0, Math.min(record.tour.length - 1, to));
    paint();
  }

  slots["back"].addEventListener("click", () => go(at - 1));
  slots["next"].addEventListener("click", () => go(at + 1));
  slots["figure"].addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    go(at + step);
  });

  return { show };
}
