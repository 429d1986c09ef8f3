# SPDX-License-Identifier: Apache-2.0
"""A configuration is read whole or refused with the key that is wrong."""

import pytest

from hvg3d_core.training.config import ConfigError, TrainConfig, load_config
from hvg3d_core.training.stages import find_config


def test_shipped_nano_configuration_reads():
    config = find_config("nano")
    assert config.name == "nano"
    assert config.video.num_frames % 8 == 1
    assert config.video.width % 16 == 0
    assert config.video.height % 16 == 0


def test_defaults_fill_what_is_left_out(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("[base]\nsteps = 3\nlr = 1\n")
    config = load_config(path)
    assert config.base.steps == 3
    assert config.base.lr == 1.0
    assert config.vae == TrainConfig().vae


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[vae]\nstep = 3\n", "vae.step is 3: unknown key"),
        ("[vae]\nsteps = 'many'\n", "vae.steps is 'many'"),
        ("[vae]\nsteps = true\n", "vae.steps is True"),
        ("vae = 3\n", "vae is 3"),
        ("[vae\n", "not valid TOML"),
    ],
)
def test_a_wrong_key_is_named(tmp_path, text, named):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named) as error:
        load_config(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such configuration"):
        load_config(tmp_path / "none.toml")
