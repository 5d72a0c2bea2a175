"""The colours and strokes of the SVG, for light and dark pages.

No colour is the only sign of anything: shapes, icons and words say the same.
"""

from __future__ import annotations

from typing import Final, NamedTuple

MONO: Final = 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace'
SANS: Final = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif'


class Tint(NamedTuple):
    """Fill, line and text of one kind of thing."""

    fill: str
    line: str
    text: str


LIGHT: Final = {
    "tasks": Tint("#f5f3ff", "#7c5cd6", "#4c2fa8"),
    "exchange": Tint("#eff6ff", "#3b7dd8", "#1c4f9c"),
    "queue": Tint("#ecfdf5", "#23956f", "#0f6148"),
    "dead": Tint("#fff1f0", "#d0453a", "#9c2a21"),
    "delays": Tint("#fff8e6", "#c58a12", "#865a00"),
    "unknown": Tint("#f6f7f8", "#8b95a1", "#5b6570"),
}
DARK: Final = {
    "tasks": Tint("#221d38", "#9d84ea", "#c9bbff"),
    "exchange": Tint("#14253c", "#5a9bee", "#a9cdff"),
    "queue": Tint("#10291f", "#3fb98d", "#97e3c6"),
    "dead": Tint("#361a18", "#ea6a5f", "#ffb3ac"),
    "delays": Tint("#302509", "#d9a437", "#f5d48c"),
    "unknown": Tint("#22262b", "#7d8792", "#b5bdc6"),
}


class Page(NamedTuple):
    """Colours of everything that belongs to no kind."""

    paper: str
    ink: str
    faint: str
    wire: str
    lit: str
    label: str


LIGHT_PAGE: Final = Page("#ffffff", "#1b2430", "#5d6875", "#77838f", "#0b62d6", "#ffffff")
DARK_PAGE: Final = Page("#12161c", "#e6eaef", "#98a3af", "#8793a0", "#6cb2ff", "#1a2028")

_FIXED: Final = f"""\
.amqpq-graph text {{ font: 11px {SANS}; }}
.amqpq-graph .heading {{ font-size: 17px; font-weight: 600; }}
.amqpq-graph .caption {{ font-size: 10px; letter-spacing: .09em; }}
.amqpq-graph .name {{ font: 600 13px {MONO}; }}
.amqpq-graph .key {{ font: 11px {MONO}; }}
.amqpq-graph .live {{ font-weight: 600; }}
.amqpq-graph .box, .amqpq-graph .icon, .amqpq-graph .wire {{ stroke-linejoin: round; stroke-linecap: round; }}
.amqpq-graph .box {{ stroke-width: 1.4; }}
.amqpq-graph .guest .box {{ stroke-dasharray: 5 3; }}
.amqpq-graph .icon {{ fill: none; stroke-width: 1.5; }}
.amqpq-graph .wire {{ fill: none; stroke-width: 1.5; }}
.amqpq-graph .unrouted .wire {{ stroke-dasharray: 1.5 4; }}
.amqpq-graph .delay .wire {{ stroke-dasharray: 6 4; }}
.amqpq-graph .dim {{ opacity: .28; }}
.amqpq-graph .lit .wire {{ stroke-width: 2.8; }}
.amqpq-graph .lit .box {{ stroke-width: 2.4; }}
"""


def sheet() -> str:
    """Return the style sheet of a picture."""
    dark = "\n".join(f"  {line}" for line in _colours(DARK, DARK_PAGE).splitlines())
    return f"{_FIXED}{_colours(LIGHT, LIGHT_PAGE)}@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


def _colours(tints: dict[str, Tint], page: Page) -> str:
    root = ".amqpq-graph"
    rules = [
        f"{root} .paper {{ fill: {page.paper}; }}",
        f"{root} text {{ fill: {page.ink}; }}",
        f"{root} .faint {{ fill: {page.faint}; }}",
        f"{root} .wire {{ stroke: {page.wire}; }}",
        f"{root} .head {{ fill: {page.wire}; }}",
        f"{root} .pill {{ fill: {page.label}; stroke: {page.wire}; }}",
    ]
    for kind, tint in tints.items():
        rules += [
            f"{root} .node.{kind} .box {{ fill: {tint.fill}; stroke: {tint.line}; }}",
            f"{root} .node.{kind} .icon {{ stroke: {tint.line}; }}",
            f"{root} .node.{kind} .live {{ fill: {tint.text}; }}",
        ]
    for edge, kind in (("publish", "tasks"), ("dead", "dead"), ("delay", "delays")):
        tint = tints[kind]
        rules += [
            f"{root} .{edge} .wire, {root} .{edge} .pill {{ stroke: {tint.line}; }}",
            f"{root} .{edge} .head {{ fill: {tint.line}; }}",
            f"{root} .{edge} .key {{ fill: {tint.text}; }}",
        ]
    rules += [
        f"{root} .lit .wire, {root} .lit .pill {{ stroke: {page.lit}; }}",
        f"{root} .lit .head {{ fill: {page.lit}; }}",
        f"{root} .lit .key {{ fill: {page.lit}; }}",
    ]
    return "".join(f"{rule}\n" for rule in rules)
