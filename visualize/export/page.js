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
const player = createPlayer(host, {});
player.receive({ ...message, note: say("export.note", { model: message.trace.model.name || "" }) });

// Another trace file, read by the browser alone.
const opener = document.getElementById("dvl-export-open");
const trouble = document.getElementById("dvl-export-trouble");
let opened = 0;
opener.addEventListener("change", async () => {
  const file = opener.files[0];
  if (!file) return;
  trouble.textContent = "";
  try {
    const trace = JSON.parse(await file.text());
    if (trace.format !== message.trace.format || !Array.isArray(trace.steps) || !(trace.length > 0)) throw new TypeError("no trace");
    opened += 1;
    player.receive({ run: "opened-" + opened, seq: 0, trace, note: file.name });
  } catch (error) {
    trouble.textContent = say("export.no-trace", { file: file.name });
  }
});
document.getElementById("dvl-export-other").hidden = false;
