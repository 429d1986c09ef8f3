# SPDX-License-Identifier: GPL-3.0-or-later
"""Manners of an extension: tooltips, reasons, shortcuts and menus that fit in, nothing left behind, one place for
versions, online access asked for."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

bpy = pytest.importorskip("bpy", reason="needs the bpy wheel (pip install 'hvg3d[blender]')")

import blender_addon  # noqa: E402
from blender_addon import pump  # noqa: E402
from blender_addon.client.check import ServerStatus, check_server  # noqa: E402
from blender_addon.client.http import ONLINE, Address  # noqa: E402
from blender_addon.client.protocol import GenerationRequest  # noqa: E402
from blender_addon.client.task import RenderTask  # noqa: E402
from blender_addon.preferences import care_settings  # noqa: E402
from blender_addon.registration import _CLASSES  # noqa: E402
from blender_addon.runtime import RUNTIME  # noqa: E402
from blender_addon.server_care.care import CARE  # noqa: E402
from blender_addon.ui import keys, menus  # noqa: E402

ADDON = Path(blender_addon.__file__).parent


@pytest.fixture
def registered():
    blender_addon.register()
    yield
    blender_addon.unregister()


def operators() -> Iterator[type]:
    return (cls for cls in _CLASSES if issubclass(cls, bpy.types.Operator))


def sources() -> Iterator[tuple[str, str]]:
    for path in sorted(ADDON.rglob("*.py")):
        yield path.relative_to(ADDON).as_posix(), path.read_text(encoding="utf-8")


def reasons_against(text: str) -> list[str]:
    """Blender's style for tooltips: there, one paragraph, without a full stop at its end."""
    found = [] if len(text) >= 4 else ["is missing or too short"]
    if text.endswith((".", " ", "!")):
        found.append("ends with a full stop, an exclamation mark or a blank")
    if "\n" in text or "  " in text:
        found.append("has line breaks or double blanks")
    if text[:1].islower() and not text.startswith("hvg3d"):
        found.append("begins with a small letter")
    return found


# -- tooltips and reasons --


def test_every_operator_has_a_tooltip_and_a_name_that_search_can_find(registered):
    faults = []
    names: dict[str, str] = {}
    for cls in operators():
        rna = getattr(bpy.ops.hvg3d, cls.bl_idname.partition(".")[2]).get_rna_type()
        faults += [f"{cls.__name__}: its tooltip {reason}" for reason in reasons_against(rna.description)]
        if rna.name in names:
            faults.append(f"{cls.__name__} has the name of {names[rna.name]}: {rna.name!r}")
        names[rna.name] = cls.__name__
        if rna.name != rna.name.strip() or not rna.name[:1].isupper():
            faults.append(f"{cls.__name__}: {rna.name!r} is no name")
    assert len(names) > 40
    assert not faults, "\n".join(faults)


def test_every_property_has_a_tooltip(registered):
    """Of operators, settings, preferences, list entries; enum items too. Hidden ones are for scripts."""
    faults, count = [], 0
    for cls in _CLASSES:
        rna = cls.bl_rna
        if issubclass(cls, bpy.types.Operator):
            rna = getattr(bpy.ops.hvg3d, cls.bl_idname.partition(".")[2]).get_rna_type()
        elif not issubclass(cls, (bpy.types.PropertyGroup, bpy.types.AddonPreferences)):
            continue
        for prop in rna.properties:
            if prop.identifier in ("rna_type", "name", "bl_idname") or prop.is_hidden or prop.type == "COLLECTION":
                continue
            count += 1
            where = f"{cls.__name__}.{prop.identifier}"
            faults += [f"{where} {reason}" for reason in reasons_against(prop.description)]
            for item in getattr(prop, "enum_items_static", ()):
                faults += [f"{where}.{item.identifier} {reason}" for reason in reasons_against(item.description)]
    assert count > 80
    assert not faults, "\n".join(faults)


def test_every_refusal_says_why():
    """In every ``poll`` of an operator, and in what it calls to decide: no False without a message for the tooltip."""
    faults, seen = [], 0
    for name, text in sources():
        if not name.startswith("ops/"):
            continue
        for function in ast.walk(ast.parse(text)):
            if isinstance(function, ast.FunctionDef) and function.name in ("poll", "_poll"):
                seen += 1
                faults += [f"{name}:{line}" for line in _silent_refusals(function)]
    assert seen > 15
    assert not faults, f"returned without poll_message_set: {faults}"


