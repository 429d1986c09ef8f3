# SPDX-License-Identifier: GPL-3.0-or-later
"""From a finished English text to another language: the text is recognised by the template that it was made from.

Texts come to the panels from threads, from exceptions and from the library, which know nothing of Blender, and the same
texts go to logs and to consoles. So all of them are made in English, with f-strings, and translated where they are
shown. A phrase of a table is a text, or a template with ``{}`` for each value: ``"{} of {} done"``. Its translation
takes the values as ``{0}``, ``{1}`` or just ``{}``; ``{0:t}`` is translated itself, for values that are words and not
names. Imports no Blender.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

# A text that was put together from phrases is taken apart again, at the coarsest of these that it has.
_JOINTS = ("; ", ". ", ", ", ": ")
_DEPTH = 5
_REMEMBERED = 512


class _Value(str):
    """A value of a template; the format ``t`` translates it."""

    book: Phrasebook
    depth: int

    def __format__(self, form: str) -> str:
        return self.book.translate(self, self.depth) if form == "t" else format(str(self), form)


class Phrasebook:
    """``phrases``: English to translation. Calls are cheap for what was asked before."""

    def __init__(self, phrases: Mapping[str, str]) -> None:
        self._exact = {text: said for text, said in phrases.items() if "{}" not in text}
        templates = [(text.split("{}"), said) for text, said in phrases.items() if "{}" in text]
        # What says most in its own words comes first.
        templates.sort(key=lambda item: -sum(map(len, item[0])))
        self._templates = [
            (max(parts, key=len), re.compile("(.*?)".join(map(re.escape, parts)), re.DOTALL), said)
            for parts, said in templates
        ]
        self.cached = lru_cache(maxsize=_REMEMBERED)(self.translate)

    def __call__(self, text: str) -> str:
        return self.cached(str(text)) if text else ""

    def translate(self, text: str, depth: int = _DEPTH) -> str:
        """``text`` itself where no phrase fits; where only parts are known, those."""
        if (said := self._whole(text, depth)) is not None:
            return said
        for joint in _JOINTS if depth > 0 else ():
            if joint in text:
                return joint.join(self.translate(part, depth - 1) for part in text.split(joint))
        return text

    def _whole(self, text: str, depth: int) -> str | None:
        """The translation of all of ``text``; None where it has a part that is not known."""
        if (said := self._exact.get(text)) is not None:
            return said
        if depth <= 0:
            return None
        # Several phrases in a row, before a template takes one of them for a value. (Not at colons: names follow them.)
        if (said := self._row(text, _JOINTS[:-1], depth)) is not None:
            return said
        for longest, pattern, said in self._templates:
            if longest in text and (found := pattern.fullmatch(text)):
                return said.format(*(self._value(value, depth - 1) for value in found.groups()))
        # Blanks and punctuation around a part that goes into a longer text, such as ", 3 in its queue".
        bare = text.strip(" ,;:.()")
        if bare and bare != text and (said := self._whole(bare, depth - 1)) is not None:
            start = text.index(bare)
            return text[:start] + said + text[start + len(bare) :]
        return self._row(text, _JOINTS[-1:], depth)

    def _row(self, text: str, joints: tuple[str, ...], depth: int) -> str | None:
        """Phrases with one of ``joints`` between them."""
        for joint in joints:
            if joint in text:
                parts = [self._whole(part, depth - 1) for part in text.split(joint)]
                if None not in parts:
                    return joint.join(part or "" for part in parts)
        return None

    def _value(self, text: str, depth: int) -> _Value:
        value = _Value(text)
        value.book, value.depth = self, depth
        return value


def read_po(text: str) -> dict[tuple[str, str], str]:
    """(context, English) to translation, of a PO file as gettext and its editors write it; without what is empty."""
    entries: dict[tuple[str, str], str] = {}
    fields: dict[str, str] = {}
    field = ""

    def take() -> None:
        if fields.get("msgid") and fields.get("msgstr") and "fuzzy" not in fields.get("#,", ""):
            entries[fields.get("msgctxt", "*"), fields["msgid"]] = fields["msgstr"]
        fields.clear()

    for line in [*text.splitlines(), ""]:
        line = line.strip()
        if not line:
            take()
        elif line.startswith("#,"):
            fields["#,"] = line
        elif line.startswith("#"):
            continue
        else:
            name, _, rest = line.partition(" ")
            if name in ("msgctxt", "msgid", "msgstr"):
                if (name == "msgid" and "msgstr" in fields) or (name == "msgctxt" and "msgid" in fields):
                    take()  # no blank line between two entries
                field, line = name, rest.strip()
            fields[field] = fields.get(field, "") + _unquoted(line)
    return entries


def _unquoted(text: str) -> str:
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        raise ValueError(f"not a quoted text of a PO file: {text}")
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "t": "\t"}.get(found[1], found[1]), text[1:-1])
