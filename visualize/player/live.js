// Glue for gr.HTML: its value brings messages, a server function brings what a hidden tab has missed.

const player = createDiffusionPlayer(element, { missing: (run, have) => server.missing_steps(run, have) });
player.receive(props.value);
watch("value", () => player.receive(props.value));
