# SPDX-License-Identifier: Apache-2.0
"""Stage control: what is trained, dropped, validated and refused; on a tiny network."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from hvg3d_core.conditions import load_clip
from hvg3d_core.evaluation.frame_metrics import masked_psnr
from hvg3d_core.generate import GenerationRequest, generate, load_model
from hvg3d_core.training.cache import load_cache
from hvg3d_core.training.config import ConfigError, ControlStage, HardwareConfig, TrainingError, load_config
from hvg3d_core.training.control import ControlStep, embed_prompts, resolved
from hvg3d_core.training.denoiser import Noising
from hvg3d_core.training.hardware import Hardware
from hvg3d_core.training.loop import Part, Trainer
from hvg3d_core.training.prompts import PromptEmbeddings
from hvg3d_core.training.stages import run_stage
from hvg3d_core.training.start import DTYPES, find_start
from hvg3d_core.training.validation import psnr
from hvg3d_core.video import read_video
from tests.core.training.conftest import write_config
from tests.core.training.test_resume import new_out, weights

VALIDATED = {
    "steps": "4",
    "gradient_checkpointing": "true",
    "frozen_dtype": '"bfloat16"',
    "control__validation__every": "2",
    "control__validation__steps": "2",
    "control__validation__loss_samples": "2",
}


@pytest.fixture(scope="module")
def validated(small, tmp_path_factory):
    """A whole run in bf16 with validation and gradient checkpointing."""
    folder = tmp_path_factory.mktemp("validated")
    config = write_config(folder, small / "start", **VALIDATED)
    out = new_out(small, folder)
    run_stage("control", str(config), small / "data", out)
    return out


def test_validation_writes_videos_and_a_row_of_metrics(validated):
    rows = [json.loads(line) for line in (validated / "control_run" / "validation.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    for row in rows:
        assert {"loss", "psnr", "psnr_region", "psnr/0000", "psnr_region/0001"} <= row.keys()
        assert row["psnr"] == pytest.approx((row["psnr/0000"] + row["psnr/0001"]) / 2)
        frames, _ = read_video(validated / "control_run" / "validation" / f"step_{row['step']:06d}" / "0000.mp4")
        assert frames.shape == (9, 64, 48, 3)  # truth above what was generated
    assert rows[0]["loss"] != rows[1]["loss"]


def test_tensorboard_has_what_the_lines_have(validated):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(validated / "control_run" / "tensorboard"))
    events.Reload()
    rows = [json.loads(line) for line in (validated / "control_run" / "log.jsonl").read_text().splitlines()]
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [
        (row["step"], pytest.approx(row["loss"])) for row in rows
    ]
    assert len(events.Scalars("validation/psnr")) == 2
    assert "validation/0000" in events.Tags()["images"]


def test_validation_changes_nothing(small, validated, tmp_path):
    plain = {key: value for key, value in VALIDATED.items() if "validation" not in key}
    config = write_config(tmp_path, small / "start", **plain)
    out = new_out(small, tmp_path)
    run_stage("control", str(config), small / "data", out)
    a, b = weights(validated), weights(out)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_bf16_keeps_float32_masters(validated):
    """Weights, moments and average are float32; an update below bf16's resolution is not lost; the base is bf16."""
    state = torch.load(validated / "control_run" / "checkpoint.pt", weights_only=True)
    assert {w.dtype for w in state["weights"].values()} == {torch.float32}
    assert {w.dtype for w in state["average"].values()} == {torch.float32}
    moments = [v for s in state["optimizers"][0]["state"].values() for k, v in s.items() if k != "step"]
    assert {m.dtype for m in moments} == {torch.float32}
    rounded = {name for name, w in state["weights"].items() if torch.equal(w, w.bfloat16().float())}
    assert "control_blocks.0.attn1.to_q.weight" not in rounded
    file = validated / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors"
    with safe_open(file, "pt") as stored:
        assert stored.get_slice("transformer_blocks.0.attn1.to_q.weight").get_dtype() == "BF16"
        assert stored.get_slice("control_blocks.0.attn1.to_q.weight").get_dtype() == "F32"


def test_the_trained_pipeline_generates(small, validated):
    model = load_model(str(validated / "pipeline"))
    clip = load_clip(small / "data" / "heldout" / "0000.clip.safetensors")
    assert generate(model, clip, GenerationRequest(num_inference_steps=2)).frames.shape == (9, 32, 48, 3)


