// The recorded run that every lesson is drawn from, and how its tokens and numbers are written.

function lessonRecord(message) {
  const trace = message.trace;
  const vocabulary = new Map();
  for (const [id, entry] of Object.entries(trace.vocabulary || {})) vocabulary.set(Number(id), entryBytes(entry));
  const ends = new Set(trace.model.eos_token_ids || []);
  const isEnd = (id) => ends.has(id);
  const prompt = Math.max(0, (trace.prompt || {}).num_tokens || 0);
  const causal = trace.model.kind === "autoregressive";

  // Ids after `count` steps; null = masked.
  function idsAt(count) {
    const ids = new Array(trace.length).fill(null);
    for (const [position, id] of trace.given || []) ids[position] = id;
    for (let i = 0; i < count; i += 1) {
      const step = trace.steps[i];
      for (const [at, position, id] of trace.changes || []) if (at === i) ids[position] = id;
      const revealed = new Set(step.revealed);
      step.masked.forEach((position, j) => { ids[position] = revealed.has(position) ? step.proposals[j] : null; });
    }
    return ids;
  }

  // The settings under which step number `index` was computed: a branch may have changed them.
  function settingsAt(index) {
    let node = trace;
    while (node.parent && index < node.parent.step) node = node.parent;
    return node.settings || {};
  }

  // Tokens per block at that step.
  function sizeAt(index) {
    return causal ? 1 : Math.max(1, settingsAt(index).block_size || 1);
  }

  // What is proposed at a position by a step: {id, confidence}.
  function proposal(step, position) {
    const j = step.masked.indexOf(position);
    return { id: step.proposals[j], confidence: step.confidences[j] };
  }

  return {
    trace, steps: trace.steps, passes: message.passes, tour: message.tour, lessons: message.lessons, vocabulary, isEnd,
    prompt, causal, idsAt, settingsAt, sizeAt, proposal,
    starts: (size) => lessonBlockStarts(prompt, size, trace.length),
    name: (id) => lessonTokenName(id, vocabulary, isEnd),
  };
}

// First answer position of every block. Blocks are aligned to the prompt, whose tail shares the first one.
function lessonBlockStarts(prompt, size, length) {
  const starts = [0];
  for (let next = size - (prompt % size); next < length; next += size) starts.push(next);
  return starts;
}

// A token in running text: “Bar”, with signs for what can't be seen.
function lessonTokenName(id, vocabulary, isEnd) {
  if (isEnd(id)) return say("lessons.end");
  const bytes = vocabulary.get(id) || new Uint8Array();
  let text = null;
  try { text = new TextDecoder("utf-8", { fatal: true }).decode(bytes); } catch (error) { /* part of a character */ }
  if (text === null) {
    const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    return say("lessons.bytes", { hex });
  }
  return "“" + visibleSigns(text) + "”";
}

// Probabilities near 1 differ only far behind the point.
function lessonPercent(share) {
  return (100 * share).toFixed(share >= 0.99 ? 3 : 1) + " %";
}

function lessonCount(number) {
  return number.toLocaleString("en-US");
}

// Slots of one lesson by name.
function lessonSlots(section) {
  const slots = {};
  section.querySelectorAll("[data-slot]").forEach((node) => { slots[node.dataset.slot] = node; });
  return slots;
}

// A lesson that this run has nothing for says why, in place of its figure.
function lessonInstead(slots, reason) {
  slots["instead"].hidden = !reason;
  slots["instead"].textContent = reason ? say(reason) : "";
  slots["figure"].hidden = Boolean(reason);
  return Boolean(reason);
}
