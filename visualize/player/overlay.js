// Where it looked: the attention of one proposal over the picture's patches, drawn on the picture; and the occlusion
// check, a rectangle to paint over before the same question is asked again.
//
// createOverlay(slots, actions).draw({run, entry}); actions: {seek, picture(run, image) -> address, observe, occlude(region)}.

function createOverlay(slot, actions) {
  const panel = slot["overlay"];
  const sheet = slot["overlay-sheet"];
  const image = slot["overlay-image"];
  let view = null;
  let region = null;   // [left, top, right, bottom], shares of the picture
  let from = null;     // where a drag began
  let drawing = !matchMedia("(pointer: coarse)").matches; // a thumb scrolls over the picture until it is to draw

  image.addEventListener("load", () => draw(view));
  slot["layer"].addEventListener("input", () => draw(view));
  slot["picture-number"].addEventListener("input", () => draw(view));
  slot["look-step"].addEventListener("input", () => {
    const entry = proposalsAt(view.run, view.position)[Number(slot["look-step"].value)];
    if (entry) actions.seek(entry.index + 1);
  });

  function draw(next) {
    view = next;
    const images = (view && view.run.header && view.run.header.images) || [];
    panel.hidden = !view || !images.length;
    if (panel.hidden) return;
    const which = Math.min(Number(slot["picture-number"].value) || 0, images.length - 1);
    slot["picture-number"].max = images.length - 1;
    slot["picture-number"].parentElement.hidden = images.length < 2;
    const address = images[which].data || (actions.picture ? actions.picture(view.run.id, which) : "");
    if (address && image.getAttribute("src") !== address) { image.src = address; return; }
    const step = view.entry ? view.run.steps[view.entry.index] : null;
    const layers = step && step.attention ? Object.keys(step.attention) : [];
    slot["layer"].max = Math.max(0, layers.length - 1);
    slot["layer"].parentElement.hidden = layers.length < 2;
    const layer = layers[Math.min(Number(slot["layer"].value), layers.length - 1)];
    slot["layer-name"].textContent = layer === undefined ? "" : layer;
    const weights = layer === undefined ? null : step.attention[layer][view.entry.j];
    slot["overlay-title"].textContent = !view.entry ? say("player.look-pick")
      : weights ? say("player.looked-at", { step: view.entry.index + 1, layer }) : say("player.look-unobserved");
    slot["observe-attention"].hidden = Boolean(weights) || !view.entry || !actions.observe;
    panel.dataset.drawing = drawing;
    slot["choose-region"].hidden = drawing;
    slot["occlusion"].hidden = !actions.occlude || Boolean(view.run.header.parent); // a branch began with the whole picture
    paintSteps();
    paint(images, which, weights);
  }

  // The steps in which this position was proposed something.
  function paintSteps() {
    const steps = proposalsAt(view.run, view.position).map((entry) => entry.index);
    const slider = slot["look-step"];
    slider.parentElement.hidden = steps.length < 2;
    slider.max = Math.max(0, steps.length - 1);
    slider.value = view.entry ? steps.indexOf(view.entry.index) : 0;
    slot["look-step-name"].textContent = view.entry ? view.entry.index + 1 : "";
  }

  // The patches of all pictures follow one another; each picture has its own part of the weights.
  function paint(images, which, weights) {
    const ratio = window.devicePixelRatio || 1;
    const width = image.clientWidth;
    const height = image.clientHeight;
    sheet.width = Math.round(width * ratio);
    sheet.height = Math.round(height * ratio);
    sheet.style.width = width + "px";
    sheet.style.height = height + "px";
    const pen = sheet.getContext("2d");
    pen.scale(ratio, ratio);
    delete sheet.dataset.peak;
    if (weights && width) paintHeat(pen, images, which, weights, width, height);
    if (region) paintRegion(pen, width, height);
  }

  function paintHeat(pen, images, which, weights, width, height) {
    const { grid: [rows, columns], box: [left, top, right, bottom], width: wide, height: high } = images[which];
    const skipped = images.slice(0, which).reduce((sum, one) => sum + one.grid[0] * one.grid[1], 0);
    const own = weights.slice(skipped, skipped + rows * columns);
    const most = Math.max(...own);
    if (!(most > 0)) return;
    const patchWide = ((right - left) / columns) * (width / wide);
    const patchHigh = ((bottom - top) / rows) * (height / high);
    const style = getComputedStyle(sheet);
    const veil = style.getPropertyValue("--dvl-veil").trim();
    const strength = 0.85;
    pen.fillStyle = veil;
    pen.globalAlpha = strength;
    pen.fillRect(0, 0, width, height);
    pen.globalAlpha = 1;
    own.forEach((weight, i) => {
      const x = (left * width) / wide + (i % columns) * patchWide;
      const y = (top * height) / high + Math.floor(i / columns) * patchHigh;
      // the veil is lifted where it looked: full strength of the picture at the largest weight
      pen.clearRect(x, y, patchWide, patchHigh);
      pen.globalAlpha = strength * (1 - Math.sqrt(weight / most));
      pen.fillRect(x, y, patchWide, patchHigh);
      pen.globalAlpha = 1;
      if (weight === most) {
        pen.strokeStyle = style.getPropertyValue("--dvl-accent").trim();
        pen.lineWidth = 2;
        pen.strokeRect(x + 1, y + 1, patchWide - 2, patchHigh - 2);
        sheet.dataset.peak = i;
      }
    });
    slot["overlay-scale"].textContent = say("player.largest-weight", { value: most.toFixed(3), total: own.reduce((a, b) => a + b, 0).toFixed(2) });
  }

  // -- the occlusion check --

  function paintRegion(pen, width, height) {
    const [left, top, right, bottom] = region;
    pen.fillStyle = "rgba(128, 128, 128, 0.85)";
    pen.fillRect(left * width, top * height, (right - left) * width, (bottom - top) * height);
    pen.strokeStyle = getComputedStyle(sheet).getPropertyValue("--dvl-ink").trim();
    pen.setLineDash([4, 3]);
    pen.strokeRect(left * width, top * height, (right - left) * width, (bottom - top) * height);
    pen.setLineDash([]);
  }

  function setRegion(next) {
    region = next && next[2] - next[0] > 0.01 && next[3] - next[1] > 0.01 ? next : null;
    slot["occlude"].disabled = !region;
    slot["occlude-clear"].hidden = !region;
    sheet.dataset.region = region ? region.map((share) => share.toFixed(3)).join(",") : "";
    draw(view);
  }

  function at(event) {
    const box = sheet.getBoundingClientRect();
    const share = (value, length) => Math.min(1, Math.max(0, value / length));
    return [share(event.clientX - box.left, box.width), share(event.clientY - box.top, box.height)];
  }

  sheet.addEventListener("pointerdown", (event) => {
    if (!actions.occlude || !drawing) return;
    from = at(event);
    sheet.setPointerCapture(event.pointerId);
  });
  sheet.addEventListener("pointermove", (event) => {
    if (!from) return;
    const to = at(event);
    setRegion([Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])]);
  });
  sheet.addEventListener("pointerup", () => { from = null; });
  slot["choose-region"].addEventListener("click", () => { drawing = true; draw(view); });
  // The same by keyboard: arrows move the rectangle, with shift they resize it.
  sheet.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!move || !actions.occlude) return;
    event.preventDefault();
    event.stopPropagation();
    const [left, top, right, bottom] = region || [0.375, 0.375, 0.625, 0.625];
    const [dx, dy] = move.map((way) => way / 16);
    const next = event.shiftKey ? [left, top, right + dx, bottom + dy] : [left + dx, top + dy, right + dx, bottom + dy];
    if (next.every((share) => share >= 0 && share <= 1)) setRegion(next);
  });
  slot["occlude-clear"].addEventListener("click", () => setRegion(null));
  slot["occlude"].addEventListener("click", () => { if (region) actions.occlude(region); });
  new ResizeObserver(() => { if (view && !panel.hidden) draw(view); }).observe(panel);

  return { draw };
}
