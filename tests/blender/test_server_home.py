# SPDX-License-Identifier: GPL-3.0-or-later
"""The extension looks for a server where a server puts itself, though neither imports the other."""

import pytest

pytest.importorskip("bpy", reason="needs Blender as a Python module")

from blender_addon.preferences import default_server_home
from server.config import default_home


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_both_agree(monkeypatch, platform, tmp_path):
    monkeypatch.setattr("sys.platform", platform)
    for name in ("XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    assert default_server_home() == str(default_home())
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "x"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "y"))
    assert default_server_home() == str(default_home())
