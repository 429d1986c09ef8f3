# SPDX-License-Identifier: Apache-2.0
"""What `inspect` says is true of the clip, and its sheet shows the clip's own colours in their places."""

import dataclasses

import numpy as np
import pytest

from hvg3d_core.conditions import ClipError, save_clip
from hvg3d_core.inspect import _CELL, _GAP, _LABEL, PALETTE, contact_sheet, describe


def test_the_text_names_what_is_in_the_clip(shared_clip, tmp_path):
    save_clip(shared_clip, tmp_path / "lift.clip.safetensors")
    text = describe(shared_clip, tmp_path / "lift.clip.safetensors")
    size = (tmp_path / "lift.clip.safetensors").stat().st_size / 2**20
    for part in (
        "lift.clip.safetensors",
        f"schema      1, {size:.2f} MiB",
        "9 at 24 fps (0.38 s), source frames 10 to 18",
        "160 x 120",
        "two fingers lift a can",
        "600, tracked",
        "34.4 degrees wide, moves 0.1",
        "joints 9x21x3, object_poses 9x1x4x4",
        'licences: ["CC0"]',
    ):
        assert part in text, part
    (can,) = [line for line in text.splitlines() if line.strip().startswith("can")]
    assert f"visible {shared_clip.views[0].point_visible[:, 300:].mean():.0%}" in can
    assert "0.070 x 0.070 x 0.100 m, centre goes 0.08" in can, "10 mm up and 4 mm across, 8 times"


def test_a_count_the_vae_cannot_take_is_pointed_out(grasp):
    assert "use 9 or 17 frames" in describe(grasp.clip(num_frames=10), "x")


def test_the_sheet_has_a_column_for_each_frame_and_the_entities_colours(shared_clip):
    sheet = np.asarray(contact_sheet(shared_clip, frames=3))
    assert sheet.shape[1] == _LABEL + 3 * (_CELL + _GAP) + _GAP
    cell_height = round(120 * _CELL / 160)
    top = 46 + cell_height + _GAP
    for column, frame in enumerate((0, 4, 8)):
        left = _LABEL + column * (_CELL + _GAP)
        cell = sheet[top : top + cell_height, left : left + _CELL]
        for entity in (0, 1):
            share = (np.abs(cell.astype(int) - PALETTE[entity]).max(-1) < 3).mean()
            true = (shared_clip.views[0].masks[frame] == entity + 1).mean()
            assert share == pytest.approx(true, rel=0.25), (frame, entity)


def test_sheets_of_unusual_clips(shared_clip):
    """Untracked points, no tracks, fewer frames than columns."""
    untracked = dataclasses.replace(
        shared_clip,
        tracked=False,
        point_entity=np.tile(shared_clip.point_entity, (9, 1)),
        tracks=shared_clip.tracks[:, :0],
        track_visible=shared_clip.track_visible[:, :0],
        track_points=None,
    )
    assert contact_sheet(untracked, frames=20).width == _LABEL + 9 * (_CELL + _GAP) + _GAP
    assert "600, untracked" in describe(untracked, "x")
    assert "tracks      none" in describe(untracked, "x")
    foreign = dataclasses.replace(shared_clip, track_points=None)
    assert np.array_equal(np.asarray(contact_sheet(foreign, 2)), np.asarray(contact_sheet(shared_clip, 2)))
    with pytest.raises(ClipError, match="frames: 0"):
        contact_sheet(shared_clip, frames=0)
