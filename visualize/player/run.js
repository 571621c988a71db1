// The record of one run, as messages bring it (see protocol.py), and what its answer was after any number of steps.

function createRun(id) {
  return { id, header: null, vocabulary: new Map(), steps: [], solid: 0, heard: 0, total: null, reason: null, note: "",
           prefill: 0, recorded: false, fetching: false, tries: 0, reached: null };
}

function mergeMessage(run, message) {
  if (message.header) run.header = message.header;
  if (message.prefill_milliseconds) run.prefill = message.prefill_milliseconds;
  learn(run, message.vocabulary);
  const steps = typeof message.steps === "string" ? JSON.parse(message.steps) : message.steps || [];
  steps.forEach((step, i) => { run.steps[message.seq - 1 + i] = step; });
  run.heard = Math.max(run.heard, run.steps.length, message.seq || 0);
  if (message.done) {
    run.total = message.done.steps;
    run.reason = message.done.reason;
  }
}

function loadTrace(run, trace, note) {
  Object.assign(run, { header: trace, steps: trace.steps, solid: trace.steps.length, total: trace.steps.length,
                       reason: trace.finish_reason, note, recorded: true, reached: null });
  learn(run, trace.vocabulary);
}

function learn(run, vocabulary) {
  for (const [id, entry] of Object.entries(vocabulary || {})) run.vocabulary.set(Number(id), entryBytes(entry));
}

// Steps that have arrived without a gap: a hidden tab and a busy page lose messages.
function knownSteps(run) {
  while (run.steps[run.solid]) run.solid += 1;
  return run.solid;
}

function tokenText(run, id) {
  return new TextDecoder().decode(run.vocabulary.get(id) || new Uint8Array());
}

// What was asked last, in quotes, on one line.
function questionOf(run) {
  const messages = (run.header.prompt || {}).messages || [];
  const text = messages.length ? messages[messages.length - 1].text.replace(/\s+/g, " ") : "";
  return "“" + (text.length > 48 ? text.slice(0, 47) + "…" : text) + "”";
}

function isEnd(run, id) {
  return (run.header.model.eos_token_ids || []).includes(id);
}

// Ids and confidences after `count` steps. A step forward builds on the state before it.
function stateAt(run, count) {
  const from = run.reached && run.reached.count <= count ? run.reached : blankState(run);
  for (let i = from.count; i < count; i += 1) {
    const step = run.steps[i];
    const revealed = new Set(step.revealed);
    from.milliseconds += step.milliseconds;
    for (const [at, position, id] of run.header.changes || []) {
      if (at === i) { from.ids[position] = id; from.confidences[position] = null; }
    }
    step.masked.forEach((position, j) => {
      from.ids[position] = revealed.has(position) ? step.proposals[j] : null;
      from.confidences[position] = revealed.has(position) ? step.confidences[j] : null;
    });
  }
  from.count = count;
  run.reached = from;
  const last = count ? run.steps[count - 1] : null;
  const state = { ...from, ...changedLast(run, from), last, fresh: new Set(last ? last.revealed : []), isEnd: (id) => isEnd(run, id) };
  const end = from.ids.findIndex(state.isEnd);
  state.end = end < 0 ? run.header.length : end;
  state.denoised = state.confidences.slice(0, state.end).filter((sure) => sure !== null).length;
  return state;
}

// Ids and confidences with what a person changed after the newest step, which no step has followed.
function changedLast(run, { ids, confidences, count }) {
  const own = count === knownSteps(run) ? (run.header.changes || []).filter(([at]) => at === count) : [];
  if (!own.length) return { ids, confidences };
  const next = { ids: ids.slice(), confidences: confidences.slice() };
  for (const [, position, id] of own) { next.ids[position] = id; next.confidences[position] = null; }
  return next;
}

function blankState(run) {
  const nothing = { count: 0, milliseconds: 0, ids: new Array(run.header.length).fill(null),
                    confidences: new Array(run.header.length).fill(null) };
  for (const [position, id] of run.header.given || []) nothing.ids[position] = id;
  return nothing;
}

// The settings in force when step number `count` was the last: a branch may have changed them.
function settingsAt(run, count) {
  let node = run.header;
  while (node.parent && count <= node.parent.step) node = node.parent;
  return node.settings;
}

// An autoregressive model reveals token by token, whatever its settings say.
function blockShape(run, count) {
  if (run.header.model.kind === "autoregressive") return { size: 1, steps: 1 };
  const settings = settingsAt(run, count);
  const size = Math.max(1, settings.block_size || 1);
  return { size, steps: Math.max(1, Math.min(size, settings.steps || 1)) }; // a step reveals a token at least
}

// Start of every block. Blocks are aligned to the prompt, whose tail shares the first one.
function blockStarts(run, count) {
  const { size } = blockShape(run, count);
  const step = run.steps[Math.max(0, count - 1)];
  let anchor = size - (((run.header.prompt || {}).num_tokens || 0) % size);
  if (step) anchor = step.span[0] || step.span[1];
  const bounds = [0];
  for (let next = anchor % size || size; next < run.header.length; next += size) bounds.push(next);
  return bounds;
}

// Which block of `bounds` the step worked on.
function activeBlock(bounds, step) {
  let block = 0;
  while (step && block + 1 < bounds.length && bounds[block + 1] <= step.span[0]) block += 1;
  return block;
}

// How many blocks of `bounds` there are to count: those that a run used once it is over, all that may come before.
function blocksOf(run, bounds) {
  const end = run.total ? run.steps[run.total - 1] : null; // may have been lost on the way
  return end ? activeBlock(bounds, end) + 1 : bounds.length;
}

// Everything that was proposed at a position, in order: [{index, id, confidence, revealed, candidates, entropy}].
function proposalsAt(run, position) {
  const found = [];
  for (let index = 0; index < knownSteps(run); index += 1) {
    const step = run.steps[index];
    const j = step.masked.indexOf(position);
    if (j < 0) continue;
    found.push({ index, j, id: step.proposals[j], confidence: step.confidences[j],
                 revealed: step.revealed.includes(position), candidates: step.candidates ? step.candidates[j] : null,
                 entropy: step.entropies ? step.entropies[j] : null });
  }
  return found;
}
