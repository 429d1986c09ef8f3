# SPDX-License-Identifier: GPL-3.0-or-later
"""In Blender 5.2 itself: the repository is subscribed to, and updates come; German; keys; search with F3."""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from blender_addon import build_extension
from blender_addon.repository import write_repository
from tests.blender.test_repository import _Quiet, newer

from .screen import Screen, unavailable
from .test_window import Session

pytestmark = [
    pytest.mark.window,
    pytest.mark.timeout(1500),  # the first set-up downloads Blender
    pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "-"),
]
VIEWPORT = (400, 700)


@pytest.fixture
def screen(tmp_path):
    try:
        Screen(tmp_path).set_up()
    except RuntimeError as error:
        pytest.skip(f"Blender 5.2 could not be installed from Debian: {error}")
    (tmp_path / "user").mkdir()
    with Screen(tmp_path) as made:
        yield made


def test_blender_52_validates_subscribes_installs_and_updates(screen, tmp_path):
    repository, talk = tmp_path / "öffentlich", tmp_path / "talk"
    talk.mkdir()
    build_extension.main(["--repository", str(repository)])
    archive = next(repository.glob("*.zip"))
    told = screen.command("--command", "extension", "validate", f"/project/öffentlich/{archive.name}")
    assert "Success parsing TOML" in told or "Success" in told, told
    shutil.copy(Path(__file__).parents[1] / "drive_repository.py", tmp_path)
    handler = functools.partial(_Quiet, directory=str(repository))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def publish() -> None:
        for _ in range(600):
            if (talk / "installed").is_file():
                newer(archive, "99.1.0")
                write_repository(repository)
                (talk / "newer").touch()
                return
            time.sleep(0.2)

    threading.Thread(target=publish, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/index.json"
    script = ("--python", "/project/drive_repository.py", "--", url, "/project/talk")
    try:
        told = screen.command("-b", "--factory-startup", "--online-mode", *script)
    finally:
        server.shutdown()
    assert "REPOSITORY 5.2" in told
    assert (talk / "installed").read_text() == build_extension.version()
    assert (talk / "updated").read_text() == "99.1.0"


@pytest.fixture
def session(screen, tmp_path):
    package = build_extension.build(tmp_path)
    shutil.copy(Path(__file__).with_name("inside_language.py"), tmp_path)
    screen.command("--command", "extension", "install-file", "-r", "user_default", "-e", f"/project/{package.name}")
    screen.start("--python", "/project/inside_language.py")
    return Session(tmp_path, screen)


def test_a_person_works_in_german_with_keys_and_search(session):
    status = session.until("window", lambda s: s["language"] == "de_DE", 120)
    assert status["version"].startswith("5.2")
    assert status["panel"] == "Echtes Video"
    assert status["operator"] == "Als echtes Video rendern"
    assert len(status["checks"]) >= 4
    for english, german in status["checks"]:
        assert german != english, english
    assert {"hvg3d.render_real", "hvg3d.cancel", "hvg3d.compare", "hvg3d.toggle_overlay"} <= set(status["shortcuts"])
    time.sleep(3)
    session.screen.click(*VIEWPORT)  # closes the splash, if it came before the preferences were set
    time.sleep(4)  # software OpenGL: until all is drawn
    session.picture("german-panel")

    for wanted in (True, False):
        for _ in range(4):
            session.screen.key("ctrl+shift+F10")
            try:
                session.until("shortcut", lambda s, wanted=wanted: s["points"] == wanted, 8)
                break
            except AssertionError:
                continue
        assert session.status()["points"] == wanted

    session.screen.key("F3")
    time.sleep(2)
    subprocess.run(["xdotool", "type", "--delay", "120", "gesendete"], env=session.screen.environment(), check=True)
    time.sleep(3)
    session.picture("german-search")
    session.screen.key("Return")
    session.until("found by F3", lambda s: s["points"], 20)

    session.tell("preferences")
    session.until("preferences", lambda s: s["windows"] == 2, 30)
    time.sleep(5)
    session.picture("german-preferences")
    assert "Traceback" not in session.screen.log.read_text()
