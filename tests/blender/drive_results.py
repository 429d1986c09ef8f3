# SPDX-License-Identifier: GPL-3.0-or-later
"""Results as a user meets them: ``python drive_results.py STEP HOME FOLDER``, each step in a Blender of its own.

HOME is the home folder of a running server, FOLDER one for the .blend file and what comes out. Run by test_results.py.
``BLENDER_USER_RESOURCES`` says where this Blender keeps its things.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
import wave
from pathlib import Path

import bpy
import numpy as np

import blender_addon
from blender_addon import pump
from blender_addon.compat import sequencer_strips
from blender_addon.ops import results as result_ops
from blender_addon.result import desk
from blender_addon.results import background, compare, following, thumbs
from blender_addon.results.files import first_picture_path, original_folder, read_metadata, thumbnail_path
from blender_addon.results.frames import scene_times, shown_frames
from blender_addon.runtime import RUNTIME

FRAMES = 9


def pumped(condition, seconds: float = 40.0) -> None:
    """Timers do not fire without a window: do what the timer would."""
    end = time.monotonic() + seconds
    while not condition():
        pump.pump()
        assert time.monotonic() < end, RUNTIME
        time.sleep(0.02)


def use_server(home: str) -> None:
    """Without the extension's preferences a server is looked for in its usual place: let that be HOME."""
    preferences = importlib.import_module("blender_addon.preferences")
    preferences.default_server_home = lambda: home


def shot(folder: Path) -> bpy.types.Scene:
    """A saved file with the scene of scenes.py, marked."""
    from tests.blender.scenes import grasp_scene

    scene = grasp_scene()
    scene.render.fps = 12
    settings = scene.hvg3d
    for name, role, objects in (("right hand", "right_hand", ["Hand"]), ("Box", "object", ["Box"])):
        entity = settings.entities.add()
        entity.name, entity.role = name, role
        for one in objects:
            entity.objects.add().object = bpy.data.objects[one]
    settings.width, settings.height, settings.points_per_entity = 128, 96, 64
    settings.quality, settings.steps = "CUSTOM", 8
    settings.prompt, settings.seed, settings.negative_prompt = "a händ lifts a box", 7, "blur"
    settings.control_scale, settings.use_guidance, settings.guidance = 0.5, True, 3.5
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "grasp ä.blend"))
    return scene


def rendered() -> Path:
    assert bpy.ops.hvg3d.render_real() == {"FINISHED"}
    pumped(lambda: not RUNTIME.rendering)
    assert RUNTIME.task_state.outcome == "done", RUNTIME.task_state
    pumped(lambda: any(entry.path == RUNTIME.task.output for entry in RUNTIME.history))
    return RUNTIME.task.output


def everything(folder: Path) -> None:
    scene = shot(folder)
    movie = live_preview()
    files_and_metadata(movie, folder)
    history(movie)
    comparison(scene, movie)
    sound(scene, movie)
    on_camera(scene, movie)
    redo(scene, movie)
    reroll(movie)
    edits_while_a_job_runs(folder)
    delete(movie)


def live_preview() -> Path:
    """Pictures come while it runs, newer ones replace older ones, and nothing of them stays behind."""
    assert bpy.ops.hvg3d.render_real() == {"FINISHED"}
    images = len(bpy.data.images)
    pumped(lambda: thumbs._LIVE in thumbs._collection)  # icons have no numbers in the background
    preview = thumbs._collection[thumbs._LIVE]
    first = np.array(preview.image_pixels_float)
    assert tuple(preview.image_size) == (64, 48), tuple(preview.image_size)
    assert first.reshape(48, 64, 4)[..., :3].std() > 0.02
    # The server renews it twice a second, so that not every step has another.
    pumped(lambda: not np.array_equal(first, np.array(thumbs._collection[thumbs._LIVE].image_pixels_float)))
    assert RUNTIME.rendering
    assert len(bpy.data.images) == images + 1  # the one that they come through, which is never saved
    pumped(lambda: not RUNTIME.rendering)
    assert thumbs._IMAGE not in bpy.data.images
    assert RUNTIME.task_state.outcome == "done", RUNTIME.task_state
    assert thumbs._LIVE not in thumbs._collection
    pumped(lambda: len(RUNTIME.history) == 1)
    return RUNTIME.task.output