def test_training_goes_on_from_a_model_with_a_branch(small, validated, tmp_path):
    """The branch's weights are taken as they are stored; none is drawn anew."""
    config = load_config(write_config(tmp_path, validated / "pipeline", frozen_dtype='"bfloat16"'))
    model = find_start(config, tmp_path).load_transformer(torch.bfloat16)
    stored = weights(validated)
    for name, p in model.named_parameters():
        assert torch.equal(p.float(), stored[name].float()), name
        assert p.requires_grad == (p.dtype == torch.float32 and not name.startswith(("transformer_blocks", "patch"))
                                   and name.split(".")[0] in ("control_blocks", "zero", "fuse", "point_encoder",
                                                              "point_resampler", "point_patch_embed"))  # fmt: skip
    wrong = load_config(write_config(tmp_path, validated / "pipeline", control__transformer__point_dim="64"))
    with pytest.raises(ConfigError, match=r"control.transformer.point_dim is 64"):
        find_start(wrong, tmp_path)


class Recorded:
    """A network that notes what it is given."""

    def __init__(self, model):
        self.model, self.config, self.given = model, model.config, {}

    def __call__(self, **inputs):
        self.given = inputs
        return self.model(**inputs)


@pytest.fixture(scope="module")
def parts(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    config = load_config(write_config(folder, small / "start", hardware__precision='"fp32"'))
    hardware = Hardware(config.hardware)
    start, cache = find_start(config, folder), load_cache(small / "out" / "cache")
    embeddings = embed_prompts(start, cache.prompts, folder / "prompts", hardware)
    network = Recorded(start.load_transformer())
    return config, cache, embeddings, network, Noising(start.training_scheduler(), 1.0), hardware


def step_of(parts, **changes) -> tuple[float, float, dict]:
    config, cache, embeddings, network, noising, hardware = parts
    stage = replace(config.control, batch_size=8, text_dropout=0.0, image_dropout=0.0, **changes)
    step = ControlStep(config, stage, cache, embeddings, network, noising, hardware)
    loss, numbers = step(Part(0, 0, 1, torch.Generator().manual_seed(3), 0))
    return float(loss.detach()), numbers["plain"], network.given


def test_each_condition_is_dropped(parts):
    _, _, kept = step_of(parts, tracking_dropout=0.0, points_dropout=0.0)
    assert kept["tracking_keep"].all() and kept["points_keep"].all()
    image, first = kept["hidden_states"][:, 0, 16:], kept["tracking_latents"][:, 0, 16:]
    assert image.abs().amax((1, 2, 3)).min() > 0
    _, _, given = step_of(parts, tracking_dropout=1.0, points_dropout=0.0)
    assert not given["tracking_keep"].any() and given["points_keep"].all()
    _, _, given = step_of(parts, tracking_dropout=0.0, points_dropout=1.0)
    assert given["tracking_keep"].all() and not given["points_keep"].any()
    _, _, given = step_of(parts, tracking_dropout=0.5, points_dropout=0.5)
    assert (given["tracking_keep"] ^ given["points_keep"]).all()  # one of them is always there
    config, cache, embeddings, network, noising, hardware = parts
    stage = replace(config.control, batch_size=8, text_dropout=1.0, image_dropout=1.0)
    ControlStep(config, stage, cache, embeddings, network, noising, hardware)(
        Part(0, 0, 1, torch.Generator().manual_seed(3), 0)
    )
    given = network.given
    assert not given["hidden_states"][:, :, 16:].any()
    assert not given["tracking_latents"][:, :, 16:].any()
    assert given["tracking_latents"][:, :, :16].any()
    assert torch.equal(given["encoder_hidden_states"][0], embeddings[""].float())
    assert not torch.equal(kept["encoder_hidden_states"][0], embeddings[""].float())
    assert first.any()


def test_mask_loss_in_both_forms(parts):
    plain_loss, plain, _ = step_of(parts, mask_loss=False)
    code, plain_again, _ = step_of(parts)
    article, _, _ = step_of(parts, mask_loss_squared=True)
    assert plain_loss == pytest.approx(plain) == pytest.approx(plain_again)
    assert plain < code < article < 4 * plain


def test_image_noise_is_drawn_from_the_cached_versions(small, tmp_path):
    config = write_config(tmp_path, small / "start", data__image_noise_draws="3")
    run_stage("cache", str(config), small / "data", tmp_path / "out")
    cache = load_cache(tmp_path / "out" / "cache")
    versions, clean = cache.row("image_latents", 0).float(), load_cache(small / "out" / "cache").row("image_latents", 0)
    assert versions.shape == (3, 16, 4, 6)
    distance = (versions - clean.float()).square().mean((1, 2, 3)).sqrt()
    assert (distance > 0).all() and len(set(distance.tolist())) == 3
    assert (distance < clean.float().std()).all()
    with pytest.raises(TrainingError, match="image_noise_draws 3"):  # the latents there are not what is asked for
        run_stage("control", str(write_config(tmp_path, small / "start")), small / "data", tmp_path / "out")


def test_prompts_are_encoded_once_and_for_one_encoder(tmp_path):
    asked = []

    def embed(part):
        asked.append(list(part))
        return torch.arange(len(part)).view(-1, 1, 1).expand(-1, 4, 8).float()

    first = PromptEmbeddings(tmp_path, "one").add(["a", "b", "a"], embed)
    assert first["b"][0, 0] == 1
    again = PromptEmbeddings(tmp_path, "one").add(["b", "c"], embed)
    assert asked == [["a", "b"], ["c"]]
    assert again["b"][0, 0] == 1 and again["c"][0, 0] == 0
    other = PromptEmbeddings(tmp_path, "two").add(["a"], embed)
    assert asked[-1] == ["a"] and other.missing(["a", "b"]) == ["b"]


def test_epochs_show_every_sample_once():
    seen = []
    for step in range(6):
        for index in range(2):
            part = Part(step, index, 2, torch.Generator(), 5)
            seen += part.rows(8, 2, in_epochs=True).tolist()
    assert sorted(seen[:8]) == sorted(seen[8:16]) == list(range(8))
    assert seen[:8] != seen[8:16]


def test_steps_and_accumulation_follow_from_epochs_and_effective_batch():
    stage = ControlStage(epochs=20.0, effective_batch=4, batch_size=1)
    assert resolved(stage, 1000, 1).accumulation == 4
    assert resolved(stage, 1000, 4).accumulation == 1
    assert resolved(stage, 1000, 1).steps == resolved(stage, 1000, 4).steps == 5000
    with pytest.raises(ConfigError, match=r"control.effective_batch is 4: 8 processes .* fewer processes"):
        resolved(stage, 1000, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video__width": "64"}, "video.width is 64: the starting model makes 48 only"),
        ({"video__num_frames": "17"}, "video.num_frames is 17: the starting model makes 9 only"),
    ],
)
def test_sizes_that_the_model_was_not_made_for_are_refused(small, tmp_path, changes, message):
    config = load_config(write_config(tmp_path, small / "start", **changes))
    with pytest.raises(ConfigError, match=message):
        find_start(config, tmp_path)


