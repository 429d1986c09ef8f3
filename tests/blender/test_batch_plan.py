# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans: what they say, what they refuse, and which shots they make. Needs no Blender."""

from __future__ import annotations

import pytest

from blender_addon.batch.plan import (
    MAX_SEED,
    Plan,
    PlanError,
    Selection,
    load_plan,
    parse_plan,
    plan_toml,
    read_seeds,
    shots_of_broken_file,
    shots_of_clip,
    shots_of_scenes,
    unique,
)

INDEX = {
    "scenes": [
        {
            "name": "Kitchen",
            "marked": True,
            "camera": "Cam",
            "cameras": ["Cam", "Cam 2", "Cam [x]"],
            "actions": ["Grasp mug", "Grasp pen", "Wave"],
            "seed": 7,
        },
        {"name": "Garage", "marked": True, "camera": "", "cameras": ["Cam"], "actions": [], "seed": 0},
        {"name": "Empty", "marked": False, "camera": "Cam", "cameras": ["Cam"], "actions": [], "seed": 0},
    ]
}


def shots(text: str):
    return unique(s for one in parse_plan(text).selections for s in shots_of_scenes(one, "a/film.blend", INDEX))


def units(text: str) -> list[tuple[str, str, str]]:
    return list(dict.fromkeys((s.unit.scene, s.unit.camera, s.unit.action) for s in shots(text)))


def test_scenes_cameras_actions_and_seeds_are_multiplied():
    found = shots('scenes = "Kitchen"\ncameras = ["Cam", "Cam 2"]\nactions = ["Grasp*"]\nseeds = "1, 5-6"')
    assert len(found) == 2 * 2 * 3
    assert {(s.unit.camera, s.unit.action, s.seed) for s in found} == {
        (camera, action, seed)
        for camera in ("Cam", "Cam 2")
        for action in ("Grasp mug", "Grasp pen")
        for seed in (1, 5, 6)
    }
    assert len({s.id for s in found}) == len({s.slug for s in found}) == len({s.label for s in found}) == 12
    assert len({s.unit.id for s in found}) == 4


def test_what_is_left_out_is_the_scenes_own():
    """Marked scenes, their camera, everything as it moves, their seed; and what is missing there is said."""
    found = shots("")
    assert [(s.unit.scene, s.unit.camera, s.unit.action, s.seed) for s in found] == [
        ("Kitchen", "Cam", "", 7),
        ("Garage", "", "", 0),
    ]
    assert found[1].unit.problem == "camera: none is chosen in scene 'Garage'; use one of Cam"
    assert [s.seed for s in shots('scenes = "Kitchen"\nseed_count = 3')] == [7, 8, 9]


def test_names_are_taken_literally_before_they_are_patterns():
    assert units('scenes = "Kitchen"\ncameras = "Cam [x]"') == [("Kitchen", "Cam [x]", "")]
    assert len(units('scenes = "Kitchen"\ncameras = "all"')) == 3


def test_what_is_named_and_missing_becomes_a_shot_that_says_so():
    problems = {s.unit.problem for s in shots('scenes = ["Kitchen", "Cellar"]\ncameras = "Top"\nactions = "Run*"')}
    assert problems == {
        "camera: 'Top' is not in scene 'Kitchen'; use one of Cam, Cam 2, Cam [x]",
        "scene: 'Cellar' is not in 'film.blend'; use one of Kitchen, Garage, Empty",
    }
    (shot,) = shots('scenes = "Kitchen"\nactions = "Run"')
    assert "action: 'Run' moves nothing that is marked" in shot.unit.problem
    nothing = shots_of_scenes(Selection(), "x.blend", {"scenes": [INDEX["scenes"][2]]})
    assert "nothing is marked" in nothing[0].unit.problem


def test_a_file_that_cannot_be_opened_counts_as_often_as_it_was_asked_for():
    selection = parse_plan('scenes = ["A", "B"]\nseeds = [1, 2, 3]\ncameras = "all"').selections[0]
    assert len(shots_of_broken_file(selection, "x.blend", "broken")) == 6
    assert len(shots_of_clip(selection, "x.clip.safetensors")) == 3