def files_and_metadata(movie: Path, folder: Path) -> None:
    assert movie.parent == folder / "hvg3d"
    assert thumbnail_path(movie).read_bytes()[:2] == b"\xff\xd8"
    told = read_metadata(movie)
    shot, request = told["shot"], told["shot"]["request"]
    assert len(request["clip"]) == 64
    assert (request["seed"], request["prompt"], request["negative_prompt"]) == (7, "a händ lifts a box", "blur")
    assert (shot["scene"], shot["blend"], shot["camera"]) == ("Scene", "grasp ä.blend", "Camera")
    assert (shot["frame_start"], shot["frame_end"], shot["frame_count"], shot["fps"]) == (1, FRAMES, FRAMES, 12)
    assert [mark["objects"] for mark in shot["marks"]] == [["Hand"], ["Box"]]
    assert shot["blender"] == bpy.app.version_string
    assert shot["job"] == RUNTIME.task.id
    handshake = json.loads((Path(RUNTIME.task.address.home) / "server.json").read_text())
    kept = [p for root in (movie.parent, desk().journal.folder.parent) for p in root.rglob("*") if p.is_file()]
    assert not [path for path in kept if handshake["token"].encode() in path.read_bytes()]
    assert not list(desk().journal.folder.glob("*.json"))


def history(movie: Path) -> None:
    entry = RUNTIME.history[0]
    assert (entry.path, entry.seed, entry.scene, entry.missing) == (movie, 7, "Scene", False)
    manager = bpy.context.window_manager
    assert [item.movie for item in manager.hvg3d_results] == [str(movie)]
    assert result_ops.chosen_entry() == entry
    thumbs.icon_of(movie)
    assert str(movie) in thumbs._collection
    assert bpy.ops.hvg3d.view_result() == {"FINISHED"}


def picture_of(scene: bpy.types.Scene, frame: int, folder: Path) -> np.ndarray:
    """What a render of ``scene`` shows at ``frame``, H x W x 3 in 0 to 255, from the bottom up."""
    from blender_addon.compat import png_settings

    for name, value in png_settings(scene.render.image_settings).items():
        setattr(scene.render.image_settings, name, value)
    before = scene.frame_start, scene.frame_end
    scene.frame_start = scene.frame_end = frame
    scene.render.filepath = str(folder / "look_#####")
    with bpy.context.temp_override(scene=scene):
        bpy.ops.render.render(animation=True)
    scene.frame_start, scene.frame_end = before
    return pixels(folder / f"look_{frame:05d}.png")


def pixels(path: Path) -> np.ndarray:
    image = bpy.data.images.load(str(path), check_existing=False)
    values = np.array(image.pixels[:]).reshape(image.size[1], image.size[0], image.channels)[..., :3] * 255
    bpy.data.images.remove(image)
    return values


