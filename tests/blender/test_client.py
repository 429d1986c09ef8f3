# SPDX-License-Identifier: GPL-3.0-or-later
"""The add-on's client against real servers that are stopped, killed, moved and asked wrongly. Needs no Blender."""

from __future__ import annotations

import http.server
import json
import random
import threading
import time
from pathlib import Path

import pytest

from blender_addon.client.check import check_server
from blender_addon.client.http import Address, Api
from blender_addon.client.protocol import ClientError, GenerationRequest, Missing, Unreachable
from blender_addon.client.task import RenderTask, TaskState
from hvg3d_core.conditions import clip_from_bytes

pytest.importorskip("fastapi", reason="needs the server (pip install 'hvg3d[server]')")
pytest.importorskip("av", reason="needs PyAV (pip install 'hvg3d[network]')")

from tests.server.flaky import FlakyLine
from tests.server.serverkit import RunningServer, sha256, tiny_clip


class Watched:
    """A task and everything it has said so far."""

    def __init__(self, address: Address, output: Path, prompt: str = "a hand", seed: int = 3, clip=None):
        clip = clip or clip_from_bytes(tiny_clip())
        self.task = RenderTask(address, clip, GenerationRequest("", prompt, seed), output, "test shot")
        self.states: list[TaskState] = []
        self.task.start()

    def until(self, condition, seconds: float = 20.0) -> TaskState:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            while not self.task.states.empty():
                self.states.append(self.task.states.get())
                if condition(self.states[-1]):
                    return self.states[-1]
            time.sleep(0.02)
        raise AssertionError(f"not within {seconds} s: {self.states}")

    def end(self, seconds: float = 20.0) -> TaskState:
        return self.until(lambda state: state.outcome, seconds)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with RunningServer(tmp_path_factory.mktemp("server") / "home", step_seconds=0.2) as running:
        yield running


def by_home(server: RunningServer) -> Address:
    return Address(home=str(server.home))


def test_a_clip_becomes_a_video_file(server, tmp_path):
    """Video and metadata arrive whole, progress only grows, and the same clip is not uploaded again."""
    first = Watched(by_home(server), tmp_path / "new folder" / "video.mp4")
    assert first.end().outcome == "done"
    assert (tmp_path / "new folder" / "video.mp4").read_bytes()[4:8] == b"ftyp"
    assert json.loads((tmp_path / "new folder" / "video.json").read_text())["seed"] == 3
    assert not list(tmp_path.rglob("*.part"))
    fractions = [state.fraction for state in first.states]
    assert fractions == sorted(fractions)
    assert any(state.phase == "Generating" and 0 < state.fraction < 1 for state in first.states)
    assert server.job(first.task.id)["label"] == "test shot"
    again = Watched(by_home(server), tmp_path / "again.mp4")
    again.end()
    assert any("Uploading" in state.phase for state in first.states)
    assert not any("Uploading" in state.phase for state in again.states)


def test_an_upload_goes_on_where_the_line_broke(tmp_path):
    """The connection is cut twice in the middle of the clip; what has arrived is not sent again."""
    clip = tiny_clip(frames=49)
    big = clip_from_bytes(clip)
    big.provenance["filler"] = "".join(random.Random(1).choices("0123456789abcdef", k=3_000_000))
    with (
        RunningServer(tmp_path / "home", step_seconds=0.01) as server,
        FlakyLine(server.handshake["port"], up=[900_000, 900_000]) as line,
    ):
        address = Address(f"http://127.0.0.1:{line.port}", server.handshake["token"])
        watched = Watched(address, tmp_path / "video.mp4", clip=big)
        assert watched.end(60).outcome in ("done", "failed")  # generating it is another matter
        assert line.cuts == 2
        assert any(state.remedy == "The upload goes on where it stopped" for state in watched.states)
        (stored,) = (server.home / "clips").iterdir()
        assert stored.stem == sha256(stored.read_bytes())
        assert line.carried_up < 1.5 * stored.stat().st_size
        assert not list((server.home / "uploads").iterdir())


def test_a_server_with_a_certificate_of_its_own(tmp_path):
    """By its home the certificate is known; by its address it has to be trusted by this computer."""
    trustme = pytest.importorskip("trustme")
    leaf = trustme.CA().issue_cert("gpu.example")
    leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    options = ("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"))
    with RunningServer(tmp_path / "home", *options) as server:
        assert check_server(by_home(server)).state == "ready"
        status = check_server(Address(server.handshake["url"], server.handshake["token"]))
        assert status.state == "problem"
        assert "is not trusted" in status.message


def test_a_job_that_fails_says_why(server, tmp_path):
    end = Watched(by_home(server), tmp_path / "video.mp4", prompt="memory").end()
    assert end.outcome == "failed"
    assert "memory" in end.message.lower()
    assert end.remedy
    assert not (tmp_path / "video.mp4").exists()


