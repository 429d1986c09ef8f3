# SPDX-License-Identifier: GPL-3.0-or-later
"""The live preview comes into the panel without a trace in the scene: nothing is evaluated anew for it."""

from __future__ import annotations

import io

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs the bpy wheel (pip install 'hvg3d[blender]')")

from PIL import Image  # noqa: E402

from blender_addon.results import thumbs  # noqa: E402


@pytest.fixture(autouse=True)
def registered():
    thumbs.register()
    yield
    thumbs.drop_live()
    thumbs.unregister()


def jpeg(width: int, height: int, mode: str = "RGB") -> bytes:
    ramp = np.linspace(0, 255, width, dtype=np.uint8)[None].repeat(height, 0)
    ramp[: height // 2] //= 2  # top and bottom differ
    file = io.BytesIO()
    Image.fromarray(np.dstack([ramp, ramp[:, ::-1], ramp])).convert(mode).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_those_of_the_picture(mode):
    data = jpeg(64, 48, mode)
    thumbs.take_live(data, 1)
    preview = thumbs._collection[thumbs._LIVE]
    assert tuple(preview.image_size) == (64, 48)
    shown = np.array(preview.image_pixels_float).reshape(48, 64, 4)[::-1]
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) / 255
    np.testing.assert_allclose(shown[..., :3], expected, atol=4 / 255)  # two JPEG decoders
    assert (shown[..., 3] == 1).all()


def test_the_scene_is_left_alone():
    bpy.context.view_layer.update()
    evaluated = []

    def note(*_):
        evaluated.append(1)

    bpy.app.handlers.depsgraph_update_post.append(note)
    before = set(bpy.data.images)
    thumbs.take_live(jpeg(64, 48), 0)
    bpy.context.view_layer.update()
    evaluated.clear()
    try:
        for number in range(1, 3):
            thumbs.take_live(jpeg(64, 48 + 16 * number), number)
            bpy.context.view_layer.update()
    finally:
        bpy.app.handlers.depsgraph_update_post.remove(note)
    assert tuple(thumbs._collection[thumbs._LIVE].image_size) == (64, 80)
    assert evaluated == []
    assert bpy.data.images[thumbs._IMAGE].users == 0  # and so it is not saved
    thumbs.drop_live()
    assert set(bpy.data.images) == before


def test_what_is_no_picture_is_passed_over():
    thumbs.take_live(jpeg(64, 48), 1)
    thumbs.take_live(b"no picture", 2)
    assert tuple(thumbs._collection[thumbs._LIVE].image_size) == (64, 48)
