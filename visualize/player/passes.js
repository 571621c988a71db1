// Denoising forwards of the first `count` steps of a run: a step that had been guessed needed none.
function passesOf(steps, count) {
  return steps.slice(0, count).filter((step, i) => i === 0 || step.forwards !== steps[i - 1].forwards).length;
}