def comparison(scene: bpy.types.Scene, movie: Path) -> None:
    """Both sides show what they should, at every frame, in both layouts; the same colours as their own pictures."""
    from hvg3d_core.video import read_video

    scene.view_settings.view_transform = "AgX"
    folder = movie.parent
    assert bpy.ops.hvg3d.compare() == {"FINISHED"}
    made = compare.find(movie)
    assert made.name == f"Compare {movie.stem}"
    assert (made.frame_start, made.frame_end, made.render.fps) == (1, FRAMES, 12)
    assert not compare.is_fair(made)  # live, and the scene's view is AgX
    scene.view_settings.view_transform = "Standard"
    assert compare.is_fair(made)
    scene.view_settings.view_transform = "AgX"

    # An original of which every frame is another grey of known AgX picture: rendered by the scene itself, as a peer.
    assert bpy.ops.hvg3d.render_original() == {"FINISHED"}
    frames = sorted(original_folder(movie, read_metadata(movie)["shot"]["request"]["clip"]).glob("*.png"))
    assert len(frames) == FRAMES
    assert compare.is_fair(made)
    assert {s.name for s in bpy.data.scenes} == {"Scene", made.name}  # copies that are not needed are gone
    assert bpy.ops.hvg3d.compare() == {"FINISHED"}
    assert [s.name for s in bpy.data.scenes if s.hvg3d_compare.movie] == [made.name]  # reused
    peer = scene.copy()
    peer.render.resolution_x, peer.render.resolution_y = 128, 96
    wanted = picture_of(peer, 5, folder)
    bpy.data.scenes.remove(peer)

    video, _ = read_video(movie)
    width = made.hvg3d_compare.width
    assert (width, made.hvg3d_compare.height) == (128, 96)  # the clip's size; the server's video is half of it
    effect = compare.strip(made, compare.WIPE)
    for fader in (0.0, 0.5, 1.0):
        effect.effect_fader = fader
        seen = picture_of(made, 5, folder)
        line = round(fader * width)
        real = video[4][::-1].astype(float)
        other_error = np.abs(seen[:, : max(line - 1, 0)] - wanted[:, : max(line - 1, 0)])
        assert other_error.size == 0 or other_error.mean() < 2.5, (fader, other_error.mean())
        if fader < 1:  # enlarging has smoothed the video's noise, but moved neither places nor colours
            right, expected = halved(seen)[:, line // 2 + 1 :], real[:, line // 2 + 1 :]
            assert np.corrcoef(right.ravel(), expected.ravel())[0, 1] > 0.9, fader
            assert np.abs(right.mean(axis=(0, 1)) - expected.mean(axis=(0, 1))).max() < 2, fader
    effect.effect_fader = 0.0
    numbers = [closest(picture_of(made, frame, folder), video) for frame in (1, 2, 6, 9)]
    assert numbers == [0, 1, 5, 8], numbers
    assert bpy.ops.hvg3d.compare(layout="SIDE") == {"FINISHED"}
    seen = picture_of(made, 5, folder)
    assert seen.shape[1] == 2 * width
    assert np.abs(seen[:, :width] - wanted).mean() < 2.5, np.abs(seen[:, :width] - wanted).mean()
    assert closest(seen[:, width:], video) == 4
    made.hvg3d_compare.layout = "WIPE"
    assert picture_of(made, 5, folder).shape[1] == width
    slower(movie, video)
    for path in folder.glob("look_*.png"):
        path.unlink()


def slower(movie: Path, video: np.ndarray) -> None:
    """A video that has every other frame of the shot, first and last included, shows each where it was made."""
    path = movie.with_suffix(".json")
    before = path.read_text()
    told = json.loads(before)
    told["scene_frames"], told["clip"] = [10, 12, 14, 16, 18, 20, 22, 24, 26], {"frame_range": [10, 26]}
    told["shot"] |= {"frame_start": 10, "frame_end": 26, "frame_count": 17}
    path.write_text(json.dumps(told))
    made = compare.build(movie)
    assert (made.frame_start, made.frame_end) == (10, 26)
    effect = compare.strip(made, compare.WIPE)
    effect.effect_fader = 0.0
    bpy.context.window.scene = made
    numbers = [closest(picture_of(made, frame, movie.parent), video) for frame in (10, 11, 12, 17, 18, 25, 26)]
    assert numbers == [0, 0, 1, 3, 4, 7, 8], numbers
    path.write_text(before)
    made = compare.build(movie)
    assert (made.frame_start, made.frame_end) == (1, FRAMES)
    assert compare.strip(made, compare.MAP) is None
    assert compare.strip(made, compare.WIPE).effect_fader == 0.0  # the slider stays where it was


def sound(scene: bpy.types.Scene, movie: Path) -> None:
    """A tone in the scene's own sequencer is heard in the comparison, at its place."""
    tone = movie.parent / "tone.wav"
    rate = 48000
    wave_form = np.sin(np.arange(rate // 4) * 2 * np.pi * 440 / rate)
    with wave.open(str(tone), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((wave_form * 20000).astype("<i2").tobytes())
    editor = scene.sequence_editor_create()
    sequencer_strips(editor).new_sound("tone", str(tone), 1, 4)  # from frame 4 on: 3 frames later, at 12 fps
    made = compare.build(movie)
    bpy.context.window.scene = made
    heard = movie.parent / "heard.wav"
    bpy.ops.sound.mixdown(filepath=str(heard), container="WAV", codec="PCM", format="S16", mixrate=rate)
    with wave.open(str(heard), "rb") as file:
        channels = file.getnchannels()
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, channels)[:, 0] / 32768
    begin, end = round(rate * 3 / 12), round(rate * 6 / 12)
    loud = np.abs(samples) > 0.05
    assert loud[begin + 500 : end - 500].mean() > 0.5, loud.mean()
    assert loud[: begin - 500].mean() < 0.01, loud[: begin - 500].mean()
    scene.sequence_editor_clear()
    compare.build(movie)
    tone.unlink()
    heard.unlink()


def closest(seen: np.ndarray, video: np.ndarray) -> int:
    return int(np.argmin([np.abs(halved(seen) - frame[::-1].astype(float)).mean() for frame in video]))


def halved(picture: np.ndarray) -> np.ndarray:
    rows, columns = picture.shape[:2]
    return picture.reshape(rows // 2, 2, columns // 2, 2, 3).mean(axis=(1, 3))


def on_camera(scene: bpy.types.Scene, movie: Path) -> None:
    bpy.context.window.scene = scene
    camera = scene.objects["Camera"]
    keys = camera.animation_data.action
    assert bpy.ops.hvg3d.use_as_background() == {"FINISHED"}
    assert bpy.ops.hvg3d.use_as_background() == {"FINISHED"}
    assert len(camera.data.background_images) == 1
    user = camera.data.background_images[0].image_user
    assert (user.frame_start, user.frame_duration) == (1, FRAMES)
    assert bpy.ops.hvg3d.remove_background() == {"FINISHED"}
    assert len(camera.data.background_images) == 0
    assert not bpy.ops.hvg3d.remove_background.poll()
    assert camera.animation_data.action == keys
    # A video with half of the frames: the offsets are keyed, and gone afterwards.
    told = read_metadata(movie)
    told["scene_frames"], told["clip"] = [1, 1, 3, 3, 5, 5, 7, 7, 9], {"frame_range": [1, FRAMES]}
    path = movie.with_suffix(".json")
    before = path.read_text()
    path.write_text(json.dumps(told))
    background.show(scene, movie)
    shown = shown_frames(scene_times(told, FRAMES), 1, FRAMES)
    for frame in range(1, FRAMES + 1):
        scene.frame_set(frame)
        now = camera.data.background_images[0].image_user
        assert frame - now.frame_start + 1 + now.frame_offset == shown[frame - 1] + 1, (frame, now.frame_offset)
    assert background.remove(camera)
    assert camera.data.animation_data is None
    path.write_text(before)


def redo(scene: bpy.types.Scene, movie: Path) -> None:
    """All is put back; what cannot be is named."""
    settings = scene.hvg3d
    before = following_settings(settings)
    settings.prompt, settings.seed, settings.width, settings.guidance = "another", 99, 96, 1.0
    settings.use_points = False
    settings.entities.clear()
    scene.frame_end = 30
    scene.render.fps = 24
    assert bpy.ops.hvg3d.redo() == {"FINISHED"}
    assert following_settings(settings) == before
    assert (scene.frame_end, scene.render.fps) == (FRAMES, 12)
    bpy.data.objects["Box"].name = "Crate"
    from blender_addon.results.snapshot import restore_shot

    problems = restore_shot(scene, read_metadata(movie)["shot"])
    assert problems == ["object 'Box' is gone"], problems
    bpy.data.objects["Crate"].name = "Box"
    assert bpy.ops.hvg3d.redo() == {"FINISHED"}
    # A first picture that was kept comes back with it.
    bpy.ops.hvg3d.make_reference()
    settings.reference_keep = True
    picture = bytes(settings.reference_image.packed_file.data)
    kept = rendered()
    assert first_picture_path(kept).is_file()
    settings.reference_keep, settings.reference_image = False, None
    assert bpy.ops.hvg3d.redo(result=str(kept)) == {"FINISHED"}
    assert settings.reference_keep
    from blender_addon.shot import reference_is_current

    assert reference_is_current(scene)
    assert bytes(settings.reference_image.packed_file.data)[:8] == picture[:8]
    assert bpy.ops.hvg3d.delete_result(result=str(kept)) == {"FINISHED"}
    assert not kept.exists()
    assert not first_picture_path(kept).exists()
    settings.reference_keep = False


def following_settings(settings) -> dict:
    from blender_addon.results.snapshot import settings_of

    marks = [(e.name, e.role, [ref.object.name for ref in e.objects]) for e in settings.entities]
    return {**settings_of(settings), "marks": marks}


def reroll(movie: Path) -> None:
    """Only the seed differs; the scene is not read, the clip not sent; also when the server has lost the clip."""
    told = read_metadata(movie)["shot"]
    bpy.data.objects["Hand"].hide_render = True  # an export would fail now
    assert not bpy.ops.hvg3d.render_real.poll()
    assert bpy.ops.hvg3d.reroll(result=str(movie)) == {"FINISHED"}
    phases = set()

    def ended() -> bool:
        if RUNTIME.task_state is not None:
            phases.add(RUNTIME.task_state.phase.split(",")[0])
        return not RUNTIME.rendering

    pumped(ended)
    assert RUNTIME.task_state.outcome == "done", RUNTIME.task_state
    assert "Uploading" not in phases
    assert "Packing the clip" not in phases
    again = read_metadata(RUNTIME.task.output)["shot"]
    changed = {key for key in told["request"] if told["request"][key] != again["request"][key]}
    assert changed == {"seed"}, changed
    assert again["settings"] == {**told["settings"], "seed": again["request"]["seed"]}
    assert RUNTIME.task.output.read_bytes() != movie.read_bytes()
    clip = Path(RUNTIME.task.address.home) / "clips"
    lost = [path for path in clip.rglob("*") if path.is_file() and told["request"]["clip"] in path.name]
    assert lost, list(clip.rglob("*"))
    for path in lost:
        path.unlink()
    assert bpy.ops.hvg3d.reroll(result=str(movie), seed=5) == {"FINISHED"}
    pumped(lambda: not RUNTIME.rendering)
    assert RUNTIME.task_state.outcome == "done", RUNTIME.task_state
    # Neither on the server nor here: it says what to do.
    for path in [p for p in clip.rglob("*") if p.is_file() and told["request"]["clip"] in p.name]:
        path.unlink()
    shutil.rmtree(desk().journal.folder.parent / "clips")
    assert bpy.ops.hvg3d.reroll(result=str(movie), seed=6) == {"FINISHED"}
    pumped(lambda: not RUNTIME.rendering)
    assert RUNTIME.task_state.outcome == "failed"
    assert "Redo" in RUNTIME.task_state.remedy, RUNTIME.task_state
    bpy.data.objects["Hand"].hide_render = False


def edits_while_a_job_runs(folder: Path) -> None:
    """Undo, renamed and deleted objects, another file: the video comes, where it was to be."""
    bpy.context.window.scene = bpy.data.scenes["Scene"]
    scene = bpy.context.scene
    bpy.ops.ed.undo_push(message="before")
    assert bpy.ops.hvg3d.render_real() == {"FINISHED"}
    bpy.data.objects["Hand"].name = "Renamed"
    bpy.data.objects.remove(bpy.data.objects["Box"])
    bpy.ops.ed.undo_push(message="after")
    bpy.ops.ed.undo()
    scene = bpy.data.scenes["Scene"]
    scene.name = "Other"
    output = RUNTIME.task.output
    bpy.ops.scene.new(type="EMPTY")
    pumped(lambda: RUNTIME.task_state is not None and RUNTIME.task_state.phase == "Generating")
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    images = [image.name for image in bpy.data.images]
    pumped(lambda: not RUNTIME.rendering)
    assert RUNTIME.task_state.outcome == "done", RUNTIME.task_state
    assert output.is_file()
    assert [image.name for image in bpy.data.images] == images  # not put into a file that it has nothing to do with
    pumped(lambda: any(entry.path == output for entry in RUNTIME.history))
    assert read_metadata(output)["shot"]["marks"][1]["objects"] == ["Box"]
    bpy.ops.wm.open_mainfile(filepath=str(folder / "grasp ä.blend"))
    pumped(lambda: len(bpy.context.window_manager.hvg3d_results) == len(RUNTIME.history) > 0)


def delete(movie: Path) -> None:
    count = len(RUNTIME.history)
    other = next(entry.path for entry in RUNTIME.history if entry.path != movie)
    other.unlink()
    bpy.ops.hvg3d.refresh_results()
    pumped(lambda: any(entry.missing for entry in RUNTIME.history))
    assert [entry.path for entry in RUNTIME.history if entry.missing] == [other]
    assert bpy.ops.hvg3d.redo(result=str(other)) == {"FINISHED"}  # the metadata is enough
    for name in ("view_result", "compare"):
        message = ""
        try:
            getattr(bpy.ops.hvg3d, name)(result=str(other))
        except RuntimeError as error:
            message = str(error)
        assert "is not there" in message, (name, message)
    assert bpy.ops.hvg3d.delete_result(result=str(movie)) == {"FINISHED"}
    assert not movie.exists()
    assert not thumbnail_path(movie).exists()
    assert not movie.with_suffix(".json").exists()
    bpy.ops.hvg3d.refresh_results()
    pumped(lambda: not desk().history.reading)
    pump.pump()
    assert len(RUNTIME.history) == count - 1


def begin_and_die(folder: Path) -> None:
    """Killed in the middle of a generation, as a crash does it."""
    shot(folder)
    bpy.context.scene.hvg3d.seed = 21
    assert bpy.ops.hvg3d.render_real() == {"FINISHED"}
    pumped(lambda: RUNTIME.task_state is not None and RUNTIME.task_state.phase == "Generating")
    print("JOB", RUNTIME.task.id, RUNTIME.task.output, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def find_again(folder: Path) -> None:
    """Another Blender, with nothing opened: it follows the job and has its result and the history."""
    following.start()
    pumped(lambda: RUNTIME.rendering)
    assert read_record().shot["request"]["seed"] == 21
    print("FOUND", RUNTIME.task.id, RUNTIME.task.output, flush=True)
    pumped(lambda: not RUNTIME.rendering)
    assert RUNTIME.task_state.outcome == "done", RUNTIME.task_state
    movie = RUNTIME.task.output
    assert movie.is_file()
    told = read_metadata(movie)
    assert told["shot"]["settings"]["prompt"] == "a händ lifts a box"
    pumped(lambda: any(entry.path == movie for entry in RUNTIME.history))
    assert not list(desk().journal.folder.glob("*.json"))
    bpy.ops.wm.open_mainfile(filepath=str(folder / "grasp ä.blend"))
    bpy.context.scene.hvg3d.seed = 1
    assert bpy.ops.hvg3d.redo(result=str(movie)) == {"FINISHED"}
    assert bpy.context.scene.hvg3d.seed == 21


def read_record():
    return desk().journal.find(RUNTIME.task.id)


def full_disk(folder: Path) -> None:
    """Files may not grow: the video cannot be saved. It says so, and comes when there is room."""
    import resource

    shot(folder)
    assert bpy.ops.hvg3d.render_real() == {"FINISHED"}
    pumped(lambda: RUNTIME.task_state is not None and RUNTIME.task_state.phase == "Generating")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))
    pumped(lambda: not RUNTIME.rendering)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    state = RUNTIME.task_state
    assert state.outcome == "failed", state
    assert "cannot be written" in state.message, state
    assert "Fetch Again" in state.remedy, state
    assert state.fetchable
    output = RUNTIME.task.output
    assert not output.exists()
    assert not list(output.parent.glob(".*")), list(output.parent.iterdir())
    fetch_again(output)
    unwritable(folder)


def fetch_again(output: Path) -> Path:
    pumped(lambda: len(RUNTIME.waiting) == 1)
    assert "cannot be written" in RUNTIME.waiting[0].problem
    assert bpy.ops.hvg3d.fetch_result() == {"FINISHED"}
    pumped(lambda: not RUNTIME.rendering)
    assert RUNTIME.task_state.outcome == "done", RUNTIME.task_state
    assert RUNTIME.task.output.is_file()
    if output.parent.is_dir():
        assert RUNTIME.task.output == output
    return RUNTIME.task.output


def unwritable(folder: Path) -> None:
    """The folder has become a file meanwhile (as root, permissions stop nobody): the video comes somewhere else."""
    other = folder / "other"
    other.mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(other / "grasp ä.blend"))
    assert bpy.ops.hvg3d.render_real() == {"FINISHED"}
    pumped(lambda: RUNTIME.task_state is not None and RUNTIME.task_state.phase == "Generating")
    (other / "hvg3d").write_text("not a folder")
    pumped(lambda: not RUNTIME.rendering)
    assert RUNTIME.task_state.fetchable, RUNTIME.task_state
    (other / "grasp ä.blend").unlink()
    bpy.ops.wm.open_mainfile(filepath=str(folder / "grasp ä.blend"))
    where = fetch_again(other / "hvg3d" / "x.mp4")
    assert where.parent == folder / "hvg3d", where


def main() -> None:
    step, home, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    blender_addon.register()
    use_server(home)
    {"everything": everything, "begin": begin_and_die, "find": find_again, "full": full_disk}[step](folder)
    print("DRIVEN")


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)
