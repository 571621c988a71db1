// Glue for gr.HTML: its value brings messages, server functions bring what a hidden tab has missed and tokens of typed text,
// and what a visitor asks of a run goes out as an event.

const base = ((window.gradio_config || {}).root || "").replace(/\/$/, "");
const file = (run, name) => base + "/runs/" + run + "/" + name;
const player = createDiffusionPlayer(element, {
  missing: (run, have) => server.missing_steps({ run, have }),
  tokenize: (asked) => server.tokenize(asked),
  picture: (run, number) => file(run, "picture-" + number),
  links: (run, kind) => runLinks((name) => file(run, name), kind),
  branch: (asked) => trigger("branch", asked),
  observe: (asked) => trigger("observe", asked),
  occlude: (asked) => trigger("occlude", asked),
  pause: (asked) => trigger("pause", asked),
  shown: (run) => trigger("shown", { run }),
  begun: (canvas) => { // after a click on an example the keys are the player's
    if (document.activeElement && document.activeElement.closest(".dvl-strip")) canvas.focus({ preventScroll: true });
  },
});
player.receive(props.value);
watch("value", () => player.receive(props.value));
