# SPDX-License-Identifier: Apache-2.0
"""Clips survive the way to disk and back; damaged, foreign and newer files are refused with the reason."""

import dataclasses
import json
import os
import struct
import zlib

import numpy as np
import pytest
import safetensors.numpy

from hvg3d_core.conditions import ClipError, View, clip_bytes, clip_from_bytes, encode_png, load_clip, save_clip
from hvg3d_core.conditions.io import HEADER_KEY, SCHEMA_KEY

ARRAYS = ("points", "point_entity", "tracks", "track_visible", "joints", "object_poses", "contacts", "normals")
PLAIN = ("entities", "fps", "frame_range", "width", "height", "prompt", "tracked", "provenance")


def same(a, b):
    for name in (*ARRAYS, "track_points"):
        one, two = getattr(a, name), getattr(b, name)
        assert (one is None) == (two is None), name
        assert one is None or (one.dtype == two.dtype and np.array_equal(one, two)), name
    for name in PLAIN:
        assert getattr(a, name) == getattr(b, name), name
    assert len(a.views) == len(b.views)
    for left, right in zip(a.views, b.views, strict=True):
        assert (left.name, left.reference) == (right.name, right.reference)
        for name in ("K", "world_to_camera", "point_visible", "masks"):
            assert np.array_equal(getattr(left, name), getattr(right, name)), name


@pytest.fixture
def full(clip):
    """Every optional field, two views, and text that is not ASCII."""
    clip.contacts = clip.points[..., 2] > 0
    clip.normals = np.tile(np.array([0, 0, 1], np.float32), (*clip.points.shape[:2], 1))
    clip.views.append(dataclasses.replace(clip.views[0], name="zweite Kamera"))
    clip.prompt = 'eine Hand hebt eine Dose — 手 "x"\n'
    clip.provenance = {"tool": "test", "licences": ["CC0"], "nested": {"n": 1.5, "none": None}}
    return clip


@pytest.mark.parametrize("memory_map", [False, True])
def test_round_trip_of_everything(full, tmp_path, memory_map):
    save_clip(full, tmp_path / "a" / "clip.safetensors")
    same(full, load_clip(tmp_path / "a" / "clip.safetensors", memory_map=memory_map))
    same(full, clip_from_bytes(clip_bytes(full)))


def test_round_trip_of_the_least(clip):
    clip.joints = clip.object_poses = clip.track_points = None
    clip.tracks, clip.track_visible = clip.tracks[:, :0], clip.track_visible[:, :0]
    same(clip, clip_from_bytes(clip_bytes(clip)))


def test_round_trip_of_untracked_points(clip):
    clip.tracked, clip.track_points = False, None
    clip.point_entity = np.tile(clip.point_entity, (clip.num_frames, 1))
    same(clip, clip_from_bytes(clip_bytes(clip)))


def test_a_clip_has_one_encoding(clip, tmp_path):
    save_clip(clip, tmp_path / "clip")
    assert (tmp_path / "clip").read_bytes() == clip_bytes(clip) == clip_bytes(clip_from_bytes(clip_bytes(clip)))


def test_the_safetensors_package_reads_ours(full, tmp_path):
    save_clip(full, tmp_path / "clip.safetensors")
    tensors = safetensors.numpy.load_file(tmp_path / "clip.safetensors")
    assert np.array_equal(tensors["points"], full.points)
    assert np.array_equal(tensors["views.1.point_visible"], full.views[1].point_visible)
    assert tensors["views.0.reference"].tobytes() == full.views[0].reference
    assert zlib.decompress(tensors["views.0.masks"]) == full.views[0].masks.tobytes()
    with safetensors.safe_open(tmp_path / "clip.safetensors", framework="np") as file:
        assert file.metadata()[SCHEMA_KEY] == "1"


def test_we_read_what_the_safetensors_package_writes(full, tmp_path):
    save_clip(full, tmp_path / "ours")
    with safetensors.safe_open(tmp_path / "ours", framework="np") as file:
        metadata = file.metadata()
    safetensors.numpy.save_file(safetensors.numpy.load_file(tmp_path / "ours"), tmp_path / "theirs", metadata)
    same(full, load_clip(tmp_path / "theirs"))


