# SPDX-License-Identifier: Apache-2.0
"""The service file and the container file: right as far as can be seen without installing them."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from server.__main__ import parse

from .serverkit import ROOT

UNIT = ROOT / "deploy" / "hvg3d.service"
CONTAINER = ROOT / "deploy" / "Containerfile"
systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")


def settings_of(path: Path) -> list[tuple[str, str]]:
    lines = [line for line in path.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


def instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#")))
    return [(kind, rest.strip()) for kind, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


@systemd
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """With paths that exist here in place of /opt/hvg3d: systemd itself finds no unknown or wrong setting."""
    text = UNIT.read_text().replace("/opt/hvg3d/.venv/bin/python", "/bin/true").replace("/opt/hvg3d", str(ROOT))
    text = text.replace("User=hvg3d", "User=daemon").replace("Group=hvg3d", "Group=daemon")
    unit = tmp_path / "hvg3d.service"
    unit.write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if "hvg3d.service" in line]
    assert done.returncode == 0 and not complaints, done.stdout + done.stderr


@systemd
def test_the_unit_is_shut_in(tmp_path: Path) -> None:
    """systemd's own measure of what a service could do to its machine: 0 is nothing, 10 anything."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=30", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze looks only at running services")
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr


def test_the_units_commands_are_ours() -> None:
    """The options in it exist, --check looks at what is then started, and it is no root's process."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read_string(UNIT.read_text())
    service = parser["Service"]
    start, check = (shlex.split(service[name]) for name in ("ExecStart", "ExecStartPre"))
    assert start[1:3] == check[1:3] == ["-m", "server"]
    started, checked = parse(start[3:]), parse(check[3:])
    assert (started.task, checked.task) == ("serve", "check")
    assert (started.home, started.port, started.host) == (checked.home, checked.port, "127.0.0.1")
    assert started.log_format == "json"
    assert service["User"] not in ("", "root", "0")
    assert service["OOMPolicy"] == "continue", "else a worker out of memory would take the server with it"
    assert str(started.home) == f"/var/lib/{service['StateDirectory'].split()[0]}"
    assert service["KillSignal"] == "SIGINT", "the server puts its running job back on it"


def test_the_container_file() -> None:
    """Every copied path exists, the last user is none of root's, and its command is one that the server takes."""
    steps = instructions(CONTAINER)
    assert steps[0][0] == "FROM" and not steps[0][1].endswith(("latest", ":"))
    for kind, rest in steps:
        assert kind in ("FROM", "ARG", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "ENV", "EXPOSE", "STOPSIGNAL",
                        "HEALTHCHECK", "ENTRYPOINT"), kind  # fmt: skip
        if kind == "COPY":
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
        assert "token" not in rest.lower(), "no secret belongs in an image"
    users = [rest for kind, rest in steps if kind == "USER"]
    assert users and users[-1].split(":")[0].isdecimal() and int(users[-1].split(":")[0]) > 0
    after = [kind for kind, _ in steps[steps.index(("USER", users[-1])) :]]
    assert "RUN" not in after and "COPY" not in after
    command = json.loads(next(rest for kind, rest in steps if kind == "ENTRYPOINT"))
    assert command[:3] == ["python", "-m", "server"]
    settings = parse(command[3:])
    assert str(settings.port) == next(rest for kind, rest in steps if kind == "EXPOSE")
    assert str(settings.home) == next(rest for kind, rest in steps if kind == "VOLUME")
    health = next(rest for kind, rest in steps if kind == "HEALTHCHECK")
    assert f"http://127.0.0.1:{settings.port}/v1/health/live" in health
    assert next(rest for kind, rest in steps if kind == "STOPSIGNAL") == "SIGINT"
    copied = {source for kind, rest in steps if kind == "COPY" for source in rest.split()[:-1]}
    assert {"pyproject.toml", "hvg3d_core", "server"} <= copied
