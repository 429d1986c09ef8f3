# SPDX-License-Identifier: GPL-3.0-or-later
"""The care for a server part by part, without Blender: settings, programs, starts that fail, answers of an address."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from blender_addon.client.check import check_server
from blender_addon.client.http import Address, Api
from blender_addon.server_care import text
from blender_addon.server_care.environment import Managed
from blender_addon.server_care.failures import CareError, describe_exit, explain
from blender_addon.server_care.find import checkout_of, chosen_program, find_program, with_python
from blender_addon.server_care.local import Launch, folder_error, prepare_home, start
from blender_addon.server_care.pythons import clean_environment, find_python, probe

from .carekit import ROOT, lean_environment

posix = pytest.mark.skipif(os.name == "nt", reason="of POSIX systems")


# what people type


@posix
@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("/srv/hvg3d", "/srv/hvg3d"),
        ("  /srv/hvg3d/ \n", "/srv/hvg3d"),
        ('"/srv/ä b/hvg3d"', "/srv/ä b/hvg3d"),
        ("\u201c/srv/hvg3d\u201d", "/srv/hvg3d"),
        ("'/srv/hvg3d///'", "/srv/hvg3d"),
        ("//server/share", "/server/share"),
        ("file:///srv/%C3%A4%20b", "/srv/ä b"),
        ("file://localhost/srv", "/srv"),
        ("~/hvg3d", "/home/me/hvg3d"),
        ("$HVG3D_PLACE/x", "/data/x"),
        ("/srv/../data/./x", "/data/x"),
    ],
)
def test_paths_as_they_were_meant(monkeypatch, typed, meant):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("HVG3D_PLACE", "/data")
    assert str(text.tidy_path(typed)) == meant


@pytest.mark.parametrize("typed", ["", "   ", '""', "\ufeff"])
def test_no_path_is_no_path(typed):
    assert text.tidy_path(typed) is None


@posix
@pytest.mark.parametrize(
    "typed", [r"C:\Users\ä b\hvg3d", "C:/Users/x", r'"\\server\share"', "a/b", "~nobody-here/x", "/a\0b"]
)
def test_paths_that_lead_nowhere_are_refused_in_words(typed):
    with pytest.raises(text.Unusable, match=": "):
        text.tidy_path(typed)


@posix
def test_a_path_beside_the_scene(tmp_path):
    """``//`` is Blender's for beside the .blend file, where there is such a folder."""
    (tmp_path / "server").mkdir()
    assert text.tidy_path("//server", str(tmp_path)) == tmp_path / "server"
    assert text.tidy_path("//share/x", str(tmp_path)) == Path("/share/x")


def test_windows_paths_on_windows(monkeypatch):
    """With the path rules of Windows, which Python has everywhere."""
    import ntpath
    from pathlib import PureWindowsPath

    monkeypatch.setattr(text.sys, "platform", "win32")
    monkeypatch.setattr(text.os, "path", ntpath)
    monkeypatch.setattr(text, "Path", PureWindowsPath)
    monkeypatch.setenv("USERPROFILE", r"C:\Users\me")
    monkeypatch.setenv("APPDATA", r"C:\Users\me\AppData")
    assert str(text.tidy_path(r'"C:\Users\ä b\hvg3d"')) == r"C:\Users\ä b\hvg3d"
    assert str(text.tidy_path("C:/Users/me/hvg3d/")) == r"C:\Users\me\hvg3d"
    assert str(text.tidy_path("//server/share/hvg3d")) == r"\\server\share\hvg3d"
    assert str(text.tidy_path(r"\\server\share\hvg3d" + "\\")) == r"\\server\share\hvg3d"
    assert str(text.tidy_path(r"%APPDATA%\hvg3d")) == r"C:\Users\me\AppData\hvg3d"
    assert str(text.tidy_path(r"~\hvg3d")) == r"C:\Users\me\hvg3d"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("http://127.0.0.1:8765", "http://127.0.0.1:8765"),
        (' "http://127.0.0.1:8765/" \n', "http://127.0.0.1:8765"),
        ("gpu.example", "http://gpu.example:8765"),
        ("gpu.example:9000", "http://gpu.example:9000"),
        ("https://gpu.example", "https://gpu.example"),
        ("HTTPS://GPU.Example/v1/", "https://gpu.example"),
        ("http:\\\\gpu.example:80\\", "http://gpu.example:80"),
        ("http:/gpu.example:80", "http://gpu.example:80"),
        ("//gpu.example", "http://gpu.example:8765"),
        ("http://127.0.0.1:41233/#token=abc", "http://127.0.0.1:41233"),
        ("::1", "http://[::1]:8765"),
        ("http://[fe80::1]:99/x", "http://[fe80::1]:99"),
        ("me@gpu.example:1", "http://gpu.example:1"),
    ],
)
def test_addresses_as_they_were_meant(typed, meant):
    assert text.tidy_address(typed) == meant


