// Glue for gr.HTML that shows recorded runs: nothing can be asked of a model here.

const base = ((window.gradio_config || {}).root || "").replace(/\/$/, "");
const file = (run, name) => base + "/runs/" + run + "/" + name;
const player = createDiffusionPlayer(element, {
  missing: (run, have) => server.missing_steps({ run, have }),
  picture: (run, number) => file(run, "picture-" + number),
  links: (run, kind) => runLinks((name) => file(run, name), kind),
});
player.receive(props.value);
watch("value", () => player.receive(props.value));
