# SPDX-License-Identifier: Apache-2.0
"""HTTPS with a certificate made for the test, and what is said about one that cannot be used."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from server.link import make_link
from server.tls import TlsError, check_pair

from .serverkit import ROOT, RunningServer


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(certificate, key, certificate of the authority) of a server called localhost."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    leaf.private_key_pem.write_to_path(folder / "key.pem")
    for number, part in enumerate(leaf.cert_chain_pems):
        part.write_to_path(folder / "cert.pem", append=number > 0)
    return folder / "cert.pem", folder / "key.pem", folder / "ca.pem"


def test_https(issued: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Clients that trust the authority get in, plain HTTP does not, the cookie is Secure, --link works over it."""
    certificate, key, authority = issued
    home = tmp_path / "home"
    with RunningServer(home, "--tls-cert", str(certificate), "--tls-key", str(key)) as server:
        port, token = server.handshake["port"], server.handshake["token"]
        assert server.handshake["url"] == f"https://127.0.0.1:{port}"
        bearer = {"Authorization": f"Bearer {token}"}
        context = ssl.create_default_context(cafile=str(authority))
        with httpx.Client(base_url=f"https://localhost:{port}", verify=context, headers=bearer) as client:
            assert client.get("/v1/health").status_code == 200
            assert "Secure" in client.post("/v1/session").headers["set-cookie"]
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"https://localhost:{port}/v1/health", headers=bearer)
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://localhost:{port}/v1/health", headers=bearer)
        assert json.loads((home / "server.json").read_text())["certificate"] == certificate.read_text()
        assert make_link(home).startswith(f"https://127.0.0.1:{port}/#token=")


def test_certificates_that_cannot_be_used_are_named(issued: tuple[Path, Path, Path], tmp_path: Path) -> None:
    certificate, key, _ = issued
    check_pair(certificate, key)
    other = tmp_path / "other.pem"
    trustme.CA().issue_cert("x").private_key_pem.write_to_path(other)
    locked = tmp_path / "locked.pem"
    plain = serialization.load_pem_private_key(key.read_bytes(), None)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    locked.write_bytes(plain.private_bytes(*form, serialization.BestAvailableEncryption(b"words")))
    for pair, words in (
        ((certificate, None), "--tls-cert is given without --tls-key"),
        ((None, key), "--tls-key is given without --tls-cert"),
        ((tmp_path / "none.pem", key), "it cannot be read"),
        ((certificate, other), "does not belong to the certificate"),
        ((certificate, locked), "it is encrypted; decrypt it with: openssl pkey"),
        ((Path(__file__), key), "not a certificate and a key in PEM form"),
    ):
        with pytest.raises(TlsError, match=words):
            check_pair(*pair)
    command = [sys.executable, "-m", "server", "--home", str(tmp_path / "home"), "--tls-cert", str(certificate)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--tls-cert is given without --tls-key" in done.stderr
    assert not (tmp_path / "home").exists()
