"""Docstrings as reST: they are plain text with code in backticks; parameters have comments."""

import inspect
import re
from functools import cache

from build import public_modules, public_names, source_of
from fastcore.docments import docments

SPECIAL = re.compile(r"([\\*_|<>])")  # what reST would read as markup


@cache
def addresses() -> dict[str, str]:
    "Full name of each public name; none stands in the package twice."
    found = {}
    for module in public_modules():
        found |= {name: f"{module}.{name}" for name in public_names(source_of(module))}
    return found


def code(text: str) -> str:
    "What stands between backticks: a link where it names something public, else a literal."
    name = text.partition("(")[0]
    if name in addresses():
        return f":py:obj:`{text} <{addresses()[name]}>`"
    return f"``{text}``"


def as_rest(text: str) -> str:
    "Plain text with code in backticks as reST."
    parts = re.split(r"`([^`]+)`", text)
    shown = [code(p) if i % 2 else SPECIAL.sub(r"\\\1", p) for i, p in enumerate(parts)]
    # reST wants a blank or a sign behind markup: a letter there needs an escaped blank
    joined = "".join(
        s + ("\\ " if i % 2 and i + 1 < len(parts) and re.match(r"\w", parts[i + 1]) else "")
        for i, s in enumerate(shown)
    )
    return joined


def parameter_fields(obj: object) -> list[str]:
    "What the comments beside parameters say, as fields of reST."
    try:
        found = docments(obj, full=True)
    except Exception:  # built in, or without a source
        return []
    lines = []
    for name, about in found.items():
        said = about.get("docment")
        if said:
            said = " ".join(said.split())
            lines.append(f":{'returns' if name == 'return' else f'param {name}'}: {as_rest(said)}")
    return lines


def process(app, what, name, obj, options, lines):
    "Sphinx's hook: the lines of a docstring, changed in place."
    said = "" if what == "data" else "\n".join(lines)  # a dict's own docstring is no news
    lines[:] = as_rest(said).split("\n")
    if what in ("function", "method", "class"):
        lines += ["", *parameter_fields(obj), ""]


def skip(app, what, name, obj, skipped, options):
    "Sphinx's hook: fields of a class stand among its parameters, not once more below."
    if what == "class" and not (inspect.isroutine(obj) or isinstance(obj, property)):
        return True
    return None


def add_hooks(app) -> None:
    "Tell Sphinx."
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-skip-member", skip)
