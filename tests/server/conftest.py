# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import pytest

from .serverkit import RunningServer, tiny_clip


@pytest.fixture(scope="session")
def clip_data() -> bytes:
    return tiny_clip()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for all tests that neither kill it nor its worker."""
    with RunningServer(tmp_path_factory.mktemp("home"), "--max-clip-mib", "0.2") as running:
        yield running


@pytest.fixture(scope="session")
def clip(server: RunningServer, clip_data: bytes) -> str:
    return server.upload(clip_data)