def test_cancel_stops_the_job_on_the_server(tmp_path):
    """Steps so long that the job cannot end by itself first, even on a machine busy with other things."""
    with RunningServer(tmp_path / "home", step_seconds=3.0) as server:
        watched = Watched(by_home(server), tmp_path / "video.mp4")
        watched.until(lambda state: state.phase == "Generating")
        watched.task.cancel()
        assert watched.end(8).outcome == "cancelled"
        deadline = time.monotonic() + 10
        while (state := server.job(watched.task.id)["state"]) == "cancelling" and time.monotonic() < deadline:
            time.sleep(0.1)
        assert state == "cancelled"
        assert not (tmp_path / "video.mp4").exists()


def test_a_server_that_is_not_running(tmp_path):
    """By address and by folder: at once, with the address or file named and what to do."""
    end = Watched(Address(url="http://127.0.0.1:9"), tmp_path / "video.mp4").end(5)
    assert (end.outcome, end.message) == ("failed", "The HVG-3D server is not running at http://127.0.0.1:9")
    assert "hvg3d serve" in end.remedy
    status = check_server(Address(home=str(tmp_path)))
    assert status.state == "problem"
    assert str(tmp_path / "server.json") in status.message


def test_the_wrong_token(server, tmp_path):
    address = Address(url=server.handshake["url"], token="not the token of this server")
    end = Watched(address, tmp_path / "video.mp4").end(5)
    assert end.outcome == "failed"
    assert end.message.startswith("Wrong token")
    assert "preferences" in end.remedy
    assert check_server(address).message == end.message
    assert "no token" in check_server(Address(url=server.handshake["url"])).message


def test_what_a_ready_server_offers(server):
    status = check_server(Address(url=server.handshake["url"] + "/", token=server.handshake["token"] + "\n"))
    assert status.state == "ready"
    models = {model.id: (model.installed, model.default) for model in status.models}
    assert (models["nano"], models["das"]) == ((True, True), (False, False))


def test_a_model_that_is_not_installed(server):
    with pytest.raises(ClientError, match="'das' is not on this server") as caught:
        api = Api(by_home(server))
        server.upload(tiny_clip())
        from tests.server.serverkit import sha256

        request = GenerationRequest("das", "", 0).to_json(sha256(tiny_clip()))
        api.submit("123e4567-e89b-12d3-a456-426614174000", request, "")
    assert "hvg3d models pull das" in caught.value.remedy
    with pytest.raises(Missing):
        Api(by_home(server)).job("123e4567-e89b-12d3-a456-426614174000")


@pytest.mark.parametrize("status", [200, 404, 500])
def test_another_program_at_the_address(status):
    class Stranger(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>printer</html>")

        def log_message(self, *_):
            pass

    stranger = http.server.HTTPServer(("127.0.0.1", 0), Stranger)
    threading.Thread(target=stranger.serve_forever, daemon=True).start()
    try:
        status = check_server(Address(url=f"http://127.0.0.1:{stranger.server_port}"))
        assert "is not an HVG-3D server" in status.message
    finally:
        stranger.shutdown()
        stranger.server_close()


@pytest.mark.parametrize("url", ["", "127.0.0.1:8765", "http://127.0.0.1:port", "http://no.such.name.invalid:1"])
def test_addresses_that_are_none(url):
    status = check_server(Address(url=url, token="x" * 20))
    assert status.state == "problem"
    assert status.remedy


def test_a_broken_handshake_is_named(tmp_path):
    (tmp_path / "server.json").write_text('{"url": ')
    with pytest.raises(Unreachable, match=r"server\.json cannot be read"):
        Address(home=str(tmp_path)).resolve()


def test_a_server_killed_while_generating_finishes_the_job_when_it_is_back(tmp_path):
    """The user sees that it waits; the server comes back on another port, and the video arrives."""
    with RunningServer(tmp_path / "home", step_seconds=0.4) as server:
        watched = Watched(by_home(server), tmp_path / "video.mp4")
        watched.until(lambda state: state.phase == "Generating")
        server.kill()
        away = watched.until(lambda state: not state.connected)
        assert away.message.startswith("Waiting for the server")
        assert "can still be cancelled" in away.remedy
        assert not away.outcome
        server.start()
        assert watched.end(30).outcome == "done"
        assert any(state.connected for state in watched.states[watched.states.index(away) :])
        assert (tmp_path / "video.mp4").is_file()


def test_cancel_while_the_server_is_away_frees_the_user_at_once_and_reaches_the_server_later(tmp_path):
    with RunningServer(tmp_path / "home", step_seconds=3.0) as server:
        watched = Watched(by_home(server), tmp_path / "video.mp4")
        watched.until(lambda state: state.phase == "Generating")
        server.kill()
        watched.until(lambda state: not state.connected)
        started = time.monotonic()
        watched.task.cancel()
        end = watched.end(3)
        assert time.monotonic() - started < 1.0
        assert end.outcome == "cancelled"
        assert "when it is back" in end.remedy
        server.start()
        assert server.wait(watched.task.id, seconds=30)["state"] == "cancelled"


def test_a_result_that_cannot_be_written_is_explained(server, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    end = Watched(by_home(server), tmp_path / "file" / "video.mp4").end()
    assert end.outcome == "failed"
    assert "cannot be written" in end.message
    assert "folder you may write to" in end.remedy
