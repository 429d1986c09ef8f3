# SPDX-License-Identifier: GPL-3.0-or-later
"""Batches inside Blender: its command, the panel's operators, and what they leave of the scene."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

bpy = pytest.importorskip("bpy", reason="needs the bpy wheel (pip install 'hvg3d[blender]')")
pytest.importorskip("fastapi", reason="needs the server (pip install 'hvg3d[server]')")
pytest.importorskip("av", reason="needs PyAV (pip install 'hvg3d[network]')")

import numpy as np  # noqa: E402

import blender_addon  # noqa: E402
from blender_addon import cli  # noqa: E402
from blender_addon.batch.actions import acting, scene_actions  # noqa: E402
from blender_addon.batch.plan import load_plan  # noqa: E402
from blender_addon.batch.session import SESSION, panel_plan  # noqa: E402
from blender_addon.batch.shots import file_index, iter_batch  # noqa: E402
from blender_addon.core import ClipError, load_clip  # noqa: E402
from tests.server.serverkit import RunningServer  # noqa: E402

from .batchkit import GOOD_PLAN, make_files  # noqa: E402
from .snapshot import differences, scene_state  # noqa: E402

BROKEN = '\n[[shots]]\nscenes = ["Flat", "Gone", "Lost"]\nseeds = [1]\n'


@pytest.fixture(scope="module", autouse=True)
def extension():
    blender_addon.register()
    yield
    blender_addon.unregister()


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    make_files(folder)
    return folder


@pytest.fixture
def folder(material, tmp_path):
    """The open file is shots.blend in this folder."""
    for name in ("shots.blend", "first.png"):
        shutil.copy2(material / name, tmp_path)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shots.blend"))
    for scene in bpy.data.scenes:  # one that was never looked at has no poses to be kept
        scene.frame_set(scene.frame_current)
    return tmp_path


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Where the add-on looks for one when nothing is set."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    home = tmp_path / "data" / "hvg3d" / "server"
    home.mkdir(parents=True)
    with RunningServer(home, step_seconds=0.01) as running:
        yield running


def everything() -> dict:
    """All scenes, and which action and slot every object has."""
    state: dict = {}
    for scene in bpy.data.scenes:
        state |= {(scene.name, key): value for key, value in scene_state(scene).items()}
    for obj in bpy.data.objects:
        data = obj.animation_data
        if data is not None:
            slot = data.action_slot.identifier if data.action_slot else None
            state["action", obj.name] = (data.action and data.action.name, slot, data.last_slot_identifier)
        else:
            state["action", obj.name] = None
    return {**state, "active": bpy.context.scene.name}


def pose_by_hand() -> None:
    """A pose that no key holds, at a frame in the middle: what an export is most likely to overwrite."""
    bpy.context.scene.frame_set(4)
    bpy.data.objects["Rig"].pose.bones["tip"].rotation_euler.x = 0.123
    bpy.data.objects["Box"].location.z = 0.77
    for scene in bpy.data.scenes:
        scene.view_layers[0].update()


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text("utf-8"))


def test_blenders_command_makes_24_with_three_broken(folder, server, capfd):
    """21 results, three explained failures, exit code 1. The same again makes nothing; a change, what it changes."""
    plan = folder / "plan.toml"
    plan.write_text(GOOD_PLAN + BROKEN + "", "utf-8")
    before = everything()
    assert cli.execute(["batch", "--config", str(plan), "--dry-run"]) == 0
    assert "24 shots" in capfd.readouterr().out
    assert cli.execute(["batch", "--config", str(plan)]) == 1
    out = folder / "hvg3d" / "batch"
    told = report(out)
    assert (told["shots"], told["done"], told["failed"], told["left"]) == (24, 21, 3, 0)
    errors = {entry["scene"]: (entry["error"], entry["remedy"]) for entry in told["results"] if entry["error"]}
    assert "ORTHO" in errors["Flat"][0] and "Perspective" in errors["Flat"][1]
    assert "deleted" in errors["Gone"][0] and errors["Gone"][1]
    assert errors["Lost"] == ("scene: 'Lost' is not in 'shots.blend'", "Use one of A, B, Flat, Gone")
    assert differences(before, everything()) == []
    assert len(server.get("/v1/jobs?limit=200")["jobs"]) == 21
    videos = {path.name: path.stat().st_mtime_ns for path in (out / "videos").iterdir()}
    assert cli.execute(["batch", "--config", str(plan)]) == 1
    assert "21 of 24 done, 3 failed" in capfd.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in (out / "videos").iterdir()} == videos
    assert all(entry["from_before"] for entry in report(out)["results"] if entry["state"] == "done")
    assert len(server.get("/v1/jobs?limit=200")["jobs"]) == 21
    # A script that moves something leaves no trace that Blender itself would see.
    bpy.data.scenes["A"].hvg3d.prompt = "a hand lifts a crate"
    assert cli.execute(["batch", "--config", str(plan)]) == 1
    assert len(server.get("/v1/jobs?limit=200")["jobs"]) == 21 + 12


def test_every_shot_is_what_it_says(folder, server):
    """Camera and action really differ: poses and cameras of the clips are those of the scene set up by hand."""
    assert cli.execute(["batch", "--scene", "A", "--camera", "Front", "--camera", "Side", "--action", "all"]) == 0
    told = report(folder / "hvg3d" / "batch")["results"]
    clips = {(e["camera"], e["action"]): load_clip(folder / "hvg3d" / "batch" / e["clip"]) for e in told}
    assert set(clips) == {(camera, action) for camera in ("Front", "Side") for action in ("Bend", "Stretch", "Slide")}
    tip = {}
    for action in ("Bend", "Stretch"):
        bpy.data.objects["Rig"].animation_data.action = bpy.data.actions[action]
        bpy.context.scene.frame_set(9)
        depsgraph = bpy.context.evaluated_depsgraph_get()
        rig = bpy.data.objects["Rig"].evaluated_get(depsgraph)
        mesh = bpy.data.objects["Hand"].evaluated_get(depsgraph).data
        tip[action] = np.array([rig.matrix_world @ rig.pose.bones["tip"].tail])[0]
        world = np.array([bpy.data.objects["Hand"].matrix_world @ vertex.co for vertex in mesh.vertices])
        for camera in ("Front", "Side"):
            clip = clips[camera, action]
            hand = clip.points[-1][clip.point_entity == 0]
            assert hand.min(0) == pytest.approx(np.clip(hand, world.min(0), world.max(0)).min(0), abs=1e-5)
            assert hand.max(0) == pytest.approx(np.clip(hand, world.min(0), world.max(0)).max(0), abs=1e-5)
    assert abs(tip["Bend"] - tip["Stretch"]).max() > 0.05
    assert not np.allclose(clips["Front", "Bend"].points, clips["Front", "Stretch"].points, atol=0.01)
    assert np.array_equal(clips["Front", "Bend"].points, clips["Side", "Bend"].points)
    assert not np.allclose(
        clips["Front", "Bend"].views[0].world_to_camera, clips["Side", "Bend"].views[0].world_to_camera, atol=0.1
    )


def test_the_panel_counts_starts_and_keeps_the_scene(folder, server):
    """Ticks make 24 shots; poses without keys, frame, camera, actions and scene stay, also round shots that fail."""
    for name in ("A", "B", "Flat"):
        bpy.data.scenes[name].hvg3d_batch.use = True
    bpy.ops.hvg3d.batch_tick(kind="ACTIONS", use=True)
    for name in ("Front", "Side"):
        bpy.data.objects[name].hvg3d_batch = True
    bpy.data.objects["Plan View"].hvg3d_batch = False
    settings = bpy.context.scene.hvg3d_batch
    settings.seed_source, settings.seeds = "LIST", "1, 7-6"
    assert "no seed" in SESSION.count_text(bpy.context)
    settings.seeds = "1-2"
    bpy.data.actions["Slide"].hvg3d_batch = False
    assert SESSION.count_text(bpy.context) == "24 shots"
    settings.seed_source, settings.seed_count = "COUNT", 1
    assert SESSION.count_text(bpy.context) == "12 shots"
    bpy.data.objects["Plan View"].hvg3d_batch = True
    assert SESSION.count_text(bpy.context) == "18 shots"
    settings.folder = "//stapel ö"
    pose_by_hand()
    before = everything()
    assert bpy.ops.hvg3d.batch_start() == {"FINISHED"}
    assert differences(before, everything()) == []
    totals = SESSION.batch.totals()
    assert (totals.shots, totals.done, totals.failed) == (18, 12, 6)
    assert SESSION.report == folder / "stapel ö" / "report.html"
    assert SESSION.report.is_file()
    assert not bpy.ops.hvg3d.batch_stop.poll()
    # Resumed with unsaved changes in the file: everything is read again, and nothing made again.
    assert bpy.ops.hvg3d.batch_start() == {"FINISHED"}
    assert SESSION.batch.totals().kept >= 12
    assert len(server.get("/v1/jobs?limit=200")["jobs"]) == 12


def test_stopped_in_the_middle_of_an_export_everything_is_as_it_was(folder, server, tmp_path):
    from blender_addon.batch.job import Batch
    from blender_addon.client.http import Address

    plan_file = folder / "plan.toml"
    plan_file.write_text('scenes = ["B"]\nactions = ["Stretch", "Slide"]\n', "utf-8")
    plan = load_plan(plan_file)
    pose_by_hand()
    before = everything()
    batch = Batch(tmp_path / "out", lambda: Address(home=str(server.home)), plan)
    steps = iter_batch(batch, plan.selections)
    for _ in range(5):
        next(steps)
    assert bpy.data.objects["Rig"].animation_data.action.name == "Stretch"
    steps.close()
    batch.stop()
    batch.close()
    assert differences(before, everything()) == []


def test_actions_are_found_for_what_they_move(folder):
    """In use, in the NLA, by the name of a slot, by bones; not those of other things."""
    rig = bpy.data.objects["Rig"]
    scene = bpy.data.scenes["A"]
    stranger = bpy.data.actions.new("Stranger")
    stranger.slots.new(id_type="OBJECT", name="Somebody else")
    bpy.data.actions.new("Empty")
    stashed = rig.animation_data.action.copy()
    stashed.name = "Stashed"
    rig.animation_data.nla_tracks.new().strips.new("Stashed", 1, stashed)
    assert set(scene_actions(scene)) == {"Bend", "Stretch", "Slide", "Stashed"}
    renamed = bpy.data.actions["Stretch"]
    renamed.slots[0].name_display = "Other rig"  # left to the bones
    assert "Stretch" in scene_actions(scene)
    with acting(scene, "Stretch"):
        assert rig.animation_data.action == renamed
        assert rig.animation_data.action_slot == renamed.slots[0]
    assert rig.animation_data.action.name == "Bend"
    with pytest.raises(ClipError, match="'Stranger' moves nothing"), acting(scene, "Stranger"):
        pass


def test_scenes_that_were_made_to_compare_are_no_shots(folder):
    """A comparison, and the copy of a scene with all its marks that is shown in one: neither listed nor made."""
    before = [scene["name"] for scene in file_index()["scenes"]]
    copy = bpy.data.scenes["A"].copy()
    copy.hvg3d_compare.copy_of = "A"
    made = bpy.data.scenes.new("Compare")
    made.hvg3d_compare.movie = "/somewhere/video.mp4"
    assert [scene["name"] for scene in file_index()["scenes"]] == before
    assert bpy.ops.hvg3d.batch_tick(kind="SCENES", use=True) == {"FINISHED"}
    ticked = {scene.name for scene in bpy.data.scenes if scene.hvg3d_batch.use}
    assert ticked == set(before)
    copy.hvg3d_batch.use = True  # ticked by a script, or before it was copied
    assert {selection.scenes[0] for selection in panel_plan(bpy.context).selections} == set(before)


def test_a_plan_is_saved_and_loaded(folder):
    """Ticks, to TOML, to other ticks, and back; what ticks cannot say is said."""
    for name in ("A", "B"):
        bpy.data.scenes[name].hvg3d_batch.use = True
    bpy.data.objects["Side"].hvg3d_batch = True
    bpy.data.actions["Bend"].hvg3d_batch = True
    settings = bpy.context.scene.hvg3d_batch
    settings.seed_source, settings.seeds, settings.in_flight = "LIST", "3, 5", 2
    path = folder / "stapel.toml"
    assert bpy.ops.hvg3d.batch_save(filepath=str(path)) == {"FINISHED"}
    plan = load_plan(path)
    assert plan.in_flight == 2
    assert [one.scenes for one in plan.selections] == [("A",), ("B",)]
    assert all(one.files == ("shots.blend",) and one.cameras == ("Side",) for one in plan.selections)
    bpy.ops.wm.revert_mainfile()
    settings = bpy.context.scene.hvg3d_batch
    assert bpy.ops.hvg3d.batch_load(filepath=str(path)) == {"FINISHED"}
    assert [scene.name for scene in bpy.data.scenes if scene.hvg3d_batch.use] == ["A", "B"]
    assert [obj.name for obj in bpy.data.objects if obj.hvg3d_batch] == ["Side"]
    assert [action.name for action in bpy.data.actions if action.hvg3d_batch] == ["Bend"]
    assert (settings.seed_source, settings.seeds, settings.in_flight) == ("LIST", "3, 5", 2)
    path.write_text('[[shots]]\nfiles = ["other.blend"]\n', "utf-8")
    with pytest.raises(RuntimeError, match="names other files"):
        bpy.ops.hvg3d.batch_load(filepath=str(path))


def test_blenders_command_exports_one_clip(folder, capfd):
    out = folder / "one.clip.safetensors"
    assert cli.execute(["export", str(out), "--scene", "B", "--camera", "Side", "--action", "Stretch"]) == 0
    assert load_clip(out).num_frames == 9
    assert cli.execute(["export", str(out), "--scene", "C"]) == 2
    assert "'C' is not in this file; use one of A, B, Flat, Gone" in capfd.readouterr().err
    assert cli.execute(["export"]) == 2
