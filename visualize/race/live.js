// Glue for gr.HTML: its value brings messages.

const race = createRace(element, { button: say("race.start") });
race.receive(props.value);
watch("value", () => race.receive(props.value));