@pytest.mark.parametrize(
    "typed", ["", "/home/me", r"C:\x", "ftp://x", "http://", "http://a:port", "http://a:99999", "my server"]
)
def test_addresses_that_are_none_say_how_to_write_one(typed):
    with pytest.raises(text.Unusable, match=r"write it as http://127\.0\.0\.1:8765"):
        text.tidy_address(typed)


def test_what_stays_on_this_computer():
    near = ("http://127.0.0.1:1", "http://127.3.4.5", "https://localhost:8", "http://[::1]:8", "http://x.localhost")
    far = ("http://192.168.0.2:1", "http://gpu", "http://[fe80::1]", "http://127.0.0.1.example", "http://0.0.0.0:1")
    assert [text.is_loopback(url) for url in near] == [True] * len(near)
    assert [text.is_loopback(url) for url in far] == [False] * len(far)


# which program


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    return lean_environment(tmp_path_factory.mktemp("programs") / "env")


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory) -> Path:
    return lean_environment(tmp_path_factory.mktemp("bare") / "env", with_server=False)


@posix
def test_every_way_to_name_a_program(python, tmp_path):
    """A Python, its environment, its folder, the command hvg3d by its first line or its neighbour, a checkout."""
    command = (str(python), "-I", "-m", "server")
    assert chosen_program(python).command == command
    assert chosen_program(python.parents[1]).command == command
    assert chosen_program(python.parent).command == command
    script = tmp_path / "hvg3d"
    script.write_text(f"#!{python}\nprint()\n")
    script.chmod(0o755)
    assert chosen_program(script).command == command
    script.write_text("#!/bin/sh\n")
    assert chosen_program(script).command == (str(script), "serve")
    checkout = tmp_path / "checkout"
    (checkout / "server").mkdir(parents=True)
    (checkout / "hvg3d_core").mkdir()
    (checkout / "server" / "__main__.py").touch()
    (checkout / "pyproject.toml").touch()
    with pytest.raises(CareError, match="has no environment") as caught:
        chosen_program(checkout)
    assert "bootstrap.py" in caught.value.remedy
    (checkout / "blender_addon").mkdir()
    (checkout / ".venv").symlink_to(python.parents[1])
    found = chosen_program(checkout)
    assert found.cwd == checkout
    assert found.command == (str(checkout / ".venv" / "bin" / "python"), "-m", "server")
    assert checkout_of(checkout / "blender_addon") == checkout
    assert checkout_of(tmp_path / "blender_addon") is None


@posix
@pytest.mark.parametrize(
    ("make", "said"), [("nothing", "There is no"), ("text", "is not a program"), ("folder", "is no Python")]
)
def test_programs_that_are_none(tmp_path, make, said):
    path = tmp_path / "x"
    if make == "text":
        path.write_text("hello")
    elif make == "folder":
        path.mkdir()
    with pytest.raises(CareError, match=said) as caught:
        chosen_program(path)
    assert caught.value.remedy


