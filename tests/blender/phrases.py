# SPDX-License-Identifier: GPL-3.0-or-later
"""Every text of the add-on that a user may come to see, read off its sources and off what it registers with Blender.

An f-string is told as a template with ``{}`` for each field, which is how translations name it. As a script it prints
those that a language lacks: ``python -m tests.blender.phrases [de_DE]``.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ADDON = ROOT / "blender_addon"
# Of these only the errors that they raise come to the panels; the rest is for data sets, consoles and report pages.
_ERRORS_ONLY = ("demo", "batch/report.py", "batch/files.py", "batch/state.py", "batch/stamp.py", "batch/talk.py")
# What is wrong with a clip's file, or with a call of the library, is for whoever made it; Blender makes neither.
_OF_LIBRARY = ("builder.py", "frames.py")
_LEFT_OUT = (
    *("build_extension.py", "repository.py", "headless.py", "cli.py", "translations", "batch/__main__.py"),
    *("batch/child.py", "batch/options.py", "batch/blender.py", "demo/generate.py", "demo/randomise.py"),
)
_VISIBLE = {
    "text",
    "heading",
    "placeholder",
    "title",
    "message",
    "confirm_text",
    "remedy",
    "hint",
    "name",
    "description",
}
_VISIBLE |= {"bl_label", "bl_description", "phase", "reason"}
_SHOWN_BY = {"Fix", "Check", "report", "poll_message_set", "label", "draw_text", "status_text_set", "_step", "_pip"}
_SHOWN_BY |= {"ServerStatus", "InstallState", "TaskState", "say", "_refuse", "_Known", "draw_label", "_list", "Button"}
_HIDDEN_CALLS = {"getLogger", "compile", "setdefault", "add_argument", "Thread", "import_module", "match", "search"}
_HIDDEN_CALLS |= {
    "register_class",
    "run_module",
    "get",
    "setattr",
    "hasattr",
    "getattr",
    "split",
    "replace",
    "startswith",
}
_SENTENCE = re.compile(r"[A-Za-z]{2,}.* .*[A-Za-z]{2,}|^[A-Z][a-z]{2,}")


# Words that are put into other texts one by one, and so are no phrase of their own in the sources.
_WORDS = (
    *("hand", "object", "left hand", "right hand", "other", "thumb", "index", "middle", "ring", "little"),
    *("animated", "unknown", "1 hand", "1 object"),
)
# What looks like a text and is seen by nobody: code, patterns of error messages, names of data-blocks and inside files.
_NO_TEXT = tuple(
    map(
        re.compile,
        (
            r"\n",
            r"\\[sbSdw.]|\|.*\||\(\.[*+]|\.\*|\[\^|\w\|\w|Errno|SSLError|DO NOT MATCH",
            r"^(?:--|# |HVG3D_|Scripts/|Lib/|Bearer|else:|import )",
            r"^(?:utf-8|AppData|Local|Library|Application Support|Programs|SyntaxError|live preview)$",
            r"^(?:Workbench|Screen|pip>=25\.1|hvg3d extension for Blender|Held by \{\})$",
            r"^(?:HVG-3D (?:Skin|Sleeve|reference)|HVG-3D \{\} first picture)$",
            r"^(?:two hands|\{\}, close-up, natural light|quality = .*|body and shot must be objects|none at all)$",
            r"^(?:Python3\{\}|managed installation of the HVG-3D server|(?:out|retries) = \{\}|\{\} Hand)$",
            r"^(?:Real|Original|Compare \{\}|\{\} \(original\)|(?:Real at|Sound of) .*)$",
        ),
    )
)


@dataclass(frozen=True, order=True)
class Phrase:
    text: str
    where: str


def modules() -> Iterator[tuple[str, Path, bool]]:
    """Name, path, and whether only what it raises is seen."""
    for path in sorted(ADDON.rglob("*.py")):
        name = path.relative_to(ADDON).as_posix()
        if not name.startswith(_LEFT_OUT) and "__pycache__" not in name and "hvg3d_core" not in name:
            yield name, path, name.startswith(_ERRORS_ONLY)
    for name in _OF_LIBRARY:
        yield f"conditions/{name}", ROOT / "hvg3d_core" / "conditions" / name, True


def template(node: ast.AST) -> str | None:
    """The text of an expression, with {} where values go; None for what is no text."""
    if isinstance(node, ast.Constant):
        return re.sub(r"\{\d*\}", "{}", node.value) if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        parts = [template(part) if isinstance(part, ast.Constant) else "{}" for part in node.values]
        return "".join(part or "" for part in parts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [template(node.left), template(node.right)]
        if sides == [None, None]:
            return None
        return "".join("{}" if side is None else side for side in sides)
    return None


class _Reader(ast.NodeVisitor):
    def __init__(self, name: str, errors_only: bool) -> None:
        self.name, self.errors_only = name, errors_only
        self.found: list[tuple[Phrase, bool]] = []
        self._visible = False
        self._hidden = False
        self._raising = False

    def _in(self, node: ast.AST | None, *, visible: bool | None = None, hidden: bool | None = None) -> None:
        if node is None:
            return
        before = self._visible, self._hidden
        self._visible = self._visible if visible is None else visible
        self._hidden = self._hidden if hidden is None else hidden
        self.visit(node)
        self._visible, self._hidden = before

    def _body(self, node) -> None:
        docstring = ast.get_docstring(node, clean=False) is not None
        for child in node.body[1 if docstring else 0 :]:
            self.visit(child)

    def visit_Module(self, node) -> None:
        self._body(node)

    def visit_ClassDef(self, node) -> None:
        self._body(node)

    def visit_FunctionDef(self, node) -> None:
        for default in (*node.args.defaults, *node.args.kw_defaults):
            self._in(default)
        self._body(node)

    def visit_AnnAssign(self, node) -> None:
        if isinstance(node.annotation, ast.Call):
            self._in(node.annotation)
        name = node.target.id if isinstance(node.target, ast.Name) else ""
        self._in(node.value, visible=name in _VISIBLE)

    def visit_Expr(self, node) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring of an attribute
            self.visit(node.value)

    def visit_Assign(self, node) -> None:
        names = {target.id for target in node.targets if isinstance(target, ast.Name)}
        names |= {target.attr for target in node.targets if isinstance(target, ast.Attribute)}
        hidden = bool(names & {"bl_idname", "__all__", "bl_options", "bl_parent_id", "bl_category"})
        self._in(node.value, visible=bool(names & _VISIBLE) or None, hidden=hidden or None)

    def visit_Raise(self, node) -> None:
        before, self._raising = self._raising, True
        self._in(node.exc, visible=True)
        self._raising = before

    def visit_Dict(self, node) -> None:
        for key in node.keys:
            self._in(key, hidden=True)
        for value in node.values:
            self._in(value)

    def visit_Subscript(self, node) -> None:
        self._in(node.value)
        self._in(node.slice, hidden=True)

    def visit_Compare(self, node) -> None:
        for part in (node.left, *node.comparators):
            self._in(part, hidden=True)

    def visit_Call(self, node) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        error = called.endswith("Error") or called in ("Unusable", "Unreachable", "Missing", "Unauthorized", "Busy")
        shown = called in _SHOWN_BY or error
        before, self._raising = self._raising, self._raising or error
        self._in(node.func)
        for argument in node.args:
            self._in(argument, visible=shown or None, hidden=called in _HIDDEN_CALLS or None)
        for keyword in node.keywords:
            own = keyword.arg in _VISIBLE and called not in _HIDDEN_CALLS
            kept = keyword.arg in ("icon", "options", "subtype", "unit", "default", "encoding", "code")
            hidden = kept or called in _HIDDEN_CALLS
            self._in(keyword.value, visible=own or None, hidden=hidden or None)
        self._raising = before

    def visit_BinOp(self, node) -> None:
        text = template(node)
        if text is None:
            self.generic_visit(node)
            return
        self._take(text, node)
        for part in (node.left, node.right):
            for value in ast.walk(part):
                if isinstance(value, ast.FormattedValue):
                    self._in(value.value, visible=False)
            if template(part) is None:
                self._in(part)

    def visit_JoinedStr(self, node) -> None:
        self._take(template(node) or "", node)
        for value in node.values:
            if isinstance(value, ast.FormattedValue):
                self._in(value.value, visible=False)

    def visit_Constant(self, node) -> None:
        if isinstance(node.value, str):
            self._take(template(node) or "", node)

    def _take(self, text: str, node: ast.AST) -> None:
        if self._hidden or (self.errors_only and not self._raising):
            return
        text = text.strip().lstrip(",;:. ")
        if any(pattern.search(text) for pattern in _NO_TEXT):
            return
        words = re.sub(r"\{\}", "", text)
        seen = self._visible and re.search(r"[A-Za-z]{2,}", words) and not re.fullmatch(r"[A-Z_0-9]+|[a-z_0-9.]+", text)
        made = (
            isinstance(node, ast.JoinedStr) and re.search(r"(?:^|[ ,])[A-Za-z]{3,}(?=$|[ ,:])", words) and " " in text
        )
        if seen or made or _SENTENCE.search(words):
            self.found.append((Phrase(text, f"{self.name}:{node.lineno}"), bool(seen)))


def phrases() -> list[Phrase]:
    """Of the sources, each text once, in order."""
    found = {word: Phrase(word, "words") for word in _WORDS}
    for name, path, errors_only in modules():
        reader = _Reader(name, errors_only)
        reader.visit(ast.parse(path.read_text(encoding="utf-8")))
        for phrase, _ in reader.found:
            found.setdefault(phrase.text, phrase)
    return list(found.values())


if __name__ == "__main__":
    for phrase in phrases():
        print(f"{phrase.where}\t{phrase.text}")
    sys.exit(0)
