# SPDX-License-Identifier: Apache-2.0
"""Models fetched from a hub that is near and unreliable: what breaks off goes on, what is wrong is noticed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hvg3d_core.checkpoints import install, pipeline_folder
from hvg3d_core.checkpoints.licences import accepted_licences
from hvg3d_core.checkpoints.registry import ModelEntry, ModelError, catalogue, find_model, list_models
from hvg3d_core.models import HVG3DTransformer3DModel
from server.backend import list_models as listed_by_server

from .hub import COMMIT, Hub
from .released import oracle, write_pipeline
from .test_convert_das import TRACKING, expected, inputs

REPOSITORY = catalogue()["das"].repository
BIG = "text_encoder/big.dat"  # larger than what the hub's library writes at a time
BIG_BYTES = 24_000_000
CHUNK = 10 * 1024 * 1024


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_pipeline(tmp_path_factory.mktemp("hub") / "released", oracle())
    (folder / BIG).write_bytes(os.urandom(BIG_BYTES))
    (folder / "README.md").write_text("not wanted")
    (folder / "results").mkdir()
    (folder / "results/video.mp4").write_bytes(bytes(1000))
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HVG3D_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return tmp_path / "models"


@pytest.fixture
def hub(released: Path) -> Iterator[Hub]:
    hub = Hub(released, REPOSITORY)
    yield hub
    hub.close()


def pull(model: str = "das", accept: bool = True, **options: Any) -> ModelEntry:
    return install.pull(model, accept_licence=lambda _: accept, **options)


def wanted(hub: Hub) -> set[str]:
    return {name for name in hub.files if name != "README.md" and not name.startswith("results/")}


def test_pull_das_makes_a_model_that_computes_das(hub: Hub, home: Path) -> None:
    said: list[str] = []
    entry = pull(mirror=hub.url, report=said.append)
    assert entry.path == str(home / "das") and entry.installed
    assert set(hub.fetched()) == wanted(hub) and len(hub.fetched()) == len(wanted(hub)), "once, and nothing else"
    assert sum(hub.sent.values()) == sum(len(hub.files[name]) for name in wanted(hub))
    assert (home / "das" / BIG).read_bytes() == hub.files[BIG]
    model = HVG3DTransformer3DModel.from_pretrained(home / "das/transformer")
    with torch.no_grad():
        found = model(**inputs(), tracking_latents=TRACKING, return_dict=False)[0]
    assert (found - expected(oracle())).abs().max() < 1e-6
    assert not (home / ".downloads").exists() or not any((home / ".downloads").iterdir())
    origin = json.loads((home / "das/hvg3d_files.json").read_text())["origin"]
    assert origin == {"repository": REPOSITORY, "revision": COMMIT, "mirror": hub.url}
    assert any("files, 0.0" in line for line in said) and any(BIG in line for line in said)

    before = len(hub.requests)
    assert pull(mirror=hub.url).path == entry.path
    assert len(hub.requests) == before, "what is here is not asked for"


def test_the_server_sees_it_come_and_go(hub: Hub, home: Path) -> None:
    assert {m["id"]: m["installed"] for m in listed_by_server()} == {"nano": True, "das": False, "hvg3d-5b": False}
    with pytest.raises(ModelError, match="'das' is not on this machine: run hvg3d models pull das"):
        find_model("das")
    pull(mirror=hub.url)
    after = {m["id"]: m for m in listed_by_server()}
    assert after["das"]["installed"] and not after["hvg3d-5b"]["installed"]
    assert after["das"]["width"] == 32 and after["das"]["bytes"] > BIG_BYTES
    shutil.copytree(home / "das", home / "mine")
    assert {"mine", "das"} <= {m["id"] for m in list_models() if m["installed"]}, "one's own folder counts too"
    assert install.remove("das") > BIG_BYTES
    assert {m["id"]: m["installed"] for m in listed_by_server()}["das"] is False
    assert not (home / "das").exists()
    with pytest.raises(ModelError, match="das: it is not here; here are: mine"):
        install.remove("das")
    with pytest.raises(ModelError, match="nano: it is part of this package"):
        install.remove("nano")


def test_a_licence_is_asked_for_once(hub: Hub, home: Path, released: Path) -> None:
    asked: list[str] = []

    def answer(yes: bool) -> Any:
        return lambda source: asked.append(source.licence.name) or yes

    with pytest.raises(ModelError, match="nothing is fetched before its licence is accepted"):
        install.pull("das", accept_licence=answer(False), mirror=hub.url)
    assert not hub.requests and not accepted_licences()
    install.pull("das", accept_licence=answer(True), mirror=hub.url)
    assert list(accepted_licences()) == ["CogVideoX License"]
    install.pull("hvg3d-5b", accept_licence=answer(False), local=released)
    assert asked == ["CogVideoX License"] * 2, "refused, accepted, and for the other model not asked again"


def test_a_connection_that_breaks_goes_on_from_there(hub: Hub, home: Path) -> None:
    hub.break_after = {BIG: BIG_BYTES // 2}
    pull(mirror=hub.url)
    assert (home / "das" / BIG).read_bytes() == hub.files[BIG]
    assert hub.ranges(BIG) == [None, f"bytes={CHUNK}-"], "the rest is asked for, by its range"


def test_a_download_that_breaks_off_is_taken_up_by_the_next(hub: Hub, home: Path) -> None:
    hub.break_after, hub.unavailable_after_break = {BIG: BIG_BYTES // 2}, True
    with pytest.raises(
        ModelError, match=rf"{BIG}: the download from .* broke off at 10.5 of 24.0 MB .*goes on from there"
    ):
        pull(mirror=hub.url)
    complete = set(hub.fetched()) - {BIG}
    hub.repair()
    before = len(hub.requests)
    pull(mirror=hub.url)
    again = {name for _, name, _ in hub.requests[before:]}
    assert not again & complete, "files that have come whole are not fetched again"
    assert hub.ranges(BIG)[-1] == f"bytes={CHUNK}-"
    assert install.verify("das") == []


def test_a_killed_process_loses_nothing_that_was_written(hub: Hub, home: Path) -> None:
    hub.break_after, hub.stall = {BIG: BIG_BYTES - 1000}, threading.Event()
    command = [sys.executable, "-m", "hvg3d_core.cli.main", "models", "pull", "das", "--accept-licence"]
    process = subprocess.Popen([*command, "--mirror", hub.url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not any(p.stat().st_size >= 2 * CHUNK for p in home.rglob("*.part")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        process.wait()
    hub.stall.set()
    hub.stall = None
    hub.repair()
    pull(mirror=hub.url)
    assert hub.ranges(BIG) == [None, f"bytes={2 * CHUNK}-"]
    assert (home / "das" / BIG).read_bytes() == hub.files[BIG]


def test_a_wrong_hash_is_fetched_again_and_then_given_up(hub: Hub, home: Path) -> None:
    said: list[str] = []
    hub.corrupt[BIG] = 2
    with pytest.raises(ModelError, match=rf"{BIG}: what .* sends is not what it lists .*use another mirror"):
        pull(mirror=hub.url)
    assert not any(home.rglob("*.part")) and not (home / "das").exists()
    hub.repair()
    hub.corrupt.update({BIG: 1, "vae/config.json": 1})  # a large file, and one that git names
    pull(mirror=hub.url, report=said.append)
    assert f"{BIG}: the hash is wrong, fetching it again" in said
    assert "vae/config.json: the hash is wrong, fetching it again" in said
    assert (home / "das" / BIG).read_bytes() == hub.files[BIG]


def test_a_full_disk_is_noticed_before_anything_is_fetched(
    hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(free=BIG_BYTES)
    monkeypatch.setattr(pipeline_folder.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ModelError, match=r"needs 0.0 GB, and 0.0 GB are free there; .*HVG3D_MODELS"):
        pull(mirror=hub.url)
    assert not hub.fetched()


def test_offline(hub: Hub, home: Path) -> None:
    with pytest.raises(ModelError, match=r"das: offline, and .* is not on this machine as a whole; .*--from"):
        pull(offline=True)
    pull(mirror=hub.url, keep_download=True)
    install_path = home / "das"
    shutil.rmtree(install_path)
    hub.close()
    pull(offline=True)
    assert install.verify("das") == []


def test_what_the_hubs_library_has_in_its_cache_is_not_fetched_again(hub: Hub, home: Path, tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    cache = tmp_path / "hub cache"
    snapshot_download(REPOSITORY, endpoint=hub.url, cache_dir=cache, allow_patterns=list(catalogue()["das"].files))
    before = len(hub.requests)
    pull(mirror=hub.url)
    assert {name for _, name, _ in hub.requests[before:]} == {"api"}
    install.remove("das")
    hub.close()
    pull(offline=True)
    assert install.verify("das") == []


def test_a_local_folder_in_place_of_the_hub(released: Path, home: Path, tmp_path: Path) -> None:
    entry = pull("hvg3d-5b", local=released, tracking_range="zero_one")
    config = json.loads((Path(entry.path) / "transformer/config.json").read_text())
    assert config["num_control_blocks"] == config["num_layers"] and config["tracking_range"] == "zero_one"
    assert (released / BIG).exists(), "the folder is left as it is"
    with pytest.raises(ModelError, match="nowhere: no such folder"):
        pull("das", local=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="empty: no safetensors file"):
        pull("das", local=tmp_path / "empty")


def test_a_broken_install_leaves_the_one_before(released: Path, home: Path, tmp_path: Path) -> None:
    pull(local=released)
    bad = Path(shutil.copytree(released, tmp_path / "bad"))
    shutil.rmtree(bad / "vae")
    with pytest.raises(ModelError, match="no vae there"):
        pull(local=bad, force=True)
    assert install.verify("das") == []
    assert sorted(p.name for p in home.iterdir() if not p.name.startswith(".")) == ["accepted_licences.json", "das"]


def test_hubs_that_are_not_there_or_have_no_such_model(hub: Hub, home: Path) -> None:
    hub.repository = "somebody/else"
    with pytest.raises(ModelError, match=f"there is no {REPOSITORY} at 'main'"):
        pull(mirror=hub.url)
    hub.close()
    with pytest.raises(ModelError, match=r"cannot be reached .*--mirror or HF_ENDPOINT.*--from"):
        pull(mirror=hub.url)
    with pytest.raises(ModelError, match="model '5b' is not known: there are das, hvg3d-5b"):
        pull("5b")
    with pytest.raises(ModelError, match="nano: it is shipped"):
        pull("nano")


def test_verify_notices_every_kind_of_damage(released: Path, home: Path) -> None:
    pull(local=released)
    assert install.verify("das") == []
    folder = home / "das"
    weights = next((folder / "transformer").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    (folder / "LICENSE").unlink()
    with open(folder / "vae/config.json", "a") as file:
        file.write(" ")
    wrong = {line.partition(":")[0]: line for line in install.verify("das")}
    assert set(wrong) == {f"transformer/{weights.name}", "LICENSE", "vae/config.json"}
    assert "SHA-256" in wrong[f"transformer/{weights.name}"] and "missing" in wrong["LICENSE"]
    assert "bytes, should be" in wrong["vae/config.json"]
    # Without a list of hashes, what is cut off or cannot be read is still found.
    (folder / "hvg3d_files.json").unlink()
    assert install.verify("das") == []
    weights.write_bytes(bytes(data[:-1]))
    (folder / "vae/config.json").write_text("{")
    assert len(install.verify(str(folder))) == 2
    assert install.verify("nano") == []


def test_two_at_once_do_not_get_into_each_other(released: Path, home: Path) -> None:
    with install._only_one("das"), pytest.raises(ModelError, match="hvg3d-5b: another process is fetching"):
        pull("hvg3d-5b", local=released)
    pull("hvg3d-5b", local=released)