def _silent_refusals(function: ast.FunctionDef) -> Iterator[int]:
    for node in ast.walk(function):
        for block in (getattr(node, "body", None), getattr(node, "orelse", None)):
            if not isinstance(block, list):
                continue
            for before, statement in zip([None, *block], block, strict=False):
                if not isinstance(statement, ast.Return):
                    continue
                value = statement.value
                if isinstance(value, ast.Constant) and value.value is True:
                    continue
                if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("poll"):
                    continue  # which says it itself
                if before is None or "poll_message_set" not in ast.unparse(before):
                    yield statement.lineno


# -- shortcuts and menus --


def shortcuts() -> set[tuple[str, str]]:
    config = bpy.context.window_manager.keyconfigs.addon
    return {(k.name, i.idname) for k in config.keymaps for i in k.keymap_items if i.idname.startswith("hvg3d.")}


def test_shortcuts_are_registered_and_can_be_changed(registered):
    assert shortcuts() == {(keymap, operator) for keymap, _, operator, _ in keys._SHORTCUTS}
    assert {operator for _, operator in shortcuts()} >= {"hvg3d.render_real", "hvg3d.cancel", "hvg3d.compare"}
    for operator in (operator for _, operator in shortcuts()):
        assert hasattr(bpy.types, f"HVG3D_OT_{operator.partition('.')[2]}")


@pytest.mark.parametrize("keymap", ["blender_default", "industry_compatible_data"])
def test_no_shortcut_is_taken_by_blender(keymap, registered):
    """In any editor of Blender's two keymaps, read from the files that it makes them from."""
    import importlib

    places = bpy.utils.script_paths(subdir="presets/keyconfig/keymap_data")
    sys.path[:0] = places
    try:
        module = importlib.import_module(keymap)
    finally:
        del sys.path[: len(places)]
    made = module.generate_keymaps(module.Params()) if keymap == "blender_default" else module.generate_keymaps()
    taken = set()
    for _, _, content in made:
        for item in content["items"]:
            if isinstance(item[1], dict):
                event = item[1]
                modifiers = tuple(bool(event.get(name)) for name in ("ctrl", "shift", "alt", "oskey"))
                taken.add((event["type"], (True,) * 4 if event.get("any") else modifiers))
    assert len(taken) > 150  # the table is read as it should be
    config = bpy.context.window_manager.keyconfigs.addon
    own = [i for k in config.keymaps for i in k.keymap_items if i.idname.startswith("hvg3d.")]
    assert len(own) == len(keys._SHORTCUTS)
    for item in own:
        modifiers = (bool(item.ctrl), bool(item.shift), bool(item.alt), bool(item.oskey))
        assert (item.type, modifiers) not in taken, item.idname
        assert (item.type, (True,) * 4) not in taken


def drawn_by(menu: str) -> list:
    return list(getattr(bpy.types, menu)._dyn_ui_initialize())


def test_menus_show_what_f3_shall_find(registered):
    """Each entry draws in a real layout's place, and all operators that people call by name are in some menu."""
    for menu, draw in menus._PLACES:
        assert draw in drawn_by(menu), menu
    text = (ADDON / "ui" / "menus.py").read_text()
    named = set(re.findall(r'"(hvg3d\.\w+)"', text))
    for name in named:
        assert hasattr(bpy.types, f"HVG3D_OT_{name.partition('.')[2]}"), name
    wanted = {"render_real", "cancel", "export_clip", "compare", "guess_marks", "grasp", "add_hand", "toggle_overlay"}
    assert {f"hvg3d.{name}" for name in wanted} <= named


def state() -> dict[str, object]:
    """Everything that a careless add-on leaves behind."""
    handlers = bpy.app.handlers
    lists = {name: list(getattr(handlers, name)) for name in dir(handlers) if isinstance(getattr(handlers, name), list)}
    owners = (bpy.types.Scene, bpy.types.Object, bpy.types.Action, bpy.types.WindowManager)
    return {
        "handlers": {name: [getattr(f, "__qualname__", repr(f)) for f in found] for name, found in lists.items()},
        "menus": {menu: len(drawn_by(menu)) for menu, _ in menus._PLACES},
        "shortcuts": shortcuts(),
        "classes": sorted(name for name in dir(bpy.types) if "hvg3d" in name.lower()),
        "properties": sorted(f"{o.__name__}.{p}" for o in owners for p in dir(o) if "hvg3d" in p.lower()),
    }