@posix
def test_the_order_of_looking(python, tmp_path, monkeypatch):
    """The chosen one, the installed one, the checkout's, the one on the search path; else how to get one."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    managed = Managed(tmp_path / "managed")
    with pytest.raises(CareError) as caught:
        find_program(None, managed, None)
    assert caught.value.code == "not_installed"
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "hvg3d"
    script.write_text(f"#!{python}\n")
    script.chmod(0o755)
    assert find_program(None, managed, None).kind == "path"
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / ".venv").symlink_to(python.parents[1])
    assert find_program(None, managed, tmp_path / "checkout").kind == "checkout"
    managed.claim()
    assert find_program(None, managed, tmp_path / "checkout").kind == "checkout"
    managed.env.symlink_to(python.parents[1])
    from blender_addon.server_care.environment import Installed

    managed.finish(Installed("1", "x", ""))
    assert find_program(None, managed, tmp_path / "checkout").kind == "managed"
    assert find_program(python, managed, tmp_path / "checkout").kind == "chosen"
    managed.unfinish()
    script.unlink()
    with pytest.raises(CareError) as caught:
        find_program(None, managed, None)
    assert caught.value.code == "unfinished"


def test_a_python_tells_what_it_has(python, bare_python, tmp_path):
    whole, empty = probe(python), probe(bare_python)
    assert (whole.problem, whole.missing) == ("", ())
    from hvg3d_core import __version__

    assert whole.hvg3d == __version__
    assert {"server", "hvg3d_core", "torch"} <= set(empty.missing)
    assert "cannot be started" in probe(tmp_path / "none").problem


@posix
def test_a_python_of_another_age(tmp_path):
    """Told by one that says it is 3.9: refused before anything is made with it."""
    old = tmp_path / "python3.9"
    told = {"version": [3, 9, 2], "base": "/usr", "executable": str(old), "found": {}, "hvg3d": "", "bits": 64}
    old.write_text(f"#!/bin/sh\necho '{json.dumps(told)}'\n")
    old.chmod(0o755)
    assert "is Python 3.9.2; the server needs 3.11 to 3.13" in find_python(old).problem
    old.write_text("#!/bin/sh\necho hello; echo 'no such thing' >&2; exit 3\n")
    assert "is not a Python that works (no such thing)" in find_python(old).problem


def test_nothing_of_blenders_python_reaches_another():
    given = {
        "PATH": "/bin",
        "PYTHONPATH": "/x",
        "PYTHONHOME": "/y",
        "PYTHONSTARTUP": "z",
        "PIP_INDEX_URL": "u",
        "VIRTUAL_ENV": "v",
    }
    kept = clean_environment(given)
    assert {name: kept[name] for name in ("PATH", "PIP_INDEX_URL")} == {"PATH": "/bin", "PIP_INDEX_URL": "u"}
    assert not {"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV"} & set(kept)
    assert kept["PYTHONNOUSERSITE"] == "1"


# starts that do not work, with real processes


def fails(home: Path, program, *options: str, port: int = 0) -> CareError:
    said: list[str] = []
    with pytest.raises(CareError) as caught:
        start(Launch(home, program, port, options=options), threading.Event(), lambda text, log: said.append(text))
    assert caught.value.remedy
    return caught.value


SLOW = ("--backend", "slow_backend")


def test_a_python_without_a_server(bare_python, tmp_path):
    error = fails(tmp_path, with_python("chosen", bare_python))
    assert error.code == "wrong_python"
    assert str(bare_python) in error.message


def test_options_and_models_that_do_not_exist(python, tmp_path):
    program = with_python("chosen", python)
    error = fails(tmp_path, program, "--speed", "11")
    assert (error.code, error.message) == (
        "options",
        "The server does not understand its options: unrecognized arguments: --speed 11",
    )
    assert error.log
    error = fails(tmp_path, program, *SLOW, "--model", "gpt")
    assert error.code == "model"
    assert "gpt" in error.message


def test_two_starts_at_once_end_with_one_server(python, tmp_path, monkeypatch):
    """Two Blenders, the same moment, the same folder: one server is started, and both use it."""
    monkeypatch.setenv("HVG3D_TEST_FOLDER", str(tmp_path))
    launch = Launch(tmp_path / "home", with_python("chosen", python), options=SLOW)
    outcomes: list = []

    def one() -> None:
        outcomes.append(start(launch, threading.Event(), lambda text, log: None))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    started = [local for local, _ in outcomes if local is not None]
    try:
        assert len(outcomes) == 2
        assert len(started) == 1
        assert len({status.instance for _, status in outcomes}) == 1
        assert {status.state for _, status in outcomes} == {"ready"}
    finally:
        for local in started:
            local.stop()


@posix
def test_a_folder_that_is_a_file(python, tmp_path):
    (tmp_path / "file").touch()
    error = fails(tmp_path / "file" / "home", with_python("chosen", python))
    assert error.code == "read_only"
    assert "a file of that name is in the way" in error.message


@posix
def test_a_folder_that_cannot_be_written_to(tmp_path):
    """Root may write everywhere, but not into the system's own view of processes."""
    folder = Path("/proc/hvg3d")
    if os.geteuid() != 0:
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o500)
    if not Path("/proc").is_dir():
        pytest.skip("there is no /proc here")
    with pytest.raises(CareError) as caught:
        prepare_home(folder / "home")
    assert caught.value.code == "read_only"
    assert str(folder) in caught.value.message


