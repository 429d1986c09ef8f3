# SPDX-License-Identifier: Apache-2.0
"""How a browser gets in: the page without a token, a session with one, and nothing from other pages."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from server.browser import mount_page
from server.gate import PAGE_POLICY, BodyLimits, Gate
from server.security import HostCheck
from server.session import CODE_SECONDS, SESSION_SECONDS, Sessions

from .serverkit import RunningServer

TOKEN = "a-token-of-some-length"


@pytest.fixture
def browser(server: RunningServer) -> httpx.Client:
    """Like a browser: keeps cookies, has no token."""
    with httpx.Client(base_url=server.handshake["url"], timeout=20) as client:
        yield client


def log_in(server: RunningServer, browser: httpx.Client) -> None:
    answer = browser.post("/v1/session", headers={"Authorization": f"Bearer {server.handshake['token']}"})
    assert answer.status_code == 201, answer.text
    assert answer.json()["by"] == "token"


def test_the_cookie_stands_for_the_token(server: RunningServer, browser: httpx.Client) -> None:
    """Also where no header can be sent; it is out of reach for scripts and other sites, and logging out ends it."""
    assert browser.get("/v1/jobs").status_code == 401
    log_in(server, browser)
    cookie = next(iter(browser.cookies.jar))
    given = browser.post("/v1/session", headers={"X-HVG3D": "1"})
    flags = given.headers["set-cookie"]
    for flag in ("HttpOnly", "SameSite=strict", "Path=/v1"):
        assert flag in flags
    assert "Secure" not in flags, "over plain HTTP the browser would drop it"
    assert server.handshake["token"] not in flags
    assert given.json()["by"] == "session"
    assert browser.get("/v1/jobs").status_code == 200
    with browser.stream("GET", "/v1/events") as stream:
        assert next(stream.iter_text()).startswith("retry:")
    renewed = next(iter(browser.cookies.jar)).value
    assert renewed != cookie.value
    old = httpx.get(f"{browser.base_url}/v1/jobs", headers={"Cookie": f"{cookie.name}={cookie.value}"})
    assert old.status_code == 401, "renewing ends the session before"
    assert browser.delete("/v1/session", headers={"X-HVG3D": "1"}).status_code == 204
    assert not browser.cookies
    kept = httpx.get(f"{browser.base_url}/v1/jobs", headers={"Cookie": f"{cookie.name}={renewed}"})
    assert kept.status_code == 401, "a copy of the cookie is worth nothing after the logout"


def test_other_pages_cannot_use_the_cookie(server: RunningServer, browser: httpx.Client) -> None:
    """Neither a form, nor a page of another port of this machine, which SameSite takes for the same site."""
    log_in(server, browser)
    body = {"position": 0}
    address = "/v1/jobs/123e4567-e89b-12d3-a456-426614174000/move"
    for headers, code in (
        ({}, "cross_site_request"),
        ({"X-HVG3D": "1", "Sec-Fetch-Site": "same-site"}, "cross_site_request"),
        ({"X-HVG3D": "1", "Origin": "http://127.0.0.1:1"}, "origin_not_allowed"),
        ({"X-HVG3D": "1", "Origin": "null"}, "origin_not_allowed"),
        ({"X-HVG3D": "1", "Origin": "http://["}, "origin_not_allowed"),
    ):
        answer = browser.post(address, json=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, code)
    own = {"X-HVG3D": "1", "Origin": server.handshake["url"], "Sec-Fetch-Site": "same-origin"}
    assert browser.post(address, json=body, headers=own).json()["error"]["code"] == "job_not_found"
    assert browser.get("/v1/jobs", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert browser.get("/v1/jobs", headers={"Sec-Fetch-Site": "none"}).status_code == 200


def test_the_printed_link_works_once(server: RunningServer, browser: httpx.Client) -> None:
    link = server.client.post("/v1/session/link").json()
    code = re.fullmatch(r"/#token=([\w-]{32})", link["path"])[1]
    bearer = {"Authorization": f"Bearer {code}"}
    assert browser.get("/v1/jobs", headers=bearer).status_code == 401, "a code is good for a session, nothing else"
    assert browser.post("/v1/session", headers=bearer).json()["by"] == "code"
    assert browser.get("/v1/jobs").status_code == 200
    again = httpx.post(f"{browser.base_url}/v1/session", headers=bearer)
    assert again.status_code == 401
    assert "a link that was used or is too old" in again.json()["error"]["message"]
    browser.delete("/v1/session", headers={"X-HVG3D": "1"})


def test_sessions_and_codes_end() -> None:
    now = [1000.0]
    sessions = Sessions(TOKEN, lambda: now[0])
    value, expires = sessions.create()
    code = sessions.make_code()
    assert sessions.check(value) == expires == 1000 + SESSION_SECONDS
    assert Sessions(TOKEN, lambda: now[0]).check(value) == expires, "it outlives a restart"
    assert Sessions(TOKEN + "x", lambda: now[0]).check(value) is None, "it does not outlive the token"
    longer = f"{int(expires) + 9999}.{value.split('.', 1)[1]}"
    for forged in (longer, value[:-1], value + "0", "", ".", "..", "1.2.3", "é.ü.ß", value.split(".")[0]):
        assert sessions.check(forged) is None
    now[0] += CODE_SECONDS
    assert not sessions.redeem(code)
    now[0] = expires
    assert sessions.check(value) is None
    codes = [sessions.make_code() for _ in range(300)]
    assert not sessions.redeem(codes[0]), "they do not pile up"
    assert sessions.redeem(codes[-1])


def gated(folder: Path) -> TestClient:
    app = FastAPI()

    @app.get("/v1/data")
    async def data() -> str:
        return "data"

    mount_page(app, folder)
    app.add_middleware(
        Gate,
        token=TOKEN,
        token_path=folder,
        hosts=HostCheck("127.0.0.1", ["testserver"]),
        sessions=Sessions(TOKEN),
        body=BodyLimits(1000, 5, 5),
    )
    return TestClient(app)


def test_the_page_is_public_and_strict(tmp_path: Path) -> None:
    """Its files come without a token, under a policy that lets nothing else in; files beside its folder do not."""
    page = tmp_path / "static"
    page.mkdir()
    (page / "index.html").write_text("<!doctype html><title>page</title>")
    (page / "page.js").write_text("1")
    (tmp_path / "token").write_text("secret")
    (page / "link").symlink_to(tmp_path / "token")
    client = gated(page)
    for path, kind in (("/", "text/html"), ("/page.js", "text/javascript")):
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["content-security-policy"] == PAGE_POLICY
        assert answer.headers["cache-control"] == "no-cache"
    assert "unsafe" not in PAGE_POLICY
    assert "default-src 'none'" in PAGE_POLICY
    for path in ("/../token", "/%2e%2e/token", "/..%2ftoken", "/link", "//etc/passwd", "/%00", "/" + "a" * 5000):
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert "secret" not in answer.text
    assert client.get("/v1/data").status_code == 401
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 421
    data = client.get("/v1/data", headers={"Authorization": f"Bearer {TOKEN}"})
    assert data.headers["cross-origin-resource-policy"] == "same-origin"
    assert data.headers["x-content-type-options"] == "nosniff"
    assert data.headers["cache-control"] == "no-store"


def test_a_server_without_the_page_runs(tmp_path: Path) -> None:
    client = gated(tmp_path / "nothing here")
    assert client.get("/").status_code == 404
    assert client.get("/v1/data", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