def rewrite(data, change):
    """The file with its header changed; data bytes stay."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def with_clip_header(data, **changes):
    def change(header):
        inner = json.loads(header["__metadata__"][HEADER_KEY])
        inner.update(changes)
        header["__metadata__"][HEADER_KEY] = json.dumps({k: v for k, v in inner.items() if v != "DELETE"})

    return rewrite(data, change)


def test_every_truncation_is_noticed_and_names_the_file(clip, tmp_path):
    data, path = clip_bytes(clip), tmp_path / "cut.safetensors"
    lengths = {0, 1, 7, 8, 9, 100, len(data) - 1, *np.linspace(2, len(data) - 2, 60).astype(int).tolist()}
    for length in lengths:
        path.write_bytes(data[:length])
        with pytest.raises(ClipError, match=r"cut\.safetensors: "):
            load_clip(path)
        with pytest.raises(ClipError, match=r"cut\.safetensors: "):
            load_clip(path, memory_map=True)


def test_flipped_bytes_never_raise_anything_but_a_clip_error(clip):
    """600 damaged copies: each loads (a flipped coordinate is a coordinate) or says so; none crashes the reader."""
    data, rng = clip_bytes(clip), np.random.default_rng(0)
    (length,) = struct.unpack("<Q", data[:8])
    refused = 0
    for trial in range(600):
        damaged = bytearray(data)
        end = 8 + length if trial % 2 else len(data)
        for at in rng.integers(0, end, 3):
            damaged[at] = rng.integers(256)
        try:
            clip_from_bytes(bytes(damaged))
        except ClipError:
            refused += 1
    assert refused > 250


def test_newer_files_are_refused_with_version_and_remedy(clip):
    newer = rewrite(clip_bytes(clip), lambda h: h["__metadata__"].update({SCHEMA_KEY: "7"}))
    with pytest.raises(ClipError, match=r"later\.clip: it has schema version 7.*up to version 1.*update HVG-3D"):
        clip_from_bytes(newer, "later.clip")


def huge_header(h):
    h["points"] = {"dtype": "F32", "shape": [10**9, 10**9, 3], "data_offsets": [0, 12 * 10**18]}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda h: h.pop("tracks"), "gap or overlap"),
        (lambda h: h["__metadata__"].pop(SCHEMA_KEY), "no HVG-3D clip"),
        (lambda h: h["__metadata__"].update({SCHEMA_KEY: "one"}), "'one' is no schema version"),
        (lambda h: h["__metadata__"].pop(HEADER_KEY), "hvg3d.clip"),
        (lambda h: h["__metadata__"].update({HEADER_KEY: "[" * 100_000}), "hvg3d.clip"),
        (lambda h: h["points"].update(dtype="F16"), "'points'"),
        (lambda h: h["points"].update(dtype="I32"), "points: dtype int32"),
        (lambda h: h["points"].update(shape=[9, 200, 9]), "points: shape"),
        (lambda h: h["points"].update(shape=[-9, -200, 9]), "'points' has shape"),
        (lambda h: h["points"].update(data_offsets=[0, 10**15]), "cut off or damaged"),
        (lambda h: h["points"].update(data_offsets="x"), "'points' has shape"),
        (huge_header, "'points'"),
        (lambda h: h.update(points=3), "'points' has no description"),
        (lambda h: h.update(__metadata__={"a": 1}), "__metadata__"),
        (lambda h: h.update(pts=h.pop("points")), "points: the tensor is missing"),
    ],
)
def test_broken_headers_are_refused_by_name(clip, change, named):
    with pytest.raises(ClipError) as error:
        clip_from_bytes(rewrite(clip_bytes(clip), change), "bad.clip")
    assert str(error.value).startswith("bad.clip: ")
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"width": 161}, "views.0.masks"),
        ({"width": 16000, "height": 16000}, "views.0.masks"),
        ({"width": 10**12}, "width: 1000000000000"),
        ({"width": "DELETE"}, "width: it is missing"),
        ({"fps": 0}, "fps: 0"),
        ({"fps": "24"}, "fps: '24'"),
        ({"entities": []}, "entities: 0 given"),
        ({"entities": [{"name": "x"}]}, "entities: {'name': 'x'}"),
        ({"entities": [{"name": "x", "role": "king"}]}, "'king'"),
        ({"entities": [{"name": "x", "role": "object"}]}, "point_entity: 1"),
        ({"views": ["a", "b"]}, "views.1.reference: the tensor is missing"),
        ({"views": []}, "views: 0"),
        ({"views": [7]}, "views[0].name"),
        ({"tracked": 1}, "tracked: 1"),
        ({"tracked": False}, "point_entity: shape"),
        ({"frame_range": [3, 1]}, "frame_range"),
        ({"frame_range": [None]}, "frame_range"),
    ],
)
def test_wrong_values_in_the_clip_header_are_refused_by_name(clip, changes, named):
    with pytest.raises(ClipError) as error:
        clip_from_bytes(with_clip_header(clip_bytes(clip), **changes))
    assert named in str(error.value)


def test_a_header_of_impossible_length_takes_no_memory():
    for length in (2**63, 2**40, 99_000_000):
        with pytest.raises(ClipError, match="header claims"):
            clip_from_bytes(struct.pack("<Q", length) + b"{}")


def test_masks_that_inflate_beyond_their_size_stop_there(clip):
    """A deflate bomb in the masks' place: a gigabyte of zeros in a megabyte."""
    bomb = zlib.compressobj(9)
    packed = b"".join(bomb.compress(bytes(1 << 24)) for _ in range(16)) + bomb.flush()
    tensors = safetensors.numpy.load(clip_bytes(clip))
    tensors["views.0.masks"] = np.frombuffer(packed, np.uint8)
    data = clip_bytes(clip)
    metadata = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])["__metadata__"]
    import tracemalloc

    tampered = safetensors.numpy.save(tensors, metadata)
    tracemalloc.start()
    with pytest.raises(ClipError, match="do not hold exactly"):
        clip_from_bytes(tampered)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20, "far less than the 256 MiB that the bomb holds"