def test_a_start_that_is_none_is_refused(small, tmp_path):
    with pytest.raises(ConfigError, match=r"control\.init is 'nowhere'"):
        find_start(load_config(write_config(tmp_path, "nowhere")), tmp_path)
    with pytest.raises(ConfigError, match="run stage base first"):
        find_start(load_config(write_config(tmp_path, "")), tmp_path).load_transformer()
    shutil.copytree(small / "start", tmp_path / "start")
    file = tmp_path / "start" / "scheduler" / "scheduler_config.json"
    data = json.loads(file.read_text())
    file.write_text(json.dumps(data | {"prediction_type": "epsilon", "timestep_spacing": "leading"}))
    start = find_start(load_config(write_config(tmp_path, tmp_path / "start")), tmp_path)
    assert start.sampling_scheduler().config.timestep_spacing == "trailing"
    with pytest.raises(ConfigError, match=r"predicts epsilon.*v_prediction"):
        start.training_scheduler()


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_the_checkpoint(tmp_path):
    model = torch.nn.Linear(2, 1)
    trainer = Trainer(model, ControlStage(steps=9, warmup=0, checkpoint_every=2, tensorboard=False), tmp_path)

    def loss_of_part(part):
        return trainer.network(torch.ones(1, 2)).sum() * (float("nan") if part.step == 5 else 1.0), {}

    with pytest.raises(TrainingError, match=r"at step 5 .* lower lr"):
        trainer.run(loss_of_part)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 4
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_cuda_without_cuda_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ConfigError, match=r"hardware.device is 'cuda'.*auto or cpu"):
        Hardware(HardwareConfig(device="cuda"))


def test_a_strategy_that_cannot_be_had_is_refused(monkeypatch):
    """Rather than trained without."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match=r"hardware.strategy is 'fsdp': its processes .* use hvg3d train"):
        Hardware(HardwareConfig(device="cpu", strategy="fsdp"))
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ConfigError, match=r"hardware.strategy is 'deepspeed': it needs a GPU; use fsdp"):
        Hardware(HardwareConfig(device="cpu", strategy="deepspeed"))


def test_psnr_is_that_of_the_evaluation():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 5, 8, 8, 3), dtype=np.uint8)
    mask = rng.random((5, 8, 8)) < 0.4
    assert psnr(a, b) == pytest.approx(masked_psnr(a, b))
    assert psnr(a, b, mask) == pytest.approx(masked_psnr(a, b, mask))


def test_shipped_start_loads(tmp_path):
    """The shipped nano as init: its branch, in float32, every weight as it is stored."""
    config = load_config(write_config(tmp_path, "nano"))
    video = replace(config.video, width=192, height=128, num_frames=17, num_points=512)
    start = find_start(replace(config, video=video, control=replace(config.control, transformer={})), tmp_path)
    model = start.load_transformer(DTYPES["float32"])
    stored = load_file(start.transformer / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(p, stored[name].float()) for name, p in model.named_parameters())