def test_two_tables_that_ask_for_the_same_ask_once_and_other_settings_are_other_shots():
    table = '[[shots]]\nscenes = "Kitchen"\n'
    assert len(shots(table + table)) == 1
    other = shots(table + table + 'model = "das"\n' + table + 'prompt = "rain"\n')
    assert len({s.id for s in other}) == 3
    assert len({s.unit.id for s in other}) == 1  # exported once


def test_the_top_holds_for_all_tables_that_do_not_say_otherwise():
    plan = parse_plan(
        'out = "o"\nin_flight = 3\nretries = 0\nseeds = [1, 2]\nquality = "draft"\nmodel = "nano"\n'
        '[[shots]]\nseed_count = 4\n[[shots]]\nsteps = 5\nmodel = "das"\n'
    )
    assert (plan.out, plan.in_flight, plan.retries) == ("o", 3, 0)
    first, second = plan.selections
    assert (first.seeds, first.seed_count, dict(first.request)) == (
        None,
        4,
        {"num_inference_steps": 12, "model": "nano"},
    )
    assert (second.seeds, dict(second.request)) == ((1, 2), {"num_inference_steps": 5, "model": "das"})


def test_a_plan_written_and_read_again_is_the_same():
    plan = parse_plan(
        'out = "ö \\\\ \\""\nin_flight = 2\n'
        '[[shots]]\nfiles = ["a b.blend"]\nscenes = ["Küche \\"1\\""]\ncameras = "all"\n'
        'seeds = "3-5"\nguidance = 3\nuse_points = false\n[[shots]]\nquality = "standard"\nseed_count = 2\n'
        'num_frames = 17\nlength = "windows"\n'
    )
    assert parse_plan(plan_toml(plan)) == plan
    assert parse_plan(plan_toml(Plan())) == Plan()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = 3", "plan: seeds: 3 is one number; write [3] for that seed, or seed_count = 3"),
        ("seeds = []", "plan: seeds: [] is no list of seeds; write [1, 2, 3]"),
        (f"seeds = [{MAX_SEED + 1}]", f"{MAX_SEED + 1} is no seed"),
        ("seeds = [true]", "True is no seed"),
        ("seeds = [1]\nseed_count = 2", "seeds and seed_count are both given; keep one of them"),
        ("seed_count = 0", "seed_count: 0 is not a whole number from 1 to 10000; correct it"),
        ("camera = 'A'", "camera: there is no such field; did you mean 'cameras'?"),
        ("cameras = [1]", "cameras: [1] is not a list of names"),
        ("[[shots]]\n[[shots]]\nscenes = []", "plan: shots 2: scenes: [] is not a list of names"),
        ("shots = 1", "plan: shots: 1 is not a list of tables; write each as [[shots]]"),
        ("quality = 'best'", "quality: 'best' is none; use one of draft, standard, fine, or steps"),
        ("quality = 'fine'\nsteps = 3", "quality and steps are both given; keep one of them"),
        ("num_frames = 20", "num_frames: 20 frames cannot be made; use 17 or 25"),
        ("length = 'long'", "length: 'long' is none; use one of resample, windows"),
        ("control_scale = 'much'", "control_scale: 'much' is not a number from 0 to 10"),
        ("use_points = 1", "use_points: 1 is neither true nor false"),
        ("prompt = 3", "prompt: 3 is not text; put it in quotation marks"),
        ("in_flight = 0", "in_flight: 0 is not a whole number from 1 to 1000"),
        ("seeds = [1", "this is no TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_remedy(text, message):
    with pytest.raises(PlanError) as caught:
        parse_plan(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "x", "1,,2", "3-1", "1-99999", "-1", "1.5"])
def test_seeds_that_are_none(text):
    with pytest.raises(PlanError, match="no seed"):
        read_seeds(text)


def test_seeds_are_listed_once_in_their_order():
    assert read_seeds(" 7, 3-5;4 ") == (7, 3, 4, 5)


def test_a_plan_that_cannot_be_read(tmp_path):
    with pytest.raises(PlanError, match="there is no file"):
        load_plan(tmp_path / "no.toml")
    (tmp_path / "latin.toml").write_bytes(b'prompt = "\xe4"')
    with pytest.raises(PlanError, match="UTF-8"):
        load_plan(tmp_path / "latin.toml")
