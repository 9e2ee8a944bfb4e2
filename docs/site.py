"""What the site needs beyond Markdown: the order of its pages, formulas as pictures, the API from the docstrings."""

from __future__ import annotations

import html
import importlib
import inspect
import io
import re
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib import mathtext, rc_context
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
_WIDTH = 80  # characters of a signature in one line
API = (
    *("lowerbound", "lowerbound.objectives", "lowerbound.evaluation", "lowerbound.models", "lowerbound.nn"),
    *("lowerbound.distributions", "lowerbound.mcmc", "lowerbound.data", "lowerbound.training", "lowerbound.report"),
    *("lowerbound.recipes", "lowerbound.runs", "lowerbound.scoring", "lowerbound.export", "lowerbound.tuning"),
    "lowerbound.sklearn",
)

# --- The pages and their order ----------------------------------------------------------------------------------------


def on_config(config: Any) -> Any:
    """Put the pages in order; every how-to page is taken as it is found."""

    def pages(folder: str, first: tuple[str, ...] = ()) -> list[str]:
        found = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs" / folder).glob("*.md"))
        ahead = [f"{folder}/{name}.md" for name in first if f"{folder}/{name}.md" in found]
        return [*ahead, *(path for path in found if path not in ahead)]

    config.nav = [
        {"Start": "index.md"},
        {"Tutorials": pages("tutorials", ("zhusuan", "notebook", "convolutional", "adversarial"))},
        {"How to": pages("how-to", ("your-own-table", "your-own-network", "your-own-posterior", "new-estimator"))},
        {"Reference": ["numbers.md", "maths.md", "gotchas.md", {"Coming from": "coming-from.md"}, "results.md"]},
        {"API": [f"api/{name}.md" for name in API]},
        {"Contribute": ["code-map.md", "changelog.md"]},
    ]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made: the API, the results with their figures, and the changelog."""
    for name in API:
        files.append(File.generated(config, f"api/{name}.md", content=_module_page(name)))
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "results.md", content=_outside(results)))
    for figure in sorted((ROOT / "benchmarks" / "figures").glob("*.png")):
        files.append(File.generated(config, f"figures/{figure.name}", abs_src_path=str(figure)))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "changelog.md", content=changes))
    return files


def _outside(text: str) -> str:
    """Leave links to files that are no pages as text."""
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!http|#)[^)]*\)", r"\1", text)


# --- Formulas ---------------------------------------------------------------------------------------------------------

_CODE = re.compile(r"(^```.*?^```|``[^`]+``|`[^`\n]+`)", re.DOTALL | re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put a word in the place of each ``$$...$$`` and ``$...$`` outside of code: Markdown would take pictures apart."""
    parts = _CODE.split(markdown)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"\$\$(.+?)\$\$", lambda m: f"\n\n{_place(m[1], 'div')}\n\n", parts[i], flags=re.DOTALL)
        parts[i] = re.sub(r"(?<![\\$\w])\$([^$\n]+?)\$(?![\w$])", lambda m: _place(m[1], "span"), parts[i])
    return "".join(parts)


def on_page_content(content: str, **_: Any) -> str:
    """Draw the formulas."""
    content = re.sub(r"<p>(formula\dx[0-9a-f]+x)</p>", r"\1", content)
    return re.sub(r"formula(\d)x([0-9a-f]+)x", lambda m: _formula(bytes.fromhex(m[2]).decode(), int(m[1])), content)


def _place(tex: str, kind: str) -> str:
    return f"formula{int(kind == 'div')}x{' '.join(tex.split()).encode().hex()}x"


def _formula(tex: str, block: int) -> str:
    """Return a formula as HTML: an SVG that needs no script and no network, with the source as its name."""
    try:
        picture = _svg(tex)
    except ValueError:  # what matplotlib cannot set
        picture = f"<code>{html.escape(tex)}</code>"
    kind = "div" if block else "span"
    return f'<{kind} class="formula" role="img" aria-label="{html.escape(tex)}">{picture}</{kind}>'


_WORDS = {
    r"\\[bB]ig[lr]?(?![a-zA-Z])": "",
    r"\\[lr]vert(?![a-zA-Z])": "|",
    r"\\[lr]Vert(?![a-zA-Z])": r"\\Vert ",
    r"\\;": r"\\ ",
    r"\\text\{": r"\\mathrm{",
    r"\\mathrel\{\+\}=": "+=",
    r"\\[td]frac": r"\\frac",
    r"\\le(?![a-zA-Z])": r"\\leq",
    r"\\ge(?![a-zA-Z])": r"\\geq",
    r"\\operatorname\{": r"\\mathrm{",
    r"\\frac\s*([0-9A-Za-z])\s*([0-9A-Za-z])": r"\\frac{\1}{\2}",
    r"\\(tilde|hat|bar|sqrt)\s+(\\[A-Za-z]+|[A-Za-z])": r"\\\1{\2}",
}


def _plain(tex: str) -> str:
    """Return a formula in the words that matplotlib knows."""
    for old, new in _WORDS.items():
        tex = re.sub(old, new, tex)
    return tex


