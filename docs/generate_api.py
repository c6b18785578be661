"""Writes docs/api.md from the signatures and docstrings of the public names: `python docs/generate_api.py`."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

PAGE = Path(__file__).with_name("api.md")
HEAD = """\
# API reference

Every public name, generated from its docstring by `make api`. The names of the first part are imported from
`nnsparse_stream`, the transforms from `nnsparse_stream.transforms`; what else lies in the modules may change.
[Data layout](data-layout.md) describes the files, `nnsparse-stream COMMAND --help` the commands.
"""
#: Sections of a docstring that list names; the others hold prose.
LISTS = ("Args", "Attributes", "Raises")
TITLES = {"Args": "Arguments"}
WIDTH = 100


def reference() -> str:
    """The page, as Markdown."""
    library, transforms = (importlib.import_module(f"nnsparse_stream{name}") for name in ("", ".transforms"))
    rooms: dict[str, list[Any]] = {}
    for value in _public(library):
        rooms.setdefault(value.__module__.split(".")[1], []).append(value)
    chapters = [(importlib.import_module(f"nnsparse_stream.{room}"), rooms[room]) for room in sorted(rooms)]
    chapters.append((transforms, _public(transforms)))
    contents = [
        f"- `{module.__name__}`: {', '.join(f'[{value.__name__}](#{_anchor(value)})' for value in values)}"
        for module, values in chapters
    ]
    parts = [HEAD.rstrip(), "\n".join(contents)]
    for module, values in chapters:
        parts += [f"## `{module.__name__}`", (inspect.getdoc(module) or "").split("\n\n")[0]]
        parts += [part for value in values for part in _entry(value) if part]
    return "\n\n".join(parts) + "\n"


def _public(package: ModuleType) -> list[Any]:
    return [getattr(package, name) for name in package.__all__]


def _anchor(value: Any) -> str:
    # A class and a function may differ in case alone (Densify, densify), but anchors may not.
    return f"{value.__name__}-{'class' if inspect.isclass(value) else 'function'}".lower()


def _entry(value: Any) -> Iterator[str]:
    yield f'<a id="{_anchor(value)}"></a>\n\n### {value.__name__}'
    if not inspect.isclass(value):
        yield from _signed(value.__name__, value)
        return
    own = [base for base in value.__mro__ if base.__module__.startswith("nnsparse_stream")]
    maker = next((vars(base)["__init__"] for base in own if "__init__" in vars(base)), None)
    yield _code(f"class {_signature(value.__name__, value) if maker else value.__name__}")
    yield from _markdown(inspect.getdoc(value))
    if maker is not None and not hasattr(value, "__dataclass_fields__"):
        yield from _markdown(maker.__doc__ and inspect.cleandoc(maker.__doc__))
    for base in own[1:]:
        if not base.__name__.startswith("_"):
            yield f"*Base `{base.__name__}`:* {next(_markdown(inspect.getdoc(base)))}"
            yield from list(_markdown(inspect.getdoc(base)))[1:]
    for name, member in _members(value, own).items():
        if isinstance(member, property):
            yield _code(f"{value.__name__}.{name}: {inspect.signature(member.fget).return_annotation}")
            yield from _markdown(inspect.getdoc(member))
        else:
            yield from _signed(f"{value.__name__}.{name}", getattr(value, name), skip_self=inspect.isfunction(member))


def _members(value: type, own: list[type]) -> dict[str, Any]:
    """Public methods and properties, but those that only fill in what a foreign base (torch's, Beam's) calls."""
    found: dict[str, Any] = {}
    foreign = [base for base in value.__mro__ if base not in own]
    for base in own:
        for name, member in vars(base).items():
            described = isinstance(member, property | staticmethod | classmethod) or inspect.isfunction(member)
            filled_in = name != "forward" and any(name in vars(other) for other in foreign)
            if described and not name.startswith("_") and not filled_in:
                found.setdefault(name, member)
    return found


def _signed(name: str, function: Any, skip_self: bool = False) -> Iterator[str]:
    yield _code(_signature(name, function, skip_self))
    yield from _markdown(inspect.getdoc(function))


def _signature(name: str, function: Any, skip_self: bool = False) -> str:
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[1 if skip_self else 0 :]
    parts, star = [], False
    for parameter in parameters:
        star = star or parameter.kind is parameter.VAR_POSITIONAL
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            parts.append("*")
            star = True
        prefix = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        annotation = "" if parameter.annotation is parameter.empty else f": {parameter.annotation}"
        default = "" if parameter.default is parameter.empty else f" = {_default(parameter.default)}"
        parts.append(f"{prefix}{parameter.name}{annotation}{default}")
    returns = signature.return_annotation
    end = f") -> {returns}" if returns not in (signature.empty, "None", None) else ")"
    line = f"{name}({', '.join(parts)}{end}"
    return line if len(line) <= WIDTH else f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + end


def _default(value: Any) -> str:
    return value.__name__ if inspect.isroutine(value) else "..." if "<factory>" in repr(value) else repr(value)


def _code(text: str) -> str:
    return f"```text\n{text}\n```"


def _markdown(docstring: str | None) -> Iterator[str]:
    """The paragraphs of a docstring of Google's style, its lists of names as lists."""
    section = None
    for paragraph in (docstring or "").split("\n\n"):
        first, _, rest = paragraph.partition("\n")
        if re.fullmatch(r"[A-Z][a-z]+:", first):
            section, paragraph = first[:-1], inspect.cleandoc(rest)
            yield f"**{TITLES.get(section, section)}**"
        elif not paragraph.startswith("    "):
            section = None
        paragraph = re.sub(r"<(?=\w)(?![^`\n]*`)", "&lt;", paragraph)  # no HTML
        if section in LISTS:
            items = re.sub(r"\n\s+", " ", inspect.cleandoc(paragraph)).split("\n")
            yield "\n".join(re.sub(r"^([\w.*, ]+): ", _item, item) for item in items)
        else:
            yield inspect.cleandoc(paragraph)


def _item(match: re.Match[str]) -> str:
    return f"- {', '.join(f'`{name}`' for name in match[1].split(', '))}: "


if __name__ == "__main__":
    PAGE.write_text(reference())
