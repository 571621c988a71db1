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

// Elements with data-say get their text; data-say-label and data-say-title their aria-label and title.
function sayAll(root) {
  for (const node of root.querySelectorAll("[data-say]")) node.textContent = say(node.dataset.say);
  for (const node of root.querySelectorAll("[data-say-label]")) node.setAttribute("aria-label", say(node.dataset.sayLabel));
  for (const node of root.querySelectorAll("[data-say-title]")) node.title = say(node.dataset.sayTitle);
}
