// Glue for gr.HTML: its value brings messages.

const explore = createExplore(element);
explore.receive(props.value);
watch("value", () => explore.receive(props.value));
