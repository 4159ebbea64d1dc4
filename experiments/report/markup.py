"""Parts of a page that its template does not write itself: figures, prose, numbers."""

import inspect
import re
import textwrap
from typing import Any, NamedTuple

import pandas as pd
from markupsafe import Markup, escape

from experiments.report import panels


class Picture(NamedTuple):
    """A rendered figure.

    Attributes:
      setting: the setting of the study that it shows.
      title: as it is written in the image; the page shows it above.
      svg: the vector image, with the title in a group `title`.
      above: height of the title in points.
    """

    name: str
    caption: str
    setting: dict[str, Any]
    title: str
    svg: str
    above: float = 0.0


def breakable(value: Any) -> Markup:
    """A long name with optional line breaks after `_` and `,` and before `(`."""
    return Markup(re.sub(r"(_|,|(?=\())", r"\1<wbr>", str(escape(value))))


def prose(text: str) -> Markup:
    """Plain text as HTML: paragraphs, lists with `*` or `-`, indented commands and `code`."""
    out = []
    for part in re.split(r"\n[ \t]*\n", inspect.cleandoc(text)):
        lines = part.splitlines()
        if all(line.startswith("    ") for line in lines):
            out.append(f"<pre><code>{escape(textwrap.dedent(part))}</code></pre>")
            continue
        items = re.split(r"^\s*[*-] ", part, flags=re.MULTILINE)
        out += [f"<p>{inline(items[0])}</p>"] if items[0].strip() else []
        if len(items) > 1:
            points = "".join(f"<li>{inline(item)}</li>" for item in items[1:])
            out.append(f"<ul>{points}</ul>")
    return Markup("\n".join(out))


def inline(text: str) -> str:
    """Text with `code`."""
    words = str(escape(" ".join(text.split())))
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", words)


def in_hours(seconds: float) -> str:
    """Seconds as minutes or hours, in brackets; empty for less than two minutes."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return ""
    return f" ({minutes} min)" if minutes < 120 else f" ({minutes // 60} h {minutes % 60} min)"


def percent(value: Any, digits: int = 1) -> str:
    """A share in per cent; `-` for NaN."""
    return "-" if pd.isna(value) else f"{100 * value:.{digits}f}"


# Colours of texts, lines and backgrounds, by the variables of page.css.
_VARIABLES = {"#262626": "text", "#cccccc": "line", "#d9d9d9": "line", "#ffffff": "card"}


def image(picture: Picture, place: int) -> Markup:
    """The figure embedded in the page as SVG, in the colours of the page and without its title."""
    start = picture.svg.index("<svg")
    vectors = re.sub(r"<metadata>.*?</metadata>", "", picture.svg[start:], flags=re.DOTALL)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', vectors)
    width, height = (float(side) for side in box.groups()) if box else (600.0, 400.0)
    # Identifiers are unique within a figure, and must be within the page.
    vectors = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>f{place}-", vectors)
    # Matplotlib's style rule applies to the whole document; restrict it to this figure.
    vectors = vectors.replace('<style type="text/css">*{', f"<style>#f{place}-figure_1 *{{")
    vectors = re.sub(r"(?<=: )#[0-9a-f]{6}\b", _variable, vectors)
    # Hundredths of a point are less than a pixel.
    vectors = re.sub(r'(?<=\bd=")[^"]*', _shortened, vectors)
    # On a narrow screen a wide figure scrolls rather than becoming illegible.
    size = f'style="min-width: {min(0.9 * width, 950):.0f}px; max-width: {1.33 * width:.0f}px"'
    opened = re.sub(
        r"^<svg [^>]*>",
        rf'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        rf'role="img" aria-label="{escape(picture.name)}" viewBox="0 {picture.above:.1f} '
        rf'{width:.1f} {height - picture.above:.1f}" {size}>',
        vectors,
        count=1,
    )
    return Markup(opened)


def _variable(color: re.Match) -> str:
    name = _VARIABLES.get(color[0]) or (color[0][1:] if color[0] in panels.COLORS else None)
    return f"var(--{name}, {color[0]})" if name else color[0]


def _shortened(path: re.Match) -> str:
    return re.sub(r"(\.\d\d)\d+", r"\1", path[0])
