// The runs of this page as a small tree: which run left which at what step; and what two of them say differently.
//
// createBranches(slots, {show, picture(run, image) -> address}).draw(runs, shown): runs is an array of runs in the order
// they came.

function createBranches(slot, actions) {
  let compared = []; // ids of at most two runs
  let key = "";

  function draw(runs, shown) {
    const known = runs.filter((run) => run.header);
    slot["branches"].hidden = known.length < 2;
    if (slot["branches"].hidden) return;
    compared = compared.filter((id) => known.some((run) => run.id === id));
    const next = [shown, dvlLanguage(), ...compared, ...known.map((run) => run.id + knownSteps(run) + run.reason)].join("|");
    if (next === key) return;
    key = next;
    const ids = new Set(known.map((run) => run.id));
    const children = new Map();
    for (const run of known) {
      const parent = run.header.parent && ids.has(run.header.parent.run) ? run.header.parent.run : null;
      children.set(parent, [...(children.get(parent) || []), run]);
    }
    slot["tree"].textContent = "";
    grow(slot["tree"], children, null, known, shown);
    paintDifference(known);
  }

  function grow(list, children, parent, known, shown) {
    for (const run of children.get(parent) || []) {
      const item = list.appendChild(document.createElement("li"));
      item.appendChild(row(run, known, shown));
      if (children.has(run.id)) grow(item.appendChild(document.createElement("ul")), children, run.id, known, shown);
    }
  }

  function row(run, known, shown) {
    const line = document.createElement("div");
    line.className = "dvl-run";
    line.dataset.run = run.id;
    line.dataset.shown = run.id === shown;
    const button = line.appendChild(document.createElement("button"));
    button.type = "button";
    button.className = "dvl-run-name";
    button.setAttribute("aria-current", run.id === shown);
    const images = run.header.images || [];
    const address = images.length ? images[images.length - 1].data || actions.picture(run, images.length - 1) : "";
    if (address) Object.assign(button.appendChild(document.createElement("img")), { src: address, alt: "" });
    const words = button.appendChild(document.createElement("span"));
    words.appendChild(document.createElement("b")).textContent = say("player.run", { n: known.indexOf(run) + 1 });
    words.appendChild(document.createElement("span")).textContent = " " + about(run, known);
    button.addEventListener("click", () => actions.show(run.id));
    const label = line.appendChild(document.createElement("label"));
    const box = label.appendChild(document.createElement("input"));
    box.type = "checkbox";
    box.checked = compared.includes(run.id);
    box.addEventListener("change", () => {
      compared = box.checked ? [...compared, run.id].slice(-2) : compared.filter((id) => id !== run.id);
      key = "";
      draw(known, shown);
    });
    label.appendChild(document.createTextNode(" " + say("player.compare")));
    return line;
  }

  // What makes this run different: from the one it left, where, and how many tokens a person changed; from the other
  // questions, its question and the settings that are not the same in all of them.
  function about(run, known) {
    const { parent, changes = [], settings } = run.header;
    const words = [];
    if (parent) {
      const own = changes.filter(([step]) => step === parent.step);
      const [put, again] = [own.filter(([, , id]) => id !== null).length, own.filter(([, , id]) => id === null).length];
      words.push(say("player.from-step", { step: parent.step }));
      if (put) words.push(say(put === 1 ? "player.one-change" : "player.n-changes", { n: put }));
      if (again) words.push(say("player.masked-again", { n: again }));
      const other = Object.keys(settings).filter((name) => settings[name] !== parent.settings[name]);
      for (const name of other.slice(0, 2)) words.push(setTo(name, settings[name]));
    } else {
      words.push(questionOf(run), say("player.block-by-steps", { size: settings.block_size, steps: settings.steps }));
      words.push(...ownSettings(settings, known.filter((other) => !other.header.parent)));
      if ((run.header.given || []).length) words.push(say("player.by-template"));
    }
    if ((run.header.prompt || {}).occluded) words.push(say("player.occluded"));
    if (run.recorded) words.push(say("player.recorded"));
    words.push(say(knownSteps(run) === 1 ? "player.one-step" : "player.n-steps", { n: knownSteps(run) }));
    return words.join(" · ");
  }

  function ownSettings(settings, others) {
    const kept = new Set(["block_size", "steps", "max_new_tokens"]); // said anyway, or seen
    const differ = Object.keys(settings).filter((name) => !kept.has(name)
      && others.some((other) => other.header.settings[name] !== settings[name]));
    const used = { threshold: "low_confidence_dynamic", entropy_bound: "entropy_bound", factor: "factor" };
    return differ.filter((name) => !used[name] || used[name] === settings.strategy)
      .map((name) => setTo(name, settings[name]));
  }

  function setTo(name, value) {
    return name === "strategy" ? sayStrategy(value) : name.replaceAll("_", " ") + " " + value;
  }

  function paintDifference(known) {
    const [first, second] = compared.map((id) => known.find((run) => run.id === id));
    slot["difference"].hidden = !first;
    slot["difference"].textContent = first && !second ? say("player.compare-with") : "";
    if (!second) return;
    const states = [first, second].map((run) => stateAt(run, knownSteps(run)));
    const texts = states.map((state, i) => cellTexts(state.ids, [first, second][i].vocabulary, state.isEnd));
    const same = (position) => tokenAt(first, states[0], position) === tokenAt(second, states[1], position);
    const longest = Math.max(states[0].end, states[1].end);
    let changed = 0;
    for (let position = 0; position < longest; position += 1) changed += !same(position);
    [first, second].forEach((run, i) => {
      const line = slot["difference"].appendChild(document.createElement("p"));
      line.appendChild(document.createElement("b")).textContent = say("player.run", { n: known.indexOf(run) + 1 });
      for (let position = 0; position < Math.min(states[i].end, run.header.length); position += 1) {
        const node = line.appendChild(document.createElement("span"));
        node.textContent = texts[i][position].text;
        node.dataset.differs = !same(position);
      }
    });
    const sum = slot["difference"].appendChild(document.createElement("p"));
    sum.className = "dvl-difference-sum";
    sum.textContent = say(changed === 1 ? "player.one-differs" : "player.n-differ", { n: changed });
  }

  function tokenAt(run, state, position) {
    return position < state.end && state.ids[position] !== null && state.ids[position] !== undefined
      ? tokenText(run, state.ids[position]) : null;
  }

  return { draw };
}
