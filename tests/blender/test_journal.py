# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept on disk of jobs, clips and results: seen by other processes, free after a crash. Needs no Blender."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from blender_addon.build_extension import ROOT
from blender_addon.client.http import Address
from blender_addon.client.journal import JobRecord, Journal
from blender_addon.client.kept import KeptClips
from blender_addon.results.files import read_metadata, shot_of
from blender_addon.results.frames import changes, is_one_to_one, scene_times, shown_frames
from blender_addon.results.history import Entry, History

RECORD = JobRecord("a1", {"clip": "0" * 64, "seed": 3}, "schäl, Scene", "/tmp/x.mp4", home="/home/server", made=2.0)
HOLD = """
import sys, time
from pathlib import Path
from blender_addon.client.journal import JobRecord, Journal
journal = Journal(Path(sys.argv[1]))
assert journal.hold(JobRecord("b2", {"clip": "1" * 64}, "other", "/tmp/y.mp4", made=1.0))
print("HELD", flush=True)
time.sleep(60)
"""


def other_process(folder: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout.readline().strip() == "HELD"
    return process


def test_a_job_is_free_once_the_process_that_follows_it_is_killed(tmp_path):
    """While it lives nobody else takes it; a kill needs no goodbye."""
    journal = Journal(tmp_path / "jöbs")
    process = other_process(journal.folder)
    try:
        assert journal.waiting() == []
        assert not journal.hold(replace(RECORD, id="b2"))
    finally:
        process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        process.wait()
        process.stdout.close()
    assert [record.id for record in journal.waiting()] == ["b2"]
    assert journal.hold(journal.waiting()[0])
    assert journal.waiting() == []
    journal.release("b2")
    assert [record.id for record in journal.waiting()] == ["b2"]
    journal.forget("b2")
    assert journal.waiting() == []
    assert list(journal.folder.iterdir()) == []


def test_the_newest_comes_first_and_what_makes_no_sense_is_left_alone(tmp_path):
    journal = Journal(tmp_path)
    for record in (RECORD, replace(RECORD, id="c3", made=9.0)):
        assert journal.hold(record)
        journal.release(record.id)
    for name, text in (("x", "{"), ("y", "[]"), ("z", json.dumps({"id": "z"})), ("w", json.dumps({"unknown": 1}))):
        (tmp_path / f"{name}.json").write_text(text)
    assert [record.id for record in journal.waiting()] == ["c3", "a1"]
    assert journal.find("a1") == RECORD
    journal.note(RECORD, "disk full")
    assert journal.find("a1").problem == "disk full"


def test_a_folder_that_cannot_be_written_stops_no_job(tmp_path):
    (tmp_path / "file").write_text("")
    journal = Journal(tmp_path / "file" / "jobs")
    assert journal.hold(RECORD)
    assert journal.waiting() == []
    journal.forget(RECORD.id)
    KeptClips(tmp_path / "file" / "clips").keep("0" * 64, b"x")
    history = History(tmp_path / "file" / "history.json")
    history.add(Entry("/tmp/x.mp4"))
    history.refresh([tmp_path / "nowhere"])
    history.wait()
    assert history.answers.get(timeout=5) == []


def test_a_token_goes_only_to_its_own_address():
    own = Address(url="http://a:1", token="secret")
    assert JobRecord("a", {}, "", "", url="http://a:1").address(own) == (own, True)
    assert JobRecord("a", {}, "", "", url="http://b:1").address(own) == (Address(url="http://b:1"), False)
    assert JobRecord("a", {}, "", "", home="/x").address(own) == (Address(home="/x"), False)


def test_the_newest_clips_are_kept(tmp_path):
    kept = KeptClips(tmp_path, count=3, size=250)
    for number in range(5):
        kept.keep(f"{number}" * 64, bytes(100))
        os.utime(tmp_path / f"{str(number) * 64}.clip", (number, number))
    kept.keep("9" * 64, bytes(100))
    assert [kept.has(f"{n}" * 64) for n in (0, 1, 2, 3, 4, 9)] == [False, False, False, False, True, True]
    assert kept.read("9" * 64) == bytes(100)
    assert kept.read("0" * 64) is None
    kept.keep("8" * 64, bytes(1000))  # alone too large: it is the newest, so it stays
    assert kept.has("8" * 64)


def write_result(folder: Path, name: str, made: float, seed: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    movie = folder / f"{name}.mp4"
    movie.write_bytes(b"movie")
    request = {"seed": seed, "prompt": "händ", "clip": "c" * 64}
    told = {"shot": {"made": made, "scene": "Scene", "request": request, "settings": {}}, "model": {"id": "nano"}}
    movie.with_suffix(".json").write_text(json.dumps(told))
    return movie


def test_results_are_found_by_the_index_and_in_their_folders(tmp_path):
    """Also those of another computer that lie in the folder; strange files are passed over; gone ones are missing."""
    history = History(tmp_path / "own" / "history.json")
    first, second = write_result(tmp_path / "ä", "one", 1.0), write_result(tmp_path / "ä", "two", 2.0, seed=5)
    elsewhere = write_result(tmp_path / "b", "three", 3.0)
    history.add(Entry(str(elsewhere), made=3.0, seed=1))
    history.add(Entry(str(elsewhere), made=3.0, seed=1))
    for name, text in (("broken", "{"), ("foreign", '{"seed": 3}'), ("list", "[1]")):
        (tmp_path / "ä" / f"{name}.mp4").write_bytes(b"")
        (tmp_path / "ä" / f"{name}.json").write_text(text)
    (tmp_path / "ä" / "alone.mp4").write_bytes(b"")

    def listed() -> list[Entry]:
        history.refresh([tmp_path / "ä"])
        history.wait()
        return history.answers.get(timeout=5)

    assert [(entry.path, entry.missing) for entry in listed()] == [(elsewhere, False), (second, False), (first, False)]
    assert (listed()[1].seed, listed()[1].prompt, listed()[1].model) == (5, "händ", "nano")
    elsewhere.unlink()
    assert [entry.missing for entry in listed()] == [True, False, False]
    history.forget(str(elsewhere))
    second.unlink()  # never in the index: gone is gone
    assert [entry.path for entry in listed()] == [first]
    again = History(tmp_path / "own" / "history.json")
    history.index.write_text("not json")
    again.refresh([tmp_path / "ä"])
    again.wait()
    assert [entry.path for entry in again.answers.get(timeout=5)] == [first]


def test_what_a_result_lacks_is_said(tmp_path):
    movie = write_result(tmp_path / "x", "one", 1.0)
    assert shot_of(read_metadata(movie))["scene"] == "Scene"
    movie.with_suffix(".json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        read_metadata(movie)
    movie.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match="not beside the video"):
        read_metadata(movie)
    with pytest.raises(ValueError, match="not made from Blender"):
        shot_of({"seed": 3})


@pytest.mark.parametrize(
    ("count", "told", "times"),
    [
        (5, None, [1, 13, 25, 37, 49]),
        (3, {"scene_frames": [1, 25, 49], "clip": {"frame_range": [1, 49]}}, [1, 25, 49]),
        (49, None, list(range(1, 50))),
    ],
)
def test_frames_are_mapped_to_the_scene(count, told, times):
    metadata = {"shot": {"frame_start": 1, "frame_end": 49, "frame_count": 49, "settings": {}}, **(told or {})}
    found = scene_times(metadata, count)
    assert found.tolist() == times
    shown = shown_frames(found, 1, 49)
    for number, frame in enumerate(times):
        assert shown[frame - 1] == number  # each on the frame that it was made from
    assert is_one_to_one(shown) == (count == 49)
    back = np.repeat([value for _, value in changes(shown)], np.diff([place for place, _ in changes(shown)] + [49]))
    assert (back == shown).all()


def test_a_clip_spread_over_its_range_maps_through_its_own_frames():
    """Every other frame of 10 to 26, of which the model took every other: the server counts the clip's frames."""
    shot = {"frame_start": 10, "frame_end": 26, "frame_count": 9, "settings": {}}
    metadata = {"shot": shot, "scene_frames": [10, 12, 14, 16, 18], "clip": {"frame_range": [10, 26]}}
    assert scene_times(metadata, 5).tolist() == [10, 14, 18, 22, 26]
