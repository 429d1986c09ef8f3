# SPDX-License-Identifier: GPL-3.0-or-later
"""The add-on in the language that Blender is set to: one PO file here for each language.

What Blender draws by itself (labels, tooltips, names of operators and enum items) it looks up in the tables registered
here. What the add-on says with values in it goes through :func:`tr` where it is shown.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import bpy

from .phrasebook import Phrasebook, read_po

_FOLDER = Path(__file__).parent
_OPERATOR = "Operator"  # the context in which Blender looks up the names of operators and what is on their buttons
_registered: list[bool] = []


def languages() -> tuple[str, ...]:
    """Blender's codes of the languages that there are, besides English."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.po")))


@cache
def _entries(language: str) -> dict[tuple[str, str], str]:
    path = _FOLDER / f"{language}.po"
    return read_po(path.read_text(encoding="utf-8")) if path.is_file() else {}


@cache
def phrasebook(language: str) -> Phrasebook | None:
    """None for English and languages that are not there."""
    phrases = {text: said for (context, text), said in _entries(language).items() if context == "*"}
    return Phrasebook(phrases) if phrases else None


def tables() -> dict[str, dict[tuple[str, str], str]]:
    """As Blender takes them: language, then (context, English). Templates are of no use to it."""
    made = {}
    for language in languages():
        entries = {key: said for key, said in _entries(language).items() if "{}" not in key[1]}
        names = {(_OPERATOR, text): said for (context, text), said in entries.items() if context == "*"}
        made[language] = {**names, **entries}
    return made


def tr(text: str) -> str:
    """``text`` in the interface's language. For what is drawn or reported; cheap enough for every redraw."""
    view = bpy.context.preferences.view
    if not (view.use_translate_interface or view.use_translate_reports):
        return text
    book = phrasebook(bpy.app.translations.locale or "en_US")
    return book(text) if book is not None else text


def register() -> None:
    bpy.app.translations.register(__package__, tables())
    _registered.append(True)


def unregister() -> None:
    while _registered:
        _registered.pop()
        bpy.app.translations.unregister(__package__)