def test_every_refusal_of_a_folder_has_words():
    for number, code, said in (
        (errno.ENOSPC, "disk_full", "is full"),
        (errno.EFBIG, "disk_full", "is full"),
        (errno.EROFS, "read_only", "may not write"),
        (errno.EACCES, "read_only", "may not write"),
        (errno.EIO, "read_only", "cannot be used"),
    ):
        error = folder_error(Path("/x"), OSError(number, os.strerror(number)))
        assert error.code == code
        assert said in error.message
        assert error.remedy


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits of Linux")
def test_a_disk_that_is_full_for_the_server(python, tmp_path):
    """The server may write no file larger than 8 kB, so that its job table cannot grow: said as what it is."""
    limited = tmp_path / "limited"
    limited.write_text(f'#!/bin/sh\nshift\nulimit -f 8\ntrap "" XFSZ\nexec {python} -I -m server "$@"\n')
    limited.chmod(0o755)
    error = fails(tmp_path / "home", chosen_program(limited), *SLOW)
    assert error.code == "disk_full", (error.message, error.log)


@pytest.mark.parametrize(
    ("log", "code"),
    [
        ("/usr/bin/python3: No module named server", "wrong_python"),
        ("ModuleNotFoundError: No module named 'uvicorn'", "incomplete"),
        ("ImportError: DLL load failed while importing _C: The specified module could not be found.", "broken"),
        ("ImportError: libcudart.so.12: cannot open shared object file: No such file", "broken"),
        ("OSError: [Errno 28] No space left on device", "disk_full"),
        ("sqlite3.OperationalError: database or disk is full", "disk_full"),
        ("PermissionError: [Errno 13] Permission denied: '/srv/hvg3d/token'", "read_only"),
        ("error: /h holds a table with schema version 99, written by a newer server", "version"),
        ("error: cannot listen on 127.0.0.1:80: Permission denied; give another", "port"),
        ("error: cannot listen on 127.0.0.1:80: [WinError 10048] Only one usage of each socket address", "port_taken"),
        ("numpy.core._exceptions.MemoryError: Unable to allocate", "memory"),
        ("something else", "failed"),
    ],
)
def test_logs_are_understood(log, code):
    error = explain(["INFO started", log], 1)
    assert error.code == code, error.message
    assert error.message
    assert error.remedy
    assert "{" not in error.message


def test_ends_in_words():
    assert "not enough memory" in describe_exit(-9)
    assert describe_exit(3) == "exit code 3"
    assert describe_exit(-11) == "signal 11"


# answers of an address


def answer(url: str, token: str = "x" * 20) -> str:
    status = check_server(Address(url=url, token=token))
    assert status.state == "problem"
    assert status.message
    assert status.remedy
    return status.code


class Line:
    """Listens, and does with a connection what it is told."""

    def __init__(self, do) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.serve, args=(do,), daemon=True).start()

    def serve(self, do) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                try:
                    do(connection)
                except OSError:
                    continue

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


def speak(body: bytes, status: str = "200 OK"):
    def do(connection) -> None:
        connection.recv(65536)
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    return do