@cache
def _svg(tex: str) -> str:
    tex = _plain(tex)
    buffer = io.BytesIO()
    with rc_context({"mathtext.fontset": "cm", "svg.hashsalt": "lowerbound", "font.size": 12}):
        depth = mathtext.math_to_image(f"${tex}$", buffer, format="svg", dpi=72)
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="patch_1">.*?</g>', "", text, flags=re.DOTALL)
    return " ".join(text.replace("<svg", f'<svg style="vertical-align: {-depth:.2f}pt" aria-hidden="true"', 1).split())


# --- The API ----------------------------------------------------------------------------------------------------------


def _module_page(name: str) -> str:
    """Return the page of a module: what it says of itself, and its public names."""
    module = importlib.import_module(name)
    parts = [f"# {name}", _markdown(module.__doc__ or "")]
    for public in module.__all__:
        member = getattr(module, public)
        if inspect.ismodule(member):
            parts.append(
                f"## {public}\n\nA module: [{member.__name__}]({member.__name__}.md)." if member.__name__ in API else ""
            )
        elif inspect.isclass(member):
            parts += [f"## {public}", _signature(public, member), _markdown(inspect.getdoc(member) or "")]
            parts += _methods(member)
        elif callable(member):
            parts += [f"## {public}", _signature(public, member), _markdown(inspect.getdoc(member) or "")]
        else:
            kind = type(member).__name__
            shown = f" with the keys {', '.join(f'`{key}`' for key in member)}" if isinstance(member, dict) else ""
            parts.append(f"## {public}\n\nA `{kind}`{shown}.")
    return "\n\n".join(part for part in parts if part)


def _methods(kind: type) -> list[str]:
    parts = []
    for name, member in vars(kind).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if name.startswith("_") or not inspect.isroutine(function) or not function.__doc__:
            continue
        title = f"### {kind.__name__}.{name}"
        shown = "" if isinstance(member, property) else _signature(name, function)
        parts += [title, shown, _markdown(inspect.getdoc(function) or "")]
    return parts


def _signature(name: str, member: Any) -> str:
    try:
        signature = inspect.signature(member)
    except (ValueError, TypeError):
        return ""
    values = [p.replace(annotation=p.empty) for p in signature.parameters.values() if p.name not in ("self", "cls")]
    plain = str(signature.replace(parameters=values, return_annotation=signature.empty))
    short = re.sub(r"<(?:class '|function )([\w.]+)[^>]*>", lambda m: m[1].rpartition(".")[2], plain)
    if len(name + short) > _WIDTH:
        inner = re.split(r", (?=\*|/|[a-z_]+(?:[=,)]|$))", short[1:-1])
        short = "(\n" + "".join(f"    {part},\n" for part in inner) + ")"
    return f"```python\n{name}{short}\n```"


_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Example|Source|Reference|Yields):(.*)$")


def _markdown(doc: str) -> str:
    """Return a docstring as Markdown."""
    lines, out = inspect.cleandoc(doc).splitlines(), []
    i = 0
    while i < len(lines):
        line = lines[i]
        if line.lstrip().startswith(".. math::"):
            first = line.split(".. math::", 1)[1].strip()
            body, indent = [first] if first else [], len(line) - len(line.lstrip())
            i += 1
            while i < len(lines) and (not lines[i].strip() or len(lines[i]) - len(lines[i].lstrip()) > indent):
                body.append(lines[i].strip())
                i += 1
            out.append(f"\n$$ {' '.join(part for part in body if part)} $$\n")
            continue
        if found := _SECTION.match(line):
            body = []
            i += 1
            while i < len(lines) and (not lines[i].strip() or lines[i].startswith(" ")):
                body.append(lines[i])
                i += 1
            out.append(_section(found[1], found[2].strip(), inspect.cleandoc("\n" + "\n".join(body)) if body else ""))
            continue
        out.append(line)
        i += 1
    return _roles("\n".join(out))


def _section(title: str, rest: str, body: str) -> str:
    if title in ("Example", "Source", "Reference"):
        if title == "Example":
            return f"\n**Example**\n\n```pycon\n{body}\n```\n"
        return f"\n**Source**: {rest} {' '.join(body.split())}\n"
    if title in ("Returns", "Yields"):
        return f"\n**{title}**: {rest} {' '.join(body.split())}\n"
    items = re.sub(r"\n +", " ", body).splitlines()
    listed = [re.sub(r"^(\*{0,2}[\w.]+):", r"`\1`:", item, count=1) for item in items if item.strip()]
    return f"\n**{title}**\n\n" + "\n".join(f"- {item}" for item in listed) + "\n"


def _roles(text: str) -> str:
    """Turn the roles of reStructuredText into Markdown, outside of code."""
    parts = re.split(r"(^```.*?^```)", text, flags=re.DOTALL | re.MULTILINE)
    for i in range(0, len(parts), 2):
        part = re.sub(r":math:`([^`]+)`", r"$\1$", parts[i])
        parts[i] = re.sub(r"``([^`]+)``", r"`\1`", part)
    return "".join(parts)
