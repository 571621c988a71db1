"""The look, said once: colours and type shared by the page's CSS, the player and matplotlib.

The confidence scale is cividis (perceptually even, the same to colour-blind readers), cut where it would fade
into the background: on a light page from mid grey (unsure) to navy (sure), on a dark page from mid grey to
bright yellow. Either way the surer a token is, the more its mark stands out.
"""

from __future__ import annotations

from dataclasses import dataclass

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Noto Sans CJK SC", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")


@dataclass(frozen=True)
class Palette:
    """Colours of one mode, as `#rrggbb`.

    Attributes:
        page: the page behind everything.
        surface: panels: the canvas, inputs.
        ink, muted: text, and text that steps back.
        line: hairlines and borders.
        mask, ahead: a masked token in a block being denoised, and in one not opened yet.
        accent, on_accent: the active block and the primary button, and text on them.
        alert: the border of an error sentence.
        scale: confidence from 0 to 1, evenly spaced stops.
    """

    page: str
    surface: str
    ink: str
    muted: str
    line: str
    mask: str
    ahead: str
    accent: str
    on_accent: str
    alert: str
    scale: tuple[str, ...]


LIGHT = Palette(
    page="#f6f7f8",
    surface="#ffffff",
    ink="#16191d",
    muted="#5b636d",
    line="#dde1e6",
    mask="#b7d7d5",
    ahead="#e7eaed",
    accent="#0b7a75",
    on_accent="#ffffff",
    alert="#b42318",
    scale=("#999277", "#868379", "#757575", "#646770", "#52596d", "#3e4b6c", "#263d6e", "#00306f", "#00224e"),
)

DARK = Palette(
    page="#0f1216",
    surface="#171b21",
    ink="#e8ebef",
    muted="#9aa4b0",
    line="#2c333c",
    mask="#2b5a58",
    ahead="#232931",
    accent="#3fbfb4",
    on_accent="#062321",
    alert="#f97066",
    scale=("#666970", "#777776", "#888578", "#9b9476", "#aea371", "#c2b369", "#d6c35d", "#ebd44b", "#fee838"),
)

PALETTES = {"light": LIGHT, "dark": DARK}


def css_variables() -> str:
    """The palettes as CSS custom properties (`--dvl-ink`, `--dvl-scale-0`, ...); dark under `body.dark`."""
    light = "\n".join(f"  {name}: {value};" for name, value in _variables(LIGHT).items())
    dark = "\n".join(f"  {name}: {value};" for name, value in _variables(DARK).items())
    fonts = f"  --dvl-sans: {_families(SANS)};\n  --dvl-mono: {_families(MONO)};"
    return f":root {{\n{fonts}\n{light}\n}}\nbody.dark {{\n{dark}\n}}\n"


def _variables(palette: Palette) -> dict[str, str]:
    plain = {f"--dvl-{k.replace('_', '-')}": v for k, v in vars(palette).items() if isinstance(v, str)}
    return plain | {f"--dvl-scale-{i}": colour for i, colour in enumerate(palette.scale)}


def _families(names: tuple[str, ...]) -> str:
    return ", ".join(f'"{n}"' if " " in n else n for n in names)
