# SPDX-License-Identifier: GPL-3.0-or-later
"""The add-on in German: nothing is missing, nothing is left over, values come through, and Blender takes the tables."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

bpy = pytest.importorskip("bpy")

import blender_addon  # noqa: E402
from blender_addon import translations  # noqa: E402
from blender_addon.registration import _CLASSES  # noqa: E402
from blender_addon.translations.phrasebook import Phrasebook, read_po  # noqa: E402

from .phrases import modules, phrases  # noqa: E402

LANGUAGES = translations.languages()


@pytest.fixture
def registered():
    blender_addon.register()
    yield
    blender_addon.unregister()


def messages(language: str) -> dict[str, str]:
    return {text: said for (context, text), said in translations._entries(language).items() if context == "*"}


def shown_by_blender() -> dict[str, str]:
    """Label, description and enum items of everything that is registered: the text, and where it is."""
    found: dict[str, str] = {}
    for cls in _CLASSES:
        found.setdefault(getattr(cls, "bl_label", ""), cls.__name__)
        found.setdefault(getattr(cls, "bl_description", "") or "", cls.__name__)
        rna = cls.bl_rna
        if issubclass(cls, bpy.types.Operator):
            rna = getattr(bpy.ops.hvg3d, cls.bl_idname.partition(".")[2]).get_rna_type()
        for prop in rna.properties:
            inherited = rna.base is not None and prop.identifier in rna.base.properties
            if inherited or (prop.is_hidden and not prop.description):
                continue
            where = f"{cls.__name__}.{prop.identifier}"
            found.setdefault(prop.description, where)
            if prop.name != prop.identifier:
                found.setdefault(prop.name, where)
            for item in getattr(prop, "enum_items_static", ()):
                found.setdefault(item.name, f"{where}.{item.identifier}")
                found.setdefault(item.description, f"{where}.{item.identifier}")
    found.pop("", None)
    return found


def test_german_is_there():
    assert "de_DE" in LANGUAGES


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_of_the_sources_is_translated(language):
    """Labels, tooltips, reports, poll messages, the checklist, errors: read off the sources (phrases.py)."""
    known = messages(language)
    missing = [f"{phrase.where}: {phrase.text}" for phrase in phrases() if phrase.text not in known]
    assert not missing, f"{len(missing)} without a translation:\n" + "\n".join(missing)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_that_blender_draws_is_translated(language, registered):
    """The other way round: what Blender itself has been told. Templates fit, where names were made from values."""
    book = translations.phrasebook(language)
    exact = messages(language)
    texts = shown_by_blender()
    assert len(texts) > 300
    missing = [
        f"{where}: {text}"
        for text, where in texts.items()
        if not text.isupper() and book(text) == text and text not in exact
    ]
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_translation_is_left_over(language):
    left = set(messages(language)) - {phrase.text for phrase in phrases()}
    assert not left


@pytest.mark.parametrize("language", LANGUAGES)
def test_values_come_through(language):
    """Each translation can be filled in, and loses no value but an ending of a plural."""
    for text, said in messages(language).items():
        count = text.count("{}")
        values = [f"<{number}>" for number in range(count)]
        filled = Phrasebook({text: said})(text.format(*values))
        lost = [value for value in values if value not in filled]
        plural = {f"<{n}>" for n in range(count) if re.search(r"[a-z]\{\}", text)}
        assert set(lost) <= plural, f"{text!r}: {lost} is lost in {filled!r}"
        assert "{" not in filled
        assert text.startswith(" ") == said.startswith(" ")
        assert text.endswith(":") == said.endswith(":"), text


def test_a_text_is_recognised_by_its_template():
    book = translations.phrasebook("de_DE")
    assert book("Nothing is marked") == "Nichts ist markiert"
    assert book("2 hands and 1 object marked") == "2 Hände und 1 Objekt markiert"
    assert book("Camera: Object") == "Kamera: Object"  # a name stays a name
    assert book("50 frames: 49 or 57 can be used") == "50 Frames: 49 oder 57 sind möglich"
    assert book("Reading the scene, frame 3 of 49") == "Szene wird gelesen, Frame 3 von 49"
    assert book("Connected to http://127.0.0.1:8765, 3 in its queue").endswith(", 3 in seiner Warteschlange")
    assert book("bones of 5 fingers, of both hands: one mark for the two") == (
        "Knochen von 5 Fingern, von beiden Händen: eine Markierung für beide"
    )
    assert book("Generating, 3 min 20 s left") == "Video wird erzeugt, noch 3 min 20 s"
    assert book("What the server says; that nobody knows") == "What the server says; that nobody knows"
    assert book("") == ""


def test_errors_of_the_real_code_arrive_in_german(registered, tmp_path):
    """Not texts of this test: what the add-on's own parts say."""
    from blender_addon.client.check import check_server
    from blender_addon.client.http import Address
    from blender_addon.server_care.text import Unusable, tidy_address
    from blender_addon.shot import checklist

    book = translations.phrasebook("de_DE")
    bpy.ops.wm.read_homefile(use_factory_startup=True)
    for check in checklist(bpy.context.scene):
        if check.text:
            assert book(check.text) != check.text, check.text
    status = check_server(Address(home=str(tmp_path)))
    assert "läuft nicht" in book(status.message)
    assert str(tmp_path) in book(status.message)
    assert "starten" in book(status.remedy)
    with pytest.raises(Unusable) as caught:
        tidy_address("ftp://somewhere")
    assert (
        book(str(caught.value))
        == "ftp://somewhere: ftp:// führt nicht zu einem Server: als http://127.0.0.1:8765 schreiben"
    )


