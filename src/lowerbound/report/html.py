"""One HTML page with everything inside: styles, pictures as data URIs, no script, and nothing from a network.

The page is built of elements whose text is escaped when they are made, so no name in a run can break out of its place.
"""

from __future__ import annotations

import base64
import html
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lowerbound.report.verdict import Note

__all__ = ["Markup", "Page", "Picture", "Section", "code", "element", "picture", "render", "table", "typeset"]

# No resource is ever fetched: pictures come from data URIs, styles from the page itself.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; --ground: #fafaf8; --card: #ffffff; --ink: #1c1c1c; --soft: #5c5c5c; --line: #dcdcd6;
  --accent: #0072b2; --warn: #b34700; --warn-ground: #fff3e8; }
@media (prefers-color-scheme: dark) { :root { --ground: #16181b; --card: #1f2226; --ink: #e8e8e6; --soft: #a5a8ab;
  --line: #383c41; --accent: #6bb8ea; --warn: #ffb27a; --warn-ground: #35261a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1rem; font-weight: 600; color: var(--soft); margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .8rem; }
.verdict { font-size: 1.65rem; line-height: 1.25; font-weight: 650; margin: 0 0 .5rem; }
.headline { font-size: 1.1rem; margin: 0 0 1.2rem; }
.verdict span, .headline span { display: inline-block; margin-right: .3em; }
.note { margin: .5rem 0; padding: .5rem .8rem; border-left: 4px solid var(--accent); background: var(--card); }
.note.warning { border-color: var(--warn); background: var(--warn-ground); }
table { border-collapse: collapse; width: 100%; font-size: .93rem; }
th, td { text-align: left; vertical-align: top; padding: .42rem .9rem .42rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
thead th { color: var(--soft); font-weight: 500; }
tbody th { font-weight: 600; white-space: nowrap; }
thead + tbody td:not(:last-child) { white-space: nowrap; }
thead + tbody td:last-child { min-width: 15rem; }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
tr.part > * { color: var(--soft); border-bottom-style: dotted; }
tr.part th { font-weight: 400; padding-left: 1rem; }
.soft { color: var(--soft); } .wrapped { white-space: normal; min-width: 10rem; }
.fact { display: inline-block; margin-right: 1.1rem; }
.fact span { color: var(--soft); }
.figures { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.25rem; align-items: start;
  grid-auto-flow: dense; margin: 1.2rem 0; }
figure { margin: 0; } figure.wide { grid-column: 1 / -1; }
figure .card { background: #ffffff; border: 1px solid var(--line); border-radius: 6px; padding: .6rem; }
figure img { max-width: 100%; height: auto; display: block; margin: 0 auto; }
figcaption { font-size: .9rem; color: var(--soft); margin: .5rem 0 0; }
figcaption b { color: var(--ink); }
pre, code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .86rem; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .7rem .9rem; margin: .6rem 0;
  white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--accent); margin-top: 1rem; }
@media (max-width: 46rem) { .figures { grid-template-columns: 1fr; } .verdict { font-size: 1.3rem; }
  .scroll { overflow-x: auto; } }
@media print { :root { --ground: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb; --warn-ground: #fff; }
  html { font-size: 10.5pt; } body { font-size: 1rem; } main { max-width: none; padding: 0; }
  h2 { break-after: avoid; margin-top: 1.4rem; }
  figure, tr, .note { break-inside: avoid; } details { display: none; } @page { margin: 16mm; } }
"""


class Markup(str):
    """HTML that is safe to put into a page as it is."""

    __slots__ = ()


Content = str | Iterable[str]


def element(name: str, content: Content = "", **attributes: str) -> Markup:
    """Return an element; text in it and in its attributes is escaped, `Markup` in it is not.

    Args:
        name: The tag.
        content: Text, markup, or several of them.
        attributes: Attributes; ``class_`` stands for ``class``.

    Example:
        >>> element("p", ["1 < 2, ", element("b", "a & b")], class_="note")
        '<p class="note">1 &lt; 2, <b>a &amp; b</b></p>'
    """
    given = "".join(f' {key.rstrip("_")}="{html.escape(value)}"' for key, value in attributes.items())
    if name in ("img", "meta", "link"):
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{_inside(content)}</{name}>")


def _inside(content: Content) -> str:
    pieces = [content] if isinstance(content, str) else content
    return "".join(piece if isinstance(piece, Markup) else html.escape(piece) for piece in pieces)


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Attributes:
        name: The stem of its file.
        title: A few words.
        caption: What it shows and how to read it.
        png: The file's bytes.
    """

    name: str
    title: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    content: Sequence[Markup]


@dataclass(frozen=True)
class Page:
    """What the report says, in its order.

    Attributes:
        title: The name of the run.
        verdict: The result in one line of plain words.
        notes: What a reader should know or change.
        sections: Tables, figures and commands.
        headline: The result in numbers, below the verdict.
    """

    title: str
    verdict: str
    notes: Sequence[Note]
    sections: Sequence[Section]
    headline: str = ""


def render(page: Page) -> str:
    """Return the page as one HTML document."""
    head = [
        element("meta", charset="utf-8"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY)}">'),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("link", rel="icon", href="data:,"),
        element("title", f"{page.title}: {page.verdict}"),
        element("style", Markup(_STYLE)),
    ]
    body = [element("h1", page.title), element("p", _pieces(page.verdict), class_="verdict")]
    body += [element("p", _pieces(page.headline), class_="headline")] if page.headline else []
    body += [element("p", typeset(note.text), class_=f"note {note.level}") for note in page.notes]
    body += [element("section", [element("h2", part.title), *part.content]) for part in page.sections]
    document = element("html", [element("head", head), element("body", element("main", body))], lang="en")
    return f"<!doctype html>\n{document}\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int] = ()) -> Markup:
    """Return a table; the first cell of a row is its heading, and a row whose heading is indented is a part.

    Args:
        header: The columns' titles; none for a table without a head.
        rows: Text or markup, one a column.
        numbers: The columns that hold numbers.
    """

    def cell(index: int, content: str, scope: str = "") -> Markup:
        given = {**({"scope": scope} if scope else {}), **({"class_": "number"} if index in numbers else {})}
        shown = typeset(content) if index in numbers and not isinstance(content, Markup) else content
        return element("th" if scope else "td", shown, **given)

    titles = [cell(i, title, "col") for i, title in enumerate(header)]
    head = [element("thead", element("tr", titles))] if header else []
    body = []
    for row in rows:
        cells = [cell(i, content, "" if i else "row") for i, content in enumerate(row)]
        body.append(element("tr", cells, class_="part") if row[0].startswith(" ") else element("tr", cells))
    return element("div", element("table", [*head, element("tbody", body)]), class_="scroll")


def typeset(text: str) -> str:
    r"""Return text whose numbers have true minus signs and are not torn from their standard errors at a line's end.

    Example:
        >>> typeset("IWAE-50 -1.5 ± 0.2")
        'IWAE-50\xa0−1.5\xa0±\xa00.2'
    """
    return re.sub(r"(?<=\S) -(?=\d)", "\u00a0−", re.sub(r"^-(?=\d)", "−", text)).replace(" ± ", "\u00a0±\u00a0")


def _pieces(line: str) -> list[Markup]:
    """Return a line in the pieces between which it had best be broken, each with its comma."""
    return [element("span", f"{typeset(piece)} ") for piece in re.split(r"(?<=[,;]) ", line)]


def code(text: str) -> Markup:
    """Return a block of code."""
    return element("pre", element("code", text))


def picture(shown: Picture) -> Markup:
    """Return a figure with its caption; the picture is inside the page, and stands on white in the dark too."""
    width, height = struct.unpack(">II", shown.png[16:24])  # a PNG file begins with its size
    data = "data:image/png;base64," + base64.b64encode(shown.png).decode()
    # 150 dots an inch on paper are 96 units an inch on a screen
    size = {"width": str(round(width * 0.64)), "height": str(round(height * 0.64))}
    image = element("img", src=data, alt=f"Figure: {shown.title}", **size)  # the caption says the rest
    caption = element("figcaption", [element("b", f"{shown.title}. "), shown.caption])
    content = [element("div", image, class_="card"), caption]
    wide = width > 1.6 * height or int(size["width"]) > 560  # no more than that fits into one of two columns
    return element("figure", content, class_="wide") if wide else element("figure", content)