def test_each_failure_of_an_address_has_an_answer_of_its_own(monkeypatch):
    monkeypatch.setitem(Api._json.__kwdefaults__, "timeout", 0.5)
    assert answer("http://no.such.name.invalid:1") == "name"
    assert answer("http://127.0.0.1:9") == "refused"
    assert answer("my server") == "address"
    with Line(lambda connection: time.sleep(8)) as line:
        assert answer(line.url) == "timeout"
    with Line(lambda connection: connection.recv(1)) as line:
        assert answer(line.url) == "broken"
    with Line(speak(b"<html>printer</html>")) as line:
        assert answer(line.url) == "stranger"
        assert answer(line.url.replace("http", "https")) == "tls"
    with Line(speak(b'{"api": "v99", "version": "9"}')) as line:
        assert answer(line.url) == "version"
    refusal = json.dumps({"error": {"code": "wrong_token", "message": "this token is not the server's"}}).encode()
    with Line(speak(refusal, "401 Unauthorized")) as line:
        assert answer(line.url) == "wrong_token"


def test_http_to_a_server_with_tls(tmp_path):
    """The certificate is not trusted, and http:// is answered with how to write the address."""
    trustme = pytest.importorskip("trustme")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    def do(connection) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(1)

    with Line(do) as line:
        assert answer(line.url.replace("http", "https")) == "certificate"
        status = check_server(Address(url=line.url, token="x"))
        assert status.code == "tls"
        assert line.url.replace("http", "https") in status.remedy


def test_another_version_is_a_hint_and_a_dead_worker_too():
    """A server of another version, with the same API, is used; that it is another is said."""
    health = {"api": "v1", "version": "0.0.9", "instance": "i", "queued": 2, "running": 1}
    idle = [{"state": "idle", "last_exit": None}]
    dead = [{"state": "restarting", "last_exit": "exit code 1"}]

    def server(workers):
        def do(connection) -> None:
            path = connection.recv(65536).split()[1]
            body = {"models": []} if b"models" in path else {**health, "workers": workers}
            speak(json.dumps(body).encode())(_Replay(connection))

        return do

    with Line(server(idle)) as line:
        status = check_server(Address(url=line.url), "0.1.0")
        assert (status.state, status.waiting, status.version) == ("ready", 3, "0.0.9")
        assert "0.0.9" in status.hint
        assert "3 in its queue" in status.message
    with Line(server(dead)) as line:
        assert "Its worker has ended (exit code 1)" in check_server(Address(url=line.url), "0.0.9").hint


class _Replay:
    """A connection whose request has been read."""

    def __init__(self, connection) -> None:
        self.sendall = connection.sendall

    def recv(self, size: int) -> bytes:
        return b""


# the managed folder


def test_only_its_own_folder_is_removed(tmp_path):
    """Without the marker nothing goes; with it the folder goes, links in it are not followed, others stay."""
    other = tmp_path / "precious"
    other.mkdir()
    (other / "film.mp4").write_bytes(b"x" * 1000)
    theirs = Managed(other)
    with pytest.raises(CareError, match="holds other files"):
        theirs.claim()
    with pytest.raises(CareError, match="was not made by the add-on"):
        theirs.remove()
    assert (other / "film.mp4").exists()

    managed = Managed(tmp_path / "ä" / "managed")
    managed.claim()
    (managed.env / "lib").mkdir(parents=True)
    (managed.env / "lib" / "file").write_bytes(b"x" * 2048)
    (managed.env / "lib" / "file").chmod(0o400)
    (managed.env / "link").symlink_to(other)
    (managed.folder / "linked").symlink_to(other)
    assert managed.size() > 2048
    with managed.lock():
        managed.remove()
    assert not managed.folder.exists()
    assert (other / "film.mp4").exists()
    managed.remove()  # nothing to do
    (tmp_path / "link").symlink_to(other)
    with pytest.raises(CareError):
        Managed(tmp_path / "link").remove()


def test_one_at_a_time(tmp_path):
    managed = Managed(tmp_path / "managed")
    managed.claim()
    code = (
        "import sys; from pathlib import Path; from blender_addon.server_care.environment import Managed\n"
        "with Managed(Path(sys.argv[1])).lock(): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(managed.folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(CareError, match="Another Blender"), managed.lock():
        pass
    other.kill()
    other.communicate()
    with managed.lock():
        pass


def test_an_environment_whose_python_is_gone(tmp_path):
    from blender_addon.server_care.environment import Installed

    managed = Managed(tmp_path / "managed")
    managed.claim()
    managed.finish(Installed("1", "/usr/bin/python3.11", ""))
    assert "is gone" in managed.state().problem
    assert not managed.state().ready
    shutil.rmtree(managed.folder)
    assert not managed.state().started
