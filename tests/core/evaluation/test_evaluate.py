# SPDX-License-Identifier: Apache-2.0
"""Whole evaluations of real videos on small clips: numbers, subsets, differences, what is kept, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hvg3d_core.cli.main import app
from hvg3d_core.conditions import load_clip
from hvg3d_core.evaluation import distributions
from hvg3d_core.evaluation import evaluate as module
from hvg3d_core.evaluation.errors import EvaluationError
from hvg3d_core.evaluation.evaluate import Plan, evaluate
from hvg3d_core.evaluation.frame_metrics import masked_psnr
from hvg3d_core.evaluation.statistics import bootstrap_mean
from hvg3d_core.video import write_mp4

from ..synthetic import write_dataset
from .test_networks import weights_folder  # noqa: F401

FRAMES, WIDTH, HEIGHT = 17, 96, 64


def read_frames(path: Path) -> np.ndarray:
    return np.array(Image.open(path)).reshape(FRAMES, HEIGHT, WIDTH, 3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips in two subsets, and two folders of videos: ``near`` with little noise, ``far`` with more."""
    folder = tmp_path_factory.mktemp("evaluation")
    write_dataset(folder / "clips", 4, num_frames=FRAMES, width=WIDTH, height=HEIGHT)
    lines = [{"seed": f"{i:04d}", "motion": "lift", "subsets": ["even" if i % 2 == 0 else "odd"]} for i in range(4)]
    (folder / "clips" / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rng = np.random.default_rng(0)
    for name, noise in (("near", 5), ("far", 20)):
        (folder / name).mkdir()
        for i in range(4):
            frames = read_frames(folder / "clips" / f"{i:04d}.png")
            worse = np.clip(frames + rng.normal(0, noise, frames.shape), 0, 255).astype(np.uint8)
            Image.fromarray(worse.reshape(-1, WIDTH, 3)).save(folder / name / f"{i:04d}.png")
    return folder


def plan(data: Path, out: Path, **options: object) -> Plan:
    videos = (f"near={data / 'near'}", f"far={data / 'far'}")
    given = {"videos": videos, "num_frames": FRAMES, "metrics": ("psnr", "l1")}
    return Plan(data / "clips", out, **(given | options))  # type: ignore[arg-type]


def test_numbers_subsets_and_differences_are_those_of_the_clips(data, tmp_path):
    results = evaluate(plan(data, tmp_path, baseline="far"))
    assert results.subsets == {"all": [0, 1, 2, 3], "even": [0, 2], "odd": [1, 3]}
    expected = {"near": [], "far": []}
    for i in range(4):
        truth = read_frames(data / "clips" / f"{i:04d}.png")
        masks = load_clip(data / "clips" / f"{i:04d}.clip.safetensors").views[0].masks > 0
        for name, values in expected.items():
            video = read_frames(data / name / f"{i:04d}.png")
            values.append(masked_psnr(video[1:], truth[1:], masks[1:]))
    for name, values in expected.items():
        np.testing.assert_allclose(results.values[name]["psnr.region"], values)
    saved = json.loads((tmp_path / "results.json").read_text())
    odd = saved["summary"]["odd"]["methods"]["near"]["psnr.region"]
    assert odd["value"]["mean"] == pytest.approx(np.mean([expected["near"][i] for i in (1, 3)]))
    assert odd["value"]["count"] == 2
    gain = bootstrap_mean(np.subtract(expected["near"], expected["far"]))
    over = saved["summary"]["all"]["methods"]["near"]["psnr.region"]["over_baseline"]
    assert (over["mean"], over["low"]) == pytest.approx((gain.mean, gain.low))
    assert over["low"] > 0
    assert "over_baseline" not in saved["summary"]["all"]["methods"]["far"]["psnr.region"]
    text = (tmp_path / "table.md").read_text()
    assert "## Subset even: 2 clips" in text
    assert f"{np.mean(expected['near']):.2f} [" in text


@pytest.mark.slow
def test_every_metric_has_a_number_and_the_truth_bounds_them(data, tmp_path, weights_folder, monkeypatch):  # noqa: F811
    monkeypatch.setattr(distributions, "DRAWS", 20)
    options = {"metrics": ("all",), "weights": (str(weights_folder),), "page": False, "limit": 2, "subsets": ("all",)}
    results = evaluate(plan(data, tmp_path, **options))
    assert not results.not_computed
    for metric in results.metrics:
        for scope in metric.scopes:
            key = f"{metric.key}.{scope}"
            near, far = results.mean("near", key), results.mean("far", key)
            if key in ("lpips.crop",):  # the box may be smaller than AlexNet takes
                continue
            assert near is not None and far is not None, key
            assert np.isfinite(near.mean), key
            if metric.key in (
                "l1",
                "psnr",
                "psnr_frames",
                "ssim",
                "st_ssim",
                "gmsd_t",
                "sts_gmsd",
                "ssim_3d",
                "fid",
                "lpips",
            ):
                better = near.mean > far.mean if metric.better == "up" else near.mean < far.mean
                assert better, f"{key}: {near} and {far}"
            assert (results.mean("truth", key) is not None) == metric.of_truth, key
    assert results.mean("near", "fid.frame").count == 2 * (FRAMES - 1)
    assert results.mean("near", "fvd.frame").count == 2


def test_what_cannot_be_computed_is_said_and_not_zero(data, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    results = evaluate(plan(data, tmp_path, metrics=("l1", "lpips", "fvd"), page=False))
    assert set(results.not_computed) == {"lpips", "fvd"}
    saved = json.loads((tmp_path / "results.json").read_text())
    assert "lpips.frame" not in saved["summary"]["all"]["methods"]["near"]
    assert "- FVD: it needs" in (tmp_path / "table.md").read_text()


def test_a_second_run_computes_only_what_is_new(data, tmp_path, monkeypatch):
    first = evaluate(plan(data, tmp_path))
    calls: list[list[str]] = []
    score = module.ClipScorer.score
    monkeypatch.setattr(
        module.ClipScorer, "score", lambda self, video, wanted: calls.append(list(wanted)) or score(self, video, wanted)
    )
    again = evaluate(plan(data, tmp_path))
    assert not calls
    np.testing.assert_array_equal(first.values["near"]["psnr.region"], again.values["near"]["psnr.region"])
    evaluate(plan(data, tmp_path, metrics=("psnr", "psnr_frames")))
    assert {key for call in calls for key in call} == {f"psnr_frames.{s}" for s in ("frame", "region", "crop")}
    calls.clear()
    changed = tmp_path / "far"
    shutil.copytree(data / "far", changed)
    shutil.copy(data / "near" / "0001.png", changed / "0001.png")
    third = evaluate(plan(data, tmp_path, videos=(f"near={data / 'near'}", f"far={changed}")))
    assert len(calls) == 1, "one video changed"
    assert third.values["far"]["psnr.frame"][1] == first.values["near"]["psnr.frame"][1]


def test_videos_may_be_mp4_folders_of_pictures_and_of_another_size(data, tmp_path):
    mixed = tmp_path / "mixed"
    frames = read_frames(data / "clips" / "0000.png")
    write_mp4(mixed / "0000.mp4", frames, 8, crf=4)
    (mixed / "0001").mkdir()
    for t, frame in enumerate(read_frames(data / "clips" / "0001.png")):
        Image.fromarray(frame).save(mixed / "0001" / f"{t:03d}.png")
    write_mp4(mixed / "0002" / "video.mp4", frames.repeat(2, 1).repeat(2, 2), 8, crf=4)
    results = evaluate(plan(data, tmp_path / "out", videos=(f"mixed={mixed}",), num_frames=None, page=False))
    values = results.values["mixed"]["psnr.frame"]
    assert values[0] > 30
    assert values[1] == 100, "pictures lose nothing, and identical videos count 100 dB"
    assert np.isnan(values[3]), "there is none"
    found = results.mean("mixed", "psnr.frame")
    assert found is not None
    assert found.count == 3
    assert "(N=3)" in (tmp_path / "out" / "table.md").read_text()


def test_subsets_and_limit_choose_clips(data, tmp_path):
    assert evaluate(plan(data, tmp_path, subsets=("odd",), page=False)).clips == ["0001", "0003"]
    assert evaluate(plan(data, tmp_path, subsets=("motion=lift",), limit=3, page=False)).clips == [
        "0000",
        "0001",
        "0002",
    ]
    with pytest.raises(EvaluationError, match="no clip is in motion=push"):
        evaluate(plan(data, tmp_path, subsets=("motion=push",)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metrics": ("sharpness",)}, "metric 'sharpness' is not known: use l1, psnr"),
        ({"baseline": "other"}, "--baseline 'other' is none of what is compared: repeat, near, far"),
        ({"videos": ("a=/nowhere",)}, "there is no folder /nowhere"),
        ({"models": ("nano",), "variants": ("half",)}, "variant 'half' is not known: use full, points"),
        ({"num_frames": 5}, "check --frames"),
        ({"width": 64, "height": 64}, "has not the aspect of 64x64"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_remedy(data, tmp_path, options, said):
    with pytest.raises(EvaluationError, match=said):
        evaluate(plan(data, tmp_path, **options))


def test_a_broken_manifest_or_clip(data, tmp_path, caplog):
    clips = tmp_path / "clips"
    shutil.copytree(data / "clips", clips)
    (clips / "0002.png").write_bytes(b"no picture")
    given = plan(data, tmp_path / "out", page=False)
    results = evaluate(Plan(clips, given.out, videos=given.videos, num_frames=FRAMES, metrics=("psnr",), page=False))
    assert results.clips == ["0000", "0001", "0003"]
    assert "0002" in caplog.text
    (clips / "manifest.jsonl").write_text('{"seed": 1}\n{"subsets": "odd", "seed": 2}\n')
    with pytest.raises(EvaluationError, match=r"manifest.jsonl, line 2: .*not a list of names"):
        evaluate(Plan(clips, given.out, videos=given.videos, num_frames=FRAMES))


def test_the_command_prints_the_table(data, tmp_path):
    arguments = ["eval", "--data", data / "clips", "--videos", f"near={data / 'near'}", "--frames", FRAMES]
    arguments += ["--metrics", "psnr,ssim", "--out", tmp_path, "--limit", 2, "--size", f"{WIDTH}x{HEIGHT}", "--no-page"]
    done = CliRunner().invoke(app, [str(part) for part in arguments])
    assert done.exit_code == 0, done.output
    assert "### Hand-object region, N = 2 clips" in done.output
    assert (tmp_path / "results.json").exists()
    assert not (tmp_path / "index.html").exists()
