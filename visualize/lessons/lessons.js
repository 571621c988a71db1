// The teaching page: five lessons drawn from one recorded run.
//
// createLessons(host).receive(message) takes the one message of protocol.py. Text of tokens reaches the page through
// textContent only.

function createLessons(host) {
  const SOURCES = { // where each lesson's rule stands in this project
    noise: ["dvl_core/training/noise.py", "dvl_core/training/objective.py"],
    mask: ["dvl_core/training/masks.py", "dvl_core/decoding/masks.py"],
    cache: ["dvl_core/decoding/block.py", "dvl_core/decoding/cache.py"],
    tour: ["visualize/lessons/tour.py"],
    guess: ["dvl_core/decoding/strategies.py"],
  };
  const PAPERS = { "DiffusionVL, arXiv 2512.15713": "https://arxiv.org/abs/2512.15713",
                   "BD3-LM, arXiv 2503.09573": "https://arxiv.org/abs/2503.09573" };
  const root = host.querySelector(".dvl-lessons");
  const intro = lessonSlots(root.querySelector(".dvl-lessons-intro"));
  const section = (name) => root.querySelector('[data-lesson="' + name + '"]');
  const lessons = [createNoiseLesson(section("noise")), createMaskLesson(section("mask")),
                   createCacheLesson(section("cache")), createTourLesson(section("tour")),
                   createGuessLesson(section("guess"))];

  function receive(message) {
    if (!message || !message.trace) return;
    const record = lessonRecord(message);
    paintIntro(record);
    for (const lesson of lessons) lesson.show(record);
    root.dataset.phase = "ready";
  }

  function paintIntro({ trace, passes }) {
    const asked = ((trace.prompt || {}).messages || []).filter((message) => message.role === "user").pop();
    const pictures = trace.images || [];
    const values = { model: trace.model.name || "", forwards: passes.length };
    intro["intro"].textContent = say(pictures.length ? "lessons.intro" : "lessons.intro-text", values);
    intro["question"].textContent = asked ? asked.text : "";
    intro["answer"].textContent = trace.text || say("lessons.no-answer");
    for (const img of root.querySelectorAll("img")) {
      const data = pictures.length ? pictures[0].data : null;
      img.hidden = !/^data:image\/(png|jpeg|gif|webp);base64,/.test(data || "");
      if (!img.hidden) Object.assign(img, { src: data, alt: say(img.dataset.sayAlt) });
    }
  }

  function paintSource(node, files) {
    node.textContent = say("lessons.source") + " ";
    for (const [name, address] of Object.entries(PAPERS)) {
      const link = node.appendChild(document.createElement("a"));
      Object.assign(link, { href: address, textContent: name, target: "_blank", rel: "noopener" });
      node.appendChild(document.createTextNode(" · "));
    }
    files.forEach((file, index) => {
      node.appendChild(document.createElement("code")).textContent = file;
      if (index + 1 < files.length) node.appendChild(document.createTextNode(" · "));
    });
  }

  sayAll(host);
  for (const name of Object.keys(SOURCES)) paintSource(lessonSlots(section(name))["source"], SOURCES[name]);

  const api = { receive };
  host.dvlLessons = api;
  return api;
}
