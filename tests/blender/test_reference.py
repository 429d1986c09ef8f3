# SPDX-License-Identifier: GPL-3.0-or-later
"""The first picture: from a render, from a file, from a movie; the right part of it, in the right colours."""

from __future__ import annotations

import io

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs the bpy wheel (pip install 'hvg3d[blender]')")

from blender_addon.core import ClipError, encode_png  # noqa: E402
from blender_addon.scene.reference import (  # noqa: E402
    fit_picture,
    reference_from_image,
    reference_from_movie,
    render_reference,
)

from .scenes import grasp_scene  # noqa: E402

Image = pytest.importorskip("PIL.Image", reason="needs Pillow")


def decode(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def stripes(height: int, width: int) -> np.ndarray:
    """Red grows to the right, green downwards, blue is constant."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), np.full_like(x, 77)], -1).astype(np.uint8)


def test_render_shows_the_first_frame_from_the_chosen_camera_although_markers_switch_it():
    scene = grasp_scene()
    plain = decode(render_reference(scene, bpy.data.objects["Camera"], 1, 96, 64))
    assert plain.shape == (64, 96, 3)
    away = bpy.data.objects.new("Away", bpy.data.cameras.new("Away"))
    away.location = (0, 0, 50)
    scene.collection.objects.link(away)
    scene.timeline_markers.new("away", frame=1).camera = away
    scene.camera = away
    np.testing.assert_array_equal(decode(render_reference(scene, bpy.data.objects["Camera"], 1, 96, 64)), plain)
    assert plain.std() > 5


def test_a_picture_of_the_right_size_is_taken_as_it_is(tmp_path):
    (tmp_path / "ä picture.png").write_bytes(encode_png(stripes(64, 96)))
    np.testing.assert_array_equal(decode(reference_from_image(tmp_path / "ä picture.png", 96, 64)), stripes(64, 96))


def test_wide_and_tall_pictures_lose_their_sides():
    """3:1 to 1:1 keeps the middle third of the columns; 1:3 the middle third of the rows."""
    wide = fit_picture(stripes(60, 180), 60, 60)
    np.testing.assert_array_equal(wide, stripes(60, 180)[:, 60:120])
    tall = fit_picture(stripes(180, 60), 60, 60)
    np.testing.assert_array_equal(tall, stripes(180, 60)[60:120])


@pytest.mark.parametrize("size", [(48, 32), (37, 25), (192, 128), (200, 131)])
def test_scaling_keeps_the_mean_and_the_ramps(size):
    """Shrunk or grown, a ramp stays the same ramp over the picture: within 4 grey levels, and 2.5 on average."""
    scaled = fit_picture(stripes(64, 96), *size).astype(float)
    assert scaled.shape == (size[1], size[0], 3)
    expected = ((np.arange(size[0]) + 0.5) * 96 / size[0] - 0.5).clip(0, 95) * 255 / 95
    inner = slice(2, -2)
    assert np.abs(scaled[:, inner, 0] - expected[inner]).max() < 4.0
    assert abs(scaled[..., 0].mean() - 127.5) < 2.5


def test_a_checkerboard_shrinks_to_grey():
    board = (np.indices((64, 96)).sum(0) % 2 * 255).astype(np.uint8)
    small = fit_picture(np.repeat(board[..., None], 3, 2), 48, 32)
    assert np.abs(small.astype(int) - 127.5).max() <= 0.5


def test_a_frame_of_a_movie_arrives_with_its_colours(tmp_path):
    """Frame 3 of a movie, whatever the scene's own view transform: within 4 levels of what was encoded."""
    video = pytest.importorskip("hvg3d_core.video", reason="needs PyAV")
    colours = [(200, 50, 50), (50, 200, 50), (60, 70, 210), (128, 128, 128)]
    frames = np.stack([np.full((64, 96, 3), colour, np.uint8) for colour in colours])
    video.write_mp4(tmp_path / "movie.mp4", frames, 24)
    grasp_scene().view_settings.view_transform = "AgX"
    bpy.context.scene.frame_set(6)
    scenes = len(bpy.data.scenes)
    for number, colour in enumerate(colours, 1):
        picture = decode(reference_from_movie(tmp_path / "movie.mp4", number, 48, 48)).astype(int)
        assert picture.shape == (48, 48, 3)
        assert np.abs(picture.mean((0, 1)) - colour).max() < 4
    with pytest.raises(ClipError, match=r"frame 9 of 'movie\.mp4'; the movie has frames 1 to 4"):
        reference_from_movie(tmp_path / "movie.mp4", 9, 48, 48)
    assert len(bpy.data.scenes) == scenes