def test_a_po_file_is_read_as_its_editors_write_it():
    text = """
msgid ""
msgstr "Language: xx\\n"

#: somewhere.py
#, fuzzy
msgid "Guess"
msgstr "wrong"

msgctxt "Operator"
msgid "Show"
msgstr "Zeigen"
msgid "two "
"lines"
msgstr ""
"zwei \\"Zeilen\\"\\n"
"und \\\\ mehr"

msgid "not yet"
msgstr ""
"""
    assert read_po(text) == {("Operator", "Show"): "Zeigen", ("*", "two lines"): 'zwei "Zeilen"\nund \\ mehr'}
    with pytest.raises(ValueError, match="not a quoted text"):
        read_po("msgid nothing\n")


def test_operators_are_translated_in_their_own_context(registered):
    table = translations.tables()["de_DE"]
    for cls in _CLASSES:
        if issubclass(cls, bpy.types.Operator):
            assert ("Operator", cls.bl_label) in table, cls.__name__


def _untranslated(tree: ast.AST) -> Iterator[int]:
    """Lines where something with values in it is shown as it is. What is constant Blender looks up by itself."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        shown: list[ast.expr] = []
        if called == "report" and len(call.args) == 2:
            shown = [node for node in call.args[1:] if not isinstance(node, ast.Constant)]
        elif called in ("poll_message_set", "status_text_set"):  # Blender shows these two as they are
            shown = [node for node in call.args if not (isinstance(node, ast.Constant) and node.value is None)]
        elif called in ("label", "progress", "operator", "menu") and "translate" not in given:
            shown = [node for name, node in given.items() if name == "text"]
            shown = [node for node in shown if isinstance(node, (ast.JoinedStr, ast.BinOp))]
        elif called in ("invoke_confirm", "invoke_props_dialog"):
            shown = [node for name, node in given.items() if name in ("title", "message")]
        for node in shown:
            if not any(isinstance(part, ast.Call) and getattr(part.func, "id", "") == "tr" for part in ast.walk(node)):
                yield node.lineno


def test_what_is_shown_with_values_goes_through_the_translation():
    """Reports, refusals, dialogues, labels that are put together. Two kinds of text stay: a log's lines, numbers."""
    assert list(_untranslated(ast.parse('self.report({"INFO"}, f"{a} b")'))) == [1]
    assert list(_untranslated(ast.parse('layout.label(text=f"{a} b")\nlayout.label(text="b")'))) == [1]
    assert not list(_untranslated(ast.parse('cls.poll_message_set(tr("No"))')))
    kept = {"ops/server_care.py": 1, "ui/server.py": 1}
    faults = []
    for name, path, _ in modules():
        if name.startswith(("ops/", "ui/")):
            lines = list(_untranslated(ast.parse(path.read_text(encoding="utf-8"))))
            if len(lines) != kept.get(name, 0):
                faults += [f"{name}:{line}" for line in lines]
    assert not faults