def test_missing_and_unreadable_files_are_named(tmp_path):
    with pytest.raises(ClipError, match=r"nothing\.clip: it cannot be read"):
        load_clip(tmp_path / "nothing.clip")
    with pytest.raises(ClipError, match="it cannot be read"):
        load_clip(tmp_path)
    (tmp_path / "other").write_bytes(b"glTF" * 100)
    with pytest.raises(ClipError, match="no safetensors file"):
        load_clip(tmp_path / "other")


def test_a_failed_save_leaves_the_old_file_and_no_rest(clip, tmp_path, monkeypatch):
    path = tmp_path / "clip.safetensors"
    save_clip(clip, path)
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    clip.prompt = "another"
    with pytest.raises(OSError, match="No space"):
        save_clip(clip, path)
    clip.points[0, 0, 0] = np.nan
    with pytest.raises(ClipError, match="points"):
        save_clip(clip, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["clip.safetensors"]


def set_item(name, index, value):
    def change(clip):
        getattr(clip, name)[index] = value

    return change


def set_view(name, index, value):
    def change(clip):
        getattr(clip.views[0], name)[index] = value

    return change


def set_field(name, value):
    return lambda clip: setattr(clip, name, value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (set_item("points", (3, 7, 1), np.inf), "points: 1 values are not finite, the first is inf at index (3, 7, 1)"),
        (set_item("tracks", (2, 0, 0), np.nan), "tracks: 1 values"),
        (set_item("point_entity", 5, 2), "point_entity: 2 at index (5,)"),
        (set_item("track_points", 0, 600), "track_points: 600"),
        (set_item("joints", (1, 2, 0), np.nan), "joints: 1 values"),
        (set_view("masks", (4, 5, 6), 3), "views[0].masks: 3 at (frame, row, column) (4, 5, 6)"),
        (set_view("K", (2, 0, 0), -5), "views[0].K: focal length -5.0 at frame index 2"),
        (set_view("K", (2, 2, 0), 1), "no pinhole matrix"),
        (set_view("world_to_camera", (6, 0, 0), 3), "orthonormal"),
        (set_view("world_to_camera", (6, slice(3)), -np.eye(3, 4)), "at frame index 6 mirrors"),
        (set_view("world_to_camera", (6, 3, 0), 1), "last row"),
        (lambda c: setattr(c.views[0], "reference", b"GIF89a"), "does not start like a PNG"),
        (lambda c: setattr(c.views[0], "reference", c.views[0].reference[:-9]), "cut off"),
        (lambda c: setattr(c.views[0], "reference", encode_png(np.zeros((9, 8, 3), np.uint8))), "the PNG is 8 x 9"),
        (lambda c: setattr(c.views[0], "masks", c.views[0].masks[:, 1:]), "views[0].masks: shape"),
        (set_field("views", []), "views: there is none"),
        (set_field("views", ["x"]), "views[0]: str given"),
        (set_field("points", None), "points: NoneType given"),
        (lambda c: setattr(c, "points", c.points.astype(np.float64)), "points: dtype float64; convert it to float32"),
        (lambda c: setattr(c, "points", c.points[:0]), "points: shape (0, 600, 3)"),
        (lambda c: setattr(c, "tracks", c.tracks[1:]), "tracks: shape"),
        (set_field("fps", float("inf")), "fps: inf"),
        (set_field("height", 10.5), "height: 10.5"),
        (set_field("prompt", None), "prompt: NoneType"),
        (set_field("normals", np.ones((9, 600, 3), np.float32)), "normals: length 1.732"),
        (set_field("provenance", {"x": object()}), "provenance: JSON cannot hold it"),
        (set_field("provenance", {"x": float("nan")}), "provenance: JSON cannot hold it"),
    ],
)
def test_clips_that_break_the_schema_are_refused_by_field_value_and_place(clip, change, named):
    change(clip)
    with pytest.raises(ClipError) as error:
        clip_bytes(clip)
    assert named in str(error.value)


def test_any_number_of_frames_can_be_stored(grasp):
    """The VAE's rule is the network's, not the file's."""
    clip = grasp.clip(num_frames=2)
    assert clip_from_bytes(clip_bytes(clip)).num_frames == 2
    assert isinstance(clip.views[0], View)
