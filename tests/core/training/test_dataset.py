# SPDX-License-Identifier: Apache-2.0
"""Clips in folders and tar shards, with PNG strips or MP4; what is broken is named, counted and limited."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from hvg3d_core.conditions import ClipError, clip_bytes, network_inputs, save_clip
from hvg3d_core.training.cache import LatentCache, load_cache
from hvg3d_core.training.config import TrainingError
from hvg3d_core.training.dataset import find_samples, load_frames
from hvg3d_core.training.stages import run_stage
from hvg3d_core.video import write_mp4
from tests.core.synthetic import make_clip, png, write_dataset
from tests.core.training.conftest import hvg3d, write_config


def smooth(shape: tuple[int, int, int]) -> np.ndarray:
    """T x H x W x 3 frames that H.264 keeps within a few grey levels."""
    t, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    return (np.stack([x, y, 0.5 * (x + t)], axis=-1) * 200 + 20).astype(np.uint8)


def to_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_a_shard_gives_what_the_folder_does(tmp_path):
    write_dataset(tmp_path / "folder", 3)
    for number, names in enumerate((("0000", "0001"), ("0002",))):
        members = {f"./set/{n}{s}": (tmp_path / "folder" / f"{n}{s}").read_bytes()
                   for n in names for s in (".png", ".clip.safetensors")}  # fmt: skip
        (tmp_path / "shards").mkdir(exist_ok=True)
        to_tar(tmp_path / "shards" / f"{number:03d}.tar", members | {"./set/note.txt": b"not a sample"})
    a, b = (find_samples(tmp_path / kind) for kind in ("folder", "shards"))
    assert [s.name for s in a] == [s.name for s in b] == ["0000", "0001", "0002"]
    for one, other in zip(a, b, strict=True):
        assert np.array_equal(one.source_frames(), other.source_frames())
        assert np.array_equal(one.clip().points, other.clip().points)


def test_webdataset_writes_what_is_read(tmp_path):
    """The peer's own writer, where it is installed."""
    webdataset = pytest.importorskip("webdataset")
    clip, frames = make_clip()
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as writer:
        writer.write({"__key__": "a", "clip.safetensors": clip_bytes(clip), "png": png(frames.reshape(-1, 48, 3))})
    (sample,) = find_samples(tmp_path)
    assert np.array_equal(sample.source_frames(), frames)


def test_mp4_frames_are_the_recorded_ones(tmp_path):
    clip, _ = make_clip(width=96, height=64)
    frames = smooth((9, 64, 96))
    save_clip(clip, tmp_path / "a.clip.safetensors")
    write_mp4(tmp_path / "a.mp4", frames, 8)
    (sample,) = find_samples(tmp_path)
    read = sample.source_frames()
    assert read.shape == frames.shape
    assert np.abs(read.astype(int) - frames).mean() < 3
    assert np.abs(read[0].astype(int) - frames[0]).mean() < np.abs(read[0].astype(int) - frames[8]).mean()


def test_frames_are_fitted_as_the_conditions_are(tmp_path):
    """Another size, aspect and number of frames: masks painted into the frames stay where the network's masks are."""
    clip, _ = make_clip(num_frames=17, width=96, height=64)
    painted = np.repeat((clip.views[0].masks > 0)[..., None], 3, -1).astype(np.uint8) * 255
    save_clip(clip, tmp_path / "a.clip.safetensors")
    Image.fromarray(painted.reshape(-1, 96, 3)).save(tmp_path / "a.png")
    (sample,) = find_samples(tmp_path)
    frames = sample.frames(48, 48, 9)
    masks = network_inputs(clip, num_frames=9, width=48, height=48).masks > 0
    assert np.mean((frames[..., 0] > 127) == masks) > 0.97
    assert 0.02 < masks.mean() < 0.9


