# SPDX-License-Identifier: Apache-2.0
"""The parts of one running server, made once and passed to whoever needs them."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from functools import cached_property

from server.cluster.runner import RayRunner
from server.config import Settings
from server.events import Events
from server.files import Home
from server.models import Models
from server.session import Sessions
from server.store import Store
from server.supervisor import Supervisor
from server.uploads import Uploads


@dataclass(frozen=True)
class Context:
    settings: Settings
    token: str
    home: Home
    models: Models
    store: Store
    events: Events
    supervisor: Supervisor
    instance: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: float = field(default_factory=time.monotonic)

    @cached_property
    def sessions(self) -> Sessions:
        return Sessions(self.token)

    @cached_property
    def uploads(self) -> Uploads:
        return Uploads(self.home, self.settings)


def build_context(settings: Settings, home: Home, token: str) -> Context:
    models = Models(settings.backend, settings.model)
    store = Store(home.database)
    events = Events(store)
    runner = RayRunner(settings, home) if settings.ray else None
    supervisor = Supervisor(settings, store, events, home, models, runner)
    return Context(settings, token, home, models, store, events, supervisor)
