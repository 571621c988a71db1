// Glue for gr.HTML: its value brings messages, a server function brings what a hidden tab has missed.

const base = ((window.gradio_config || {}).root || "").replace(/\/$/, "");
const player = createDiffusionPlayer(element, {
  missing: (run, have) => server.missing_steps({ run, have }),
  links: (run) => ({ png: base + "/runs/" + run + "/confidence.png", json: base + "/runs/" + run + "/trace.json" }),
});
player.receive(props.value);
watch("value", () => player.receive(props.value));
