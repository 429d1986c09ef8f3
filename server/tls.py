# SPDX-License-Identifier: Apache-2.0
"""A certificate and its key, looked at before they are used: a server that cannot be reached should say so at once."""

from __future__ import annotations

import ssl
import time
from pathlib import Path


class TlsError(ValueError):
    """``--tls-cert`` or ``--tls-key`` cannot be used."""


def check_pair(certificate: Path | None, key: Path | None) -> None:
    """Raise TlsError unless both are there and belong together."""
    if certificate is None or key is None:
        missing, given = ("--tls-key", "--tls-cert") if key is None else ("--tls-cert", "--tls-key")
        raise TlsError(f"{given} is given without {missing}: give both, as PEM files")
    for option, path in (("--tls-cert", certificate), ("--tls-key", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise TlsError(f"{option} {path}: it cannot be read ({error.strerror or error})") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def no_password() -> str:  # without this, OpenSSL would ask on the terminal
        raise TlsError(f"--tls-key {key}: it is encrypted; decrypt it with: openssl pkey -in {key} -out plain.pem")

    try:
        context.load_cert_chain(certificate, key, no_password)
    except ssl.SSLError as error:
        if "KEY_VALUES_MISMATCH" in (error.reason or ""):
            raise TlsError(f"--tls-key {key}: it does not belong to the certificate {certificate}") from None
        raise TlsError(
            f"--tls-cert {certificate}, --tls-key {key}: not a certificate and a key in PEM form "
            f"({error.reason or error}); convert them with openssl"
        ) from None


def inspect_pair(certificate: Path, key: Path) -> tuple[float, list[str]]:
    """When it ends (seconds since 1970) and for which names it is good.

    Found out by a handshake with itself, in memory: what a client would object to, an end that has passed for one, is
    a TlsError here.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    client = ssl.create_default_context(cafile=str(certificate))
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [server.wrap_bio(there, back, server_side=True), client.wrap_bio(back, there)]
    try:
        for _ in range(4):  # two flights each
            for end in ends:
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
        seen = ends[1].getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        raise TlsError(
            f"--tls-cert {certificate}: clients will not accept it ({error.verify_message}); have it renewed"
        ) from None
    except (ssl.SSLError, ValueError) as error:
        raise TlsError(f"--tls-cert {certificate}: it cannot be used ({error})") from None
    names = [str(name[1]) for name in seen.get("subjectAltName", ())]
    end_of_it = str(seen.get("notAfter", ""))
    return (float(ssl.cert_time_to_seconds(end_of_it)) if end_of_it else time.time()), names
