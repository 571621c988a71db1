"""The language that a visitor chose, known to the page before anything else runs.

The page's framework reads the browser's language as soon as it starts, before it runs any script that an app can give
it. So the script has to stand in the HTML itself: this ASGI middleware writes it there, at the top of the page's head.
"""

from __future__ import annotations

from visualize import strings

SCRIPT = """try {
  const chosen = localStorage.getItem("dvl-language");
  const name = chosen === "zh" ? "zh-CN" : "en";
  if (chosen) {
    Object.defineProperty(navigator, "language", { get: () => name });
    Object.defineProperty(navigator, "languages", { get: () => [name] });
  }
} catch (error) { /* storage may be switched off */ }
document.documentElement.lang = navigator.language.startsWith("zh") ? "zh" : "en";"""

TOGGLE = f"""() => {{
  const shown = document.querySelector("#dvl-player .dvl");
  const own = shown && ["running", "finished"].includes(shown.dataset.phase);
  if (own && !confirm({strings.chosen("page.language-loses")})) return;
  localStorage.setItem("dvl-language", navigator.language.startsWith("zh") ? "en" : "zh");
  location.reload();
}}"""


class LanguageFirst:
    """ASGI middleware: puts `SCRIPT` at the top of the head of every HTML page that is answered."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["path"].rstrip("/") != scope.get("root_path", "").rstrip("/"):
            await self.app(scope, receive, send)
            return
        begun, body = None, b""

        async def written(message):
            nonlocal begun, body
            if message["type"] == "http.response.start":
                begun = message
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            headers = dict(begun["headers"])
            if headers.get(b"content-type", b"").startswith(b"text/html") and b"content-encoding" not in headers:
                body = body.replace(b"<head>", b"<head><script>" + SCRIPT.encode() + b"</script>", 1)
                kept = [(name, value) for name, value in begun["headers"] if name != b"content-length"]
                begun = {**begun, "headers": [*kept, (b"content-length", str(len(body)).encode())]}
            await send(begun)
            await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, written)
