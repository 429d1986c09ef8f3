# SPDX-License-Identifier: GPL-3.0-or-later
"""What the overlay says and paints, from arrays alone. Needs no Blender."""

from __future__ import annotations

import numpy as np

from blender_addon.overlay.contact import (
    FAR,
    Contact,
    FrameSample,
    Layout,
    contact_of,
    describe,
    graph_bars,
    heat,
    point_colors,
    trails,
)

TOLERANCE = 0.003
LAYOUT = Layout(
    entity=np.array([0] * 6 + [1] * 2), finger=np.array([0, 1, 2, 3, 4, -1, -1, -1]), roles=("right_hand", "object")
)


def sample(distance, visible=None) -> FrameSample:
    full = np.concatenate([np.asarray(distance, np.float32), [np.nan, np.nan]]).astype(np.float32)
    points = np.arange(24, dtype=np.float32).reshape(8, 3)
    return FrameSample(points, full, visible)


def test_gap_depth_and_fingers():
    touching = contact_of(sample([0.001, -0.002, 0.0029, 0.0031, 0.05, -0.001]), LAYOUT, TOLERANCE)
    assert touching.gap == 0 and abs(touching.depth - 0.002) < 1e-8
    assert touching.touching == ("thumb", "index", "middle")  # the ring is a tenth of a millimetre too far
    away = contact_of(sample([0.02, 0.01, 0.03, 0.1, 0.1, 0.1]), LAYOUT, TOLERANCE)
    assert (round(away.gap, 6), away.depth, away.touching) == (0.01, 0.0, ())
    assert contact_of(sample([np.nan] * 6), LAYOUT, TOLERANCE) is None


def test_words_for_every_state():
    assert describe(None, TOLERANCE).startswith("Mark a hand and an object")
    assert describe(Contact(FAR * 2, 0, ()), TOLERANCE) == "More than 3 cm away"
    assert describe(Contact(0.0124, 0, ()), TOLERANCE) == "12 mm away"
    assert describe(Contact(0, 0.0004, ("thumb", "index")), TOLERANCE) == "Touching, 0.4 mm deep: thumb, index"
    assert describe(Contact(0, 0.0072, ("thumb",)), TOLERANCE) == "7.2 mm inside the object: thumb"


def test_heat_goes_from_blue_over_yellow_to_red():
    """Far is blue, contact is yellow, too deep is red; nothing jumps but where the tolerance is passed."""
    red, green, blue = heat(np.array([FAR, 0.0, -0.02]), TOLERANCE).T
    assert blue[0] > red[0] and blue[0] > green[0]
    assert red[1] > 0.9 and green[1] > 0.8 and blue[1] < 0.3
    assert red[2] > 0.9 and green[2] < 0.2
    ramp = heat(np.linspace(TOLERANCE, FAR, 400), TOLERANCE)
    assert np.abs(np.diff(ramp, axis=0)).max() < 0.02
    # The darkest contact colour is brighter than the brightest far one: also told apart without colour.
    luminance = ramp @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) < 1e-6).all()


def test_point_colours_by_entity_visibility_and_contact():
    seen = np.array([True, False] * 4)
    plain = point_colors(sample([0.01] * 6, seen), LAYOUT, "ENTITY", TOLERANCE)
    assert plain.dtype == np.float32 and plain.shape == (8, 4)
    assert (plain[:6] == plain[0]).all() and (plain[6:] == plain[6]).all() and (plain[0] != plain[6]).any()
    hidden = point_colors(sample([0.01] * 6, seen), LAYOUT, "VISIBILITY", TOLERANCE)
    np.testing.assert_array_equal(hidden[seen], plain[seen])
    assert (hidden[~seen].sum(1) < 0.5 * plain[~seen].sum(1)).all()
    contact = point_colors(sample([-0.02, 0.0, FAR, FAR, FAR, FAR]), LAYOUT, "CONTACT", TOLERANCE)
    assert contact[0, 0] > 0.9 and contact[0, 1] < 0.2 and contact[1, 1] > 0.8


def test_trails_join_neighbouring_frames_only_and_fade():
    samples = {float(f): FrameSample(np.full((8, 3), f, np.float32), np.full(8, np.nan)) for f in (1, 2, 3, 5, 20)}
    positions, colors = trails(samples, LAYOUT, 2.0, 5, 3)
    # Frames 1-2 and 2-3; not 3-5 (4 is unknown), not 20 (too far). 3 tracks of the hand, 2 of the object.
    assert positions.shape == (2 * 2 * 5, 3) and colors.shape == (20, 4)
    assert sorted({tuple(row) for row in positions[:, 0].reshape(-1, 2)}) == [(1, 2), (2, 3)]
    assert colors[positions[:, 0] == 2, 3].min() > colors[positions[:, 0] == 1, 3].max()
    assert len(trails({1.0: samples[1.0]}, LAYOUT, 1.0, 5, 3)[0]) == 0


def test_bars_point_up_for_distance_and_down_for_penetration():
    contacts = {1.0: Contact(0.1, 0, ()), 2.0: Contact(0.015, 0, ()), 4.0: Contact(0, 0.006, ("thumb", "index"))}
    heights, colors, touching = graph_bars(contacts, [1.0, 2.0, 3.0, 4.0], TOLERANCE)
    np.testing.assert_allclose(heights[[0, 1, 3]], [1.0, 0.5, -0.5])
    assert np.isnan(heights[2]) and touching.tolist() == [0, 0, 0, 2]
    assert colors[3, 0] > 0.9 and colors[3, 1] < 0.5