def test_switched_on_and_off_three_times_nothing_is_left():
    from blender_addon import cli, pump, registration, translations
    from blender_addon.overlay import display

    before = state()
    for _ in range(3):
        blender_addon.register()
        assert state() != before
        bpy.context.scene.hvg3d.overlay.show = True
        blender_addon.unregister()
        assert state() == before
        for timer in (pump._tick, pump.watch, registration._first_look, display._on_timer):
            assert not bpy.app.timers.is_registered(timer), timer
        assert not cli._handle
        assert not translations._registered
        assert not keys._added


# -- versions --


def test_differences_between_versions_are_in_one_file():
    """No other module asks for Blender's version, or uses what is on its way out."""
    faults = []
    for name, text in sources():
        if name in ("compat.py", "build_extension.py"):
            continue
        for number, line in enumerate(text.split("\n"), 1):
            if re.search(r"app\.version\b(?!_string)|\.use_nodes\b|BLENDER_EEVEE_NEXT\"\s*\)|sequences\b\.new", line):
                faults.append(f"{name}:{number}: {line.strip()}")
    assert not faults, "\n".join(faults)


# -- manifest and online access --


def test_the_manifest_keeps_the_rules():
    manifest = tomllib.loads((ADDON / "blender_manifest.toml").read_text())
    assert manifest["schema_version"] == "1.0.0"
    assert manifest["blender_version_min"] == "4.5.0"
    assert {"platforms", "wheels", "build"}.isdisjoint(manifest)
    texts = [manifest["tagline"], *manifest["permissions"].values()]
    for text in texts:
        assert 0 < len(text) <= 64, text
        assert text[-1].isalnum(), text
    assert set(manifest["permissions"]) == {"network", "files"}
    # What it does not ask for it does not do.
    # batch/child.py runs in a Blender of its own that has no add-on, and is told where it is.
    everything = "\n".join(text for name, text in sources() if name != "batch/child.py")
    assert "window_manager.clipboard" not in everything
    assert not re.search(r"^\s*sys\.path(\.|\[)", everything, re.MULTILINE)


@pytest.fixture
def no_network(monkeypatch):
    """Whoever connects, or asks for a name, ends the test."""
    import socket

    tried = []

    def refuse(*arguments, **_):
        tried.append(arguments[:2])
        raise AssertionError(f"a connection to {arguments}")

    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    return tried


FAR = Address(url="http://203.0.113.7:8765", token="secret")


@pytest.fixture
def watch():
    """The watch over the server, forgotten afterwards."""
    before = CARE.settings
    yield CARE
    CARE.at_exit()
    CARE.settings, RUNTIME.server = before, ServerStatus()


def test_another_computer_is_not_asked_without_online_access(registered, no_network, watch):
    """The watch over the server says why, and what to do; no socket is opened."""
    assert not bpy.app.online_access  # Blender's default
    watch.use(replace(care_settings(), address=FAR, near=False, online=bpy.app.online_access))
    watch.ask()
    pump.pump()
    assert (watch.status.state, watch.status.code) == ("problem", "online_access")
    assert "online access" in watch.status.message
    assert "Online Access" in watch.status.remedy
    assert not no_network


def test_no_job_reaches_another_computer_without_online_access(registered, no_network, tmp_path):
    """Whatever asks: every request goes through the client, which refuses before it looks up a name."""
    status = check_server(FAR)
    assert (status.state, status.code) == ("problem", "online_access")
    task = RenderTask(FAR, "0" * 64, GenerationRequest("", "a hand", 0), tmp_path / "video.mp4", "test")
    task.start()
    task.join(30)
    states = [task.states.get_nowait() for _ in range(task.states.qsize())]
    assert states[-1].outcome == "failed"
    assert "online access is switched off" in states[-1].message
    assert not no_network
    assert not list(tmp_path.iterdir())


def test_a_server_on_this_computer_needs_no_online_access(registered):
    """Nobody listens there, but it was tried: loopback is not the internet."""
    assert not bpy.app.online_access
    assert check_server(Address(url="http://127.0.0.1:9")).code == "refused"
    assert check_server(Address(url="http://localhost:9")).code == "refused"


def test_without_the_add_on_the_client_asks_nobody(registered):
    blender_addon.unregister()
    assert ONLINE.allowed
    blender_addon.register()
    assert not ONLINE.allowed
