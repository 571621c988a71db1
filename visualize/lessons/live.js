// Glue for gr.HTML: its value brings the one message.

const lessons = createLessons(element);
lessons.receive(props.value);
watch("value", () => lessons.receive(props.value));