BREAKS = {
    "no picture": (".png", lambda data: b"no picture"),
    "cut off": (".png", lambda data: data[:40]),
    "clip cut off": (".clip.safetensors", lambda data: data[: len(data) // 2]),
    "clip is a picture": (".clip.safetensors", lambda data: b"\x89PNG" * 100),
    "other frame count": (".png", lambda data: png(np.zeros((32 * 8 + 5, 48, 3), np.uint8))),
    "other aspect": (".png", lambda data: png(np.zeros((9 * 64, 48, 3), np.uint8))),
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_sample_is_named_with_its_reason(small, tmp_path, how, caplog):
    write_dataset(tmp_path / "data" / "train", 3)
    suffix, spoil = BREAKS[how]
    path = tmp_path / "data" / "train" / f"0001{suffix}"
    path.write_bytes(spoil(path.read_bytes()))
    config = write_config(tmp_path, small / "start", data__max_broken_share="0.4")
    run_stage("cache", str(config), tmp_path / "data", tmp_path / "out")
    assert load_cache(tmp_path / "out" / "cache").names == ["0000", "0002"]
    (line,) = (tmp_path / "out" / "cache" / "broken.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == "0001"
    assert len(json.loads(line)["reason"]) > 15
    assert "left out 0001" in caplog.text


def test_too_many_broken_samples_end_the_training(small, tmp_path):
    write_dataset(tmp_path / "data" / "train", 3)
    (tmp_path / "data" / "train" / "0001.png").write_bytes(b"no picture")
    config = write_config(tmp_path, small / "start", data__max_broken_share="0.3")
    with pytest.raises(TrainingError, match=r"1 of 3 samples .* data.max_broken_share, 0.3.* 0001: .*raise that share"):
        run_stage("cache", str(config), tmp_path / "data", tmp_path / "out")
    with pytest.raises(TrainingError, match="1 of 3"):
        load_frames(find_samples(tmp_path / "data" / "train"), 48, 32, 9, 0.3)
    write_dataset(tmp_path / "data" / "train", 3)  # mended: it is taken in, and the report is empty
    run_stage("cache", str(config), tmp_path / "data", tmp_path / "out")
    assert sorted(load_cache(tmp_path / "out" / "cache").names) == ["0000", "0001", "0002"]
    assert (tmp_path / "out" / "cache" / "broken.jsonl").read_text() == ""


def test_a_clip_that_is_not_finite_is_broken(small, tmp_path):
    write_dataset(tmp_path / "data" / "train", 2)
    clip, _ = make_clip()
    points = clip.points.copy()
    points[3, 5] = np.nan
    path = tmp_path / "data" / "train" / "0001.clip.safetensors"
    with pytest.raises(ClipError):
        save_clip(replace(clip, points=points), path)
    data = bytearray(path.read_bytes())
    bits = points[3, 6:7].tobytes()
    place = data.find(bits)
    if place < 0:
        pytest.skip("the clip's points are not stored plainly")
    data[place : place + 4] = np.float32(np.inf).tobytes()
    path.write_bytes(bytes(data))
    config = write_config(tmp_path, small / "start", data__max_broken_share="0.5")
    run_stage("cache", str(config), tmp_path / "data", tmp_path / "out")
    assert load_cache(tmp_path / "out" / "cache").names == ["0000"]


def test_lonely_files_are_reported(tmp_path, caplog):
    write_dataset(tmp_path, 2)
    (tmp_path / "0001.png").unlink()
    assert [s.name for s in find_samples(tmp_path)] == ["0000"]
    assert "0001" in caplog.text


def test_a_name_that_is_there_twice_and_a_broken_tar_are_refused(tmp_path):
    write_dataset(tmp_path, 1)
    members = {f"0000{s}": (tmp_path / f"0000{s}").read_bytes() for s in (".png", ".clip.safetensors")}
    to_tar(tmp_path / "a.tar", members)
    with pytest.raises(ClipError, match="0000 is there more than once"):
        find_samples(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(ClipError, match=r"a.tar: not a readable tar"):
        find_samples(tmp_path)


def test_a_cache_is_not_read_into_memory(tmp_path):
    """Rows of 200 MB of latents, drawn at random, cost the memory of the rows."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("memory of a process is read from /proc")

    def own_megabytes() -> float:
        return int(next(line for line in status.read_text().splitlines() if "RssAnon" in line).split()[1]) / 1024

    for shard in range(4):
        rows = torch.full((25, 1 << 20), float(shard), dtype=torch.float16)
        names = {"prompts": json.dumps([""] * 25), "names": json.dumps([f"{shard} {i}" for i in range(25)])}
        save_file({"latents": rows}, tmp_path / f"shard_{shard:05d}.safetensors", names)
    del rows
    before = own_megabytes()
    cache = LatentCache(tmp_path)
    assert len(cache) == 100
    for index in torch.randperm(100, generator=torch.Generator().manual_seed(0)).split(2):
        found = cache.batch(index)["latents"]
        assert found[:, 0].tolist() == [int(i) // 25 for i in index]
        assert own_megabytes() - before < 60


def test_a_cache_of_other_settings_is_refused(small, tmp_path):
    write_dataset(tmp_path / "data" / "train", 1)
    config = write_config(tmp_path, small / "start")
    run_stage("cache", str(config), tmp_path / "data", tmp_path / "out")
    other = write_config(tmp_path, small / "start", video__num_points="32")
    with pytest.raises(TrainingError, match=r"num_points 64, and now it is 32; delete"):
        run_stage("cache", str(other), tmp_path / "data", tmp_path / "out")
    (shard,) = (tmp_path / "out" / "cache").glob("shard_*")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(TrainingError, match="delete it, and its clips are encoded again"):
        load_cache(tmp_path / "out" / "cache")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_data_render_writes_is_taken(small, tmp_path):
    """Real Blender, real frames, through the command line; then its latents."""
    pytest.importorskip("bpy")
    size = ("--width", 48, "--height", 32, "--frames", 9, "--samples", 1)
    hvg3d("data", "render", "--out", tmp_path / "data" / "train", "--start-seed", 0, "--count", 3, *size)
    rendered = sorted(p.name.split(".")[0] for p in (tmp_path / "data" / "train").glob("*.clip.safetensors"))
    assert rendered
    config = write_config(tmp_path, small / "start", data__augment="true")
    run_stage("cache", str(config), tmp_path / "data", tmp_path / "out")
    cache = load_cache(tmp_path / "out" / "cache")
    assert cache.names == [name for name in rendered for _ in range(4)]
    assert cache.batch(torch.arange(len(cache)))["mask"].amax((1, 2, 3)).min() > 0
