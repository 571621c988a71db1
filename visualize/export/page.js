// A saved page: gives the player the message that is in the page, dark mode, and the trace to take home again.
// Runs after the player's script and the sentences of `export`, in a function of its own with both.

const stored = document.getElementById("dvl-export-message").textContent;
const message = JSON.parse(stored);

document.documentElement.lang = dvlLanguage() === "zh" ? "zh-CN" : "en";
for (const node of document.querySelectorAll("[data-values]")) node.textContent = say(node.dataset.key, JSON.parse(node.dataset.values));
sayAll(document);

// Dark as the system is, until the visitor says otherwise.
const dark = document.getElementById("dvl-export-dark");
const system = matchMedia("(prefers-color-scheme: dark)");
let chosen = null;
function paintMode() {
  const on = chosen === null ? system.matches : chosen;
  document.body.classList.toggle("dark", on);
  dark.setAttribute("aria-pressed", on);
}
dark.addEventListener("click", () => { chosen = !document.body.classList.contains("dark"); paintMode(); });
system.addEventListener("change", paintMode);
dark.hidden = false;
paintMode();

for (const data of new Set(message.trace.images.map((image) => image.data))) {
  if (!data) continue;
  const picture = document.createElement("img");
  picture.src = data;
  picture.alt = say("export.picture");
  document.getElementById("dvl-export-pictures").append(picture);
}

// Written when it is asked for, from the page's own text: the player's copy is the player's.
const link = document.getElementById("dvl-export-trace");
link.addEventListener("click", () => {
  const file = new Blob([JSON.stringify(JSON.parse(stored).trace)], { type: "application/json" });
  const address = URL.createObjectURL(file);
  link.href = address;
  setTimeout(() => URL.revokeObjectURL(address), 60000);
});
link.hidden = false;

const host = document.getElementById("dvl-export-player");
host.hidden = false;
createPlayer(host, {}).receive({ ...message, note: say("export.note", { model: message.trace.model.name || "" }) });
