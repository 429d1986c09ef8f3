# SPDX-License-Identifier: Apache-2.0
"""A configuration is read whole or refused with the key that is wrong, its value, and what to write instead."""

import math
import tomllib
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import pytest

from hvg3d_core.models.configs import transformer_config
from hvg3d_core.training.config import ConfigError, TrainConfig, load_config
from hvg3d_core.training.stages import find_config, run_stages
from tests.core.training.conftest import hvg3d


def every_key(cls=TrainConfig, where=""):
    """(key, type, metadata) of all keys that are no tables."""
    hints = get_type_hints(cls)
    for f in fields(cls):
        if is_dataclass(hints[f.name]):
            yield from every_key(hints[f.name], f"{where}{f.name}.")
        elif hints[f.name] != dict[str, Any]:
            yield f"{where}{f.name}", hints[f.name], f.metadata


def wrong_values():
    """For every key: a value of a wrong type, and each that is out of bounds."""
    for key, kind, metadata in every_key():
        yield key, "true" if kind is not bool else "'yes'"
        if kind in (int, float):
            yield key, "'many'"
            yield key, str(metadata["low"] - 1)
            if metadata.get("high", math.inf) < math.inf:
                yield key, str(metadata["high"] + 1)
            yield key, "2.5" if kind is int else "nan"
        elif kind is str and "choices" in metadata:
            yield key, "'nothing of the kind'"
        elif kind not in (bool, str):
            yield key, "[]"
            yield key, "['x', 'y', 'z', 'u']"


def as_toml(key: str, value: str) -> str:
    table, _, last = key.rpartition(".")
    return f"[{table}]\n{last} = {value}\n" if table else f"{last} = {value}\n"


def refusal(tmp_path, text: str) -> str:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value).removeprefix(f"{path}: ")


def test_every_key_refuses_wrong_values(tmp_path):
    """The message names key and value, and says what is to be written."""
    tried = set()
    for key, value in wrong_values():
        message = refusal(tmp_path, as_toml(key, value))
        assert message.startswith(f"{key} is ") or message.startswith(f"{key}[0] is "), (key, value, message)
        given = tomllib.loads(f"x = {value}")["x"]
        shown = {repr(x) for x in (given if isinstance(given, list) and given else [given])}
        shown |= {repr(float(given))} if isinstance(given, int) else set()
        assert any(f" is {text}: " in message for text in shown), (key, value, message)
        assert any(word in message for word in ("needed", "use ")), (key, value, message)
        tried.add(key)
    assert tried == {key for key, _, _ in every_key()}
    assert len(tried) > 100


@pytest.mark.parametrize("table", ["", "video", "data", "hardware", "vae", "decoder", "base", "control",
                                   "control.validation", "control.transformer"])  # fmt: skip
def test_an_unknown_key_is_named_in_every_table(tmp_path, table):
    text = f"[{table}]\nsteps_ = 3\n" if table else "steps_ = 3\n"
    message = refusal(tmp_path, text)
    assert message.startswith(f"{table}.steps_ is 3: unknown key; known here: ".removeprefix("."))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[video]\nwidth = 100\n", "video.width is 100: it must be divisible by 16; use 96 or 112"),
        ("[video]\nnum_frames = 50\n", "video.num_frames is 50: the video VAE takes 1 or 8k+1; use 49 or 57"),
        ("[vae]\nvideo_frames = 12\n", "vae.video_frames is 12: use 1 or 8k+1"),
        ("[vae]\nnorm_num_groups = 7\n", "vae.norm_num_groups is 7: every one of block_out_channels"),
        ("[vae]\nblock_out_channels = [8, 8]\n", "vae.block_out_channels is [8, 8]: a list of 4 values is needed"),
        ("[vae]\naccumulation = 2\n", "vae.accumulation is 2: this stage has none; use 1"),
        ("[control]\nema = 1.0\n", "control.ema is 1.0: nothing would ever change; use less"),
        ("[control]\ntracking_dropout = 0.7\npoints_dropout = 0.5\n", "control.points_dropout is 0.5: with tracking"),
        ("[control]\neffective_batch = 4\naccumulation = 2\n", "control.accumulation is 2: it follows from"),
        (
            "[control]\nfrozen_dtype = 'bfloat16'\n[hardware]\nprecision = 'fp32'\n",
            "control.frozen_dtype is 'bfloat16'",
        ),
        ("[control]\nmuon_lr = 0.1\n[hardware]\nstrategy = 'fsdp'\n", "control.muon_lr is 0.1: not with FSDP; use 0"),
        ("[control]\nema = 0.9\n[hardware]\nstrategy = 'deepspeed'\n", "control.ema is 0.9: not with DeepSpeed; use 0"),
        ("[control.transformer]\npoint_dim = 'wide'\n", "control.transformer.point_dim is 'wide': a whole number"),
        ("[control.transformer]\npoint_cloud = 1\n", "control.transformer.point_cloud is 1: true or false is needed"),
        ("[control]\nvalidation = 3\n", "control.validation is 3: a table [control.validation] is needed"),
        ("vae = 3\n", "vae is 3: a table [vae] is needed"),
        ("[vae\n", "not valid TOML"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, text, message):
    assert refusal(tmp_path, text).startswith(message)


def test_defaults_fill_what_is_left_out(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("[base]\nsteps = 3\nlr = 1\n")
    config = load_config(path)
    assert config.base.steps == 3
    assert config.base.lr == 1.0
    assert config.vae == TrainConfig().vae


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such configuration"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"'papers' is not known: use one of das, hvg3d-5b, nano"):
        find_config("papers")


def test_an_unknown_stage_names_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"stage 'fly' is not one of vae, cache, decoder, base, control, pack"):
        run_stages(("fly",), find_config("nano"), tmp_path, tmp_path)


def test_shipped_configurations_are_the_recipes():
    """The article's numbers, and DaS's, from their papers and DaS's training script."""
    assert find_config("nano").stages == ("vae", "cache", "decoder", "base", "control", "pack")
    for name in ("hvg3d-5b", "das"):
        config, network = find_config(name), transformer_config(name)
        video, control = config.video, config.control
        assert (video.width, video.height, video.num_frames) == (720, 480, 49)
        assert (network["sample_width"] * 8, network["sample_height"] * 8, network["sample_frames"]) == (720, 480, 49)
        assert control.lr == 1e-4
        assert (control.beta1, control.beta2, control.weight_decay) == (0.9, 0.95, 1e-3)
        assert (control.warmup, control.clip_grad_norm, control.image_dropout) == (100, 1.0, 0.05)
        assert control.gradient_checkpointing
        assert control.frozen_dtype == "bfloat16"
        assert config.hardware.precision == "bf16"
        assert control.effective_batch % (control.batch_size * config.hardware.processes) == 0
    hvg, das = find_config("hvg3d-5b").control, find_config("das").control
    assert (hvg.epochs, hvg.effective_batch, hvg.mask_loss) == (20.0, 4, True)
    assert (das.steps, das.effective_batch, das.batch_size, das.mask_loss) == (2000, 64, 2, False)


def test_the_command_line_says_it_in_one_line(tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text("[control]\nsteps = 0\n")
    done = hvg3d("train", path, check=False)
    assert done.returncode == 1
    assert "control.steps is 0: use a whole number, 1 or more" in done.stderr
    assert "Traceback" not in done.stderr
