// The page's language: the one a visitor chose (kept by the browser), else the browser's own.

function dvlLanguage() {
  let chosen = null;
  try { chosen = localStorage.getItem("dvl-language"); } catch (error) { /* storage may be switched off */ }
  return (chosen || navigator.language || "en").startsWith("zh") ? "zh" : "en";
}

// A sentence in that language; {name} is replaced by values.name.
function say(key, values = {}) {
  const text = DVL_TEXTS[dvlLanguage()][key] ?? DVL_TEXTS.en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? values[name] : whole));
}

// A strategy's name as the page calls it; one that the texts don't know, as it is. Needs the part "strategy".
function sayStrategy(name) {
  const key = "strategy." + name;
  return key in DVL_TEXTS.en ? say(key) : String(name).replaceAll("_", " ");
}

// `root` and what is in it: data-say gives an element its text, data-say-label its aria-label, data-say-title its title.
function sayAll(root) {
  const all = (what) => [...(root.matches && root.matches(what) ? [root] : []), ...root.querySelectorAll(what)];
  for (const node of all("[data-say]")) node.textContent = say(node.dataset.say);
  for (const node of all("[data-say-label]")) node.setAttribute("aria-label", say(node.dataset.sayLabel));
  for (const node of all("[data-say-title]")) node.title = say(node.dataset.sayTitle);
}

// An error sentence that the server wrote, in that language where it is a known one ("trouble." in the texts). The name of
// a setting in it is said as the page calls it.
function sayTrouble(sentence) {
  if (dvlLanguage() === "en") return sentence;
  for (const [key, text] of Object.entries(DVL_TEXTS.en)) {
    if (!key.startsWith("trouble.")) continue;
    const literal = text.replace(/[.*+?^$()|[\]\\]/g, "\\$&");
    const found = sentence.match(new RegExp("^" + literal.replace(/\{(\w+)\}/g, "(?<$1>.*?)") + "$", "s"));
    if (!found) continue;
    const values = { ...found.groups };
    for (const [name, value] of Object.entries(values)) {
      const label = Object.keys(DVL_TEXTS.en).find((other) => DVL_TEXTS.en[other] === value);
      if (label) values[name] = say(label);
    }
    return say(key, values);
  }
  return sentence;
}

// On a phone results lie below what asked for them: whoever asked gets to see them, at least the top of `seen`.
function bringIntoView(node, seen = node) {
  const top = seen.getBoundingClientRect().top;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (top > innerHeight - 120) node.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
}

// What must not be missed, such as an error, once what holds it has unfolded.
function bringBackIntoView(node) {
  setTimeout(() => {
    const { top, bottom } = node.getBoundingClientRect();
    if (bottom > top && (top < 0 || bottom > innerHeight)) node.scrollIntoView({ block: "center" });
  }, 300);
}
