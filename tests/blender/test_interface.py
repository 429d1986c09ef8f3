# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that a user can see has a tooltip in plain English."""

from __future__ import annotations

import pytest

bpy = pytest.importorskip("bpy", reason="needs the bpy wheel (pip install 'hvg3d[blender]')")

import blender_addon  # noqa: E402
from blender_addon import registration  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def extension():
    blender_addon.register()
    yield
    blender_addon.unregister()


def described(cls):
    """(where, name, text) of an operator and of what can be set."""
    rna = cls.bl_rna
    if issubclass(cls, bpy.types.Operator):
        rna = getattr(bpy.ops.hvg3d, cls.bl_idname.split(".")[1]).get_rna_type()
        yield cls.bl_idname, rna.name, rna.description
    own = set().union(*(getattr(base, "__annotations__", {}) for base in cls.__mro__))
    for prop in rna.properties:
        if prop.identifier in own and not prop.is_hidden and prop.type not in ("POINTER", "COLLECTION"):
            yield f"{cls.__name__}.{prop.identifier}", prop.name, prop.description


def test_every_operator_and_property_has_a_tooltip():
    """Present, not just the name again, and without a full stop, which Blender adds itself."""
    wrong = [
        f"{where}: {name!r}, {text!r}"
        for cls in registration._CLASSES
        if issubclass(cls, (bpy.types.Operator, bpy.types.PropertyGroup))
        for where, name, text in described(cls)
        if not text or text.lower() == name.lower() or text.endswith(".") or "Python:" in text
    ]
    assert wrong == [], "\n".join(wrong)


def test_every_choice_of_an_enum_has_a_tooltip():
    wrong = [
        f"{cls.__name__}.{prop.identifier}: {item.identifier}"
        for cls in registration._CLASSES
        if issubclass(cls, bpy.types.PropertyGroup)
        for prop in cls.bl_rna.properties
        if prop.type == "ENUM" and prop.identifier in cls.__annotations__
        for item in prop.enum_items
        if not item.description
    ]
    assert wrong == [], "\n".join(wrong)
