# SPDX-License-Identifier: GPL-3.0-or-later
"""Watches over the server on this computer: everything that happens to it comes together here, in the main thread.

Threads do what blocks (asking, starting, stopping, installing, removing) and answer through queues; :meth:`Care.tick`,
called by the pump's timers, takes the answers and decides what is next. Nothing here waits.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..client.check import ServerStatus, start_check
from ..client.http import Address
from .environment import Managed, ManagedState
from .failures import CareError, describe_exit, explain
from .find import checkout_of, find_program
from .install import Installation, InstallState, Order, start_removal
from .local import Launch, LocalServer, start, stop_found, tail

_NEAR_SECONDS = 2.0  # between questions to a server on this computer that is there
_FAR_SECONDS = 10.0
_STEADY_SECONDS = 60.0  # after so long a server may fail again before it is only offered to start it
_RESTART_SECONDS = (1.0, 5.0)
_GONE_AFTER = 2  # unanswered questions: one may be a server that is busy for a moment


@dataclass(frozen=True)
class CareSettings:
    """The preferences, read once in the main thread. ``problem``: of one that cannot be used as it is."""

    address: Address
    on_this_computer: bool
    home: Path | None
    managed: Managed
    program: Path | None = None
    port: int = 0
    keep: bool = False
    options: tuple[str, ...] = ()
    near: bool = True
    """The address stays on this computer."""
    online: bool = True
    """Blender may reach beyond it."""
    version: str = ""
    package: Path = Path()
    problem: CareError | None = None


@dataclass
class Care:
    """One for the add-on; see :data:`CARE`."""

    settings: CareSettings | None = None
    status: ServerStatus = field(default_factory=ServerStatus)
    doing: str = ""
    """Empty, or starting, stopping."""
    local: LocalServer | None = None
    """The process that this Blender has started."""
    log: tuple[str, ...] = ()
    """Last lines, while it starts and after it failed."""
    installation: Installation | None = None
    install_state: InstallState | None = None
    removing: bool = False
    size: int | None = None
    """Bytes of the managed installation, once counted."""
    restarts: int = 0
    """Since it last ran for a while."""
    _answer: queue.Queue[ServerStatus] | None = None
    _events: queue.Queue[Callable[[], None]] = field(default_factory=queue.Queue)
    _cancel: threading.Event = field(default_factory=threading.Event)
    _next_question: float = 0.0
    _restart_at: float | None = None
    _unanswered: int = 0
    _counting: bool = False

    # what the user asks for

    def use(self, settings: CareSettings) -> None:
        """The preferences have changed: what is known of the server before is forgotten."""
        before, self.settings = self.settings, settings
        if before is not None and before.keep != settings.keep and self.local is not None:
            self.local.keep(settings.keep)
        if before is None or before.address != settings.address or before.online != settings.online:
            self.ask()
        if before is not None and before.managed != settings.managed:
            self.size = None

    def ask(self) -> None:
        """A question now, seen by the user."""
        if self.doing:
            return
        models = self.status.models
        self.log = ()
        self.status = ServerStatus("checking", "Asking the server", models=models)
        self._unanswered = _GONE_AFTER
        self._ask_quietly()

    def start(self) -> None:
        """Start a server on this computer, or find the one that runs."""
        if self.doing or self.settings is None:
            return
        self._restart_at = None
        self.restarts = 0
        self._start()

    def stop(self) -> None:
        """Stop the server on this computer, or its start."""
        if self.doing == "starting":
            self._cancel.set()
            self.status = replace(self.status, message="Stopping")
            return
        if self.doing or self.settings is None or self.settings.home is None:
            return
        self._restart_at = None
        self.doing = "stopping"
        self.status = ServerStatus("checking", "The server is stopping", models=self.status.models)
        local, home = self.local, self.settings.home
        self.local = None

        def work() -> None:
            error = None
            try:
                if local is not None:
                    local.stop()
                else:
                    stop_found(home)
            except CareError as caught:
                error = caught
            self._events.put(lambda: self._stopped(error))

        threading.Thread(target=work, name="hvg3d stop", daemon=True).start()

    def install(self, order: Order) -> None:
        if self.installing or self.removing:
            return
        self.installation = Installation(order)
        self.install_state = InstallState("Preparing")
        self.installation.start()
        if self.status.state == "problem":
            self.ask()

    def cancel_install(self) -> None:
        if self.installation is not None:
            self.installation.cancel()

    def remove(self) -> None:
        if self.installing or self.removing or self.settings is None:
            return
        self.removing = True
        self.install_state = InstallState("Removing the server")
        start_removal(self.settings.managed, lambda error: self._events.put(lambda: self._removed(error)))
        if self.status.state == "problem":
            self.ask()

    # what the panels want to know

    @property
    def installing(self) -> bool:
        return self.installation is not None

    @property
    def active(self) -> bool:
        """Something will come soon."""
        waiting = self._answer is not None or self._restart_at is not None or self._counting
        return bool(self.doing) or self.installing or self.removing or waiting

    @property
    def mine(self) -> bool:
        return self.local is not None

    def managed_state(self) -> ManagedState:
        return self.settings.managed.state() if self.settings is not None else ManagedState()

    def can_stop(self) -> bool:
        here = self.settings is not None and self.settings.on_this_computer
        return here and (self.doing == "starting" or self.mine or self.status.state == "ready")

    # the main thread's heartbeat

    def tick(self) -> bool:
        """Takes in answers, and asks when it is time. Whether something changed that a user sees."""
        before = (self.status, self.install_state, self.doing, self.log, self.size, self.removing, self.mine)
        while True:
            try:
                self._events.get_nowait()()
            except queue.Empty:
                break
        self._take_answer()
        self._take_install_states()
        self._look_at_process()
        now = time.monotonic()
        if self._restart_at is not None and now >= self._restart_at and not self.doing:
            self._restart_at = None
            self._start()
        if not self.doing and self._answer is None and now >= self._next_question and self.settings is not None:
            self._ask_quietly()
        return before != (self.status, self.install_state, self.doing, self.log, self.size, self.removing, self.mine)

    def at_exit(self, seconds: float = 3.0) -> None:
        """Blender ends, or the add-on is switched off. The server goes, too, unless it was told to stay."""
        self._cancel.set()
        self._restart_at = None
        installation, self.installation = self.installation, None
        if installation is not None:
            installation.cancel()
        local, self.local = self.local, None
        if local is not None:
            if self.settings is not None and self.settings.keep:
                local.keep(True)
                local.let_go()
            else:
                local.stop(seconds)
        if installation is not None:
            installation.join(seconds)
        self.doing = ""
        self._answer = None
        self.status = ServerStatus()

    def count_size(self) -> None:
        """Of the managed installation; told later."""
        if self._counting or self.settings is None:
            return
        self._counting = True
        managed = self.settings.managed

        def count() -> None:
            size = managed.size()
            self._events.put(lambda: self._counted(size))

        threading.Thread(target=count, name="hvg3d size", daemon=True).start()

    # in the main thread, by tick

    def _start(self) -> None:
        settings = self.settings
        assert settings is not None
        if settings.problem is not None or settings.home is None:
            self._fail(settings.problem or CareError("address", "The server is on another computer", "Start it there"))
            return
        try:
            program = find_program(settings.program, settings.managed, checkout_of(settings.package))
        except CareError as error:
            self._fail(error)
            return
        self.doing = "starting"
        self.log = ()
        self.status = ServerStatus("starting", "The server is starting", models=self.status.models)
        self._cancel = cancel = threading.Event()
        launch = Launch(settings.home, program, settings.port, settings.keep, settings.options, settings.version)

        def say(text: str, log: Sequence[str]) -> None:
            self._events.put(lambda: self._starting(cancel, text, tuple(log)))

        def work() -> None:
            try:
                local, status = start(launch, cancel, say)
            except CareError as error:
                failed = error
                self._events.put(lambda: self._not_started(cancel, failed))
            except Exception as error:
                text = f"{type(error).__name__}: {error}"
                odd = CareError("failed", text, "This is a fault of the add-on; please report it")
                self._events.put(lambda: self._not_started(cancel, odd))
            else:
                if cancel.is_set() and local is not None:
                    local.stop()
                    self._events.put(lambda: self._not_started(cancel, CareError("cancelled", "Stopped")))
                    return
                self._events.put(lambda: self._started(cancel, local, status))

        threading.Thread(target=work, name="hvg3d start", daemon=True).start()

    def _starting(self, cancel: threading.Event, text: str, log: tuple[str, ...]) -> None:
        if cancel is self._cancel and self.doing == "starting" and not cancel.is_set():
            self.log = log
            self.status = replace(self.status, message=f"The server is starting: {text}" if log or text else "")

    def _started(self, cancel: threading.Event, local: LocalServer | None, status: ServerStatus) -> None:
        if cancel is not self._cancel or self.doing != "starting":
            if local is not None:
                local.let_go()
            return
        self.doing, self.local, self.log = "", local, ()
        if local is not None and self.settings is not None:
            local.keep(self.settings.keep)  # it may have changed in the meantime
        self._unanswered = 0
        self._show(status)

    def _not_started(self, cancel: threading.Event, error: CareError) -> None:
        if cancel is not self._cancel or self.doing != "starting":
            return
        self.doing = ""
        if error.code == "cancelled":
            self.ask()
            return
        self._fail(error)

    def _fail(self, error: CareError) -> None:
        self.log = tuple(error.log)
        self.status = ServerStatus("problem", error.message, error.remedy, models=self.status.models, code=error.code)
        self._next_question = time.monotonic() + _FAR_SECONDS

    def _stopped(self, error: CareError | None) -> None:
        self.doing = ""
        if error is not None:
            self._fail(error)
        else:
            self.ask()

    def _removed(self, error: CareError | None) -> None:
        self.removing = False
        self.size = None
        if error is None:
            self.install_state = None
        else:
            self.install_state = InstallState(
                "Removing", outcome="failed", message=error.message, remedy=error.remedy, code=error.code
            )
        if self.status.state == "problem":
            self.ask()

    def _counted(self, size: int) -> None:
        self._counting = False
        self.size = size

    def _ask_quietly(self) -> None:
        settings = self.settings
        assert settings is not None
        self._next_question = time.monotonic() + (_NEAR_SECONDS if settings.near else _FAR_SECONDS)
        if settings.problem is not None:
            self._fail(settings.problem)
        elif not settings.near and not settings.online:
            remedy = "Allow Online Access in the System preferences, or use a server on this computer"
            text = f"Blender may not reach {settings.address.url}: online access is switched off"
            self._fail(CareError("online_access", text, remedy))
        else:
            self._answer = start_check(settings.address, settings.version)

    def _take_answer(self) -> None:
        if self._answer is None:
            return
        try:
            status = self._answer.get_nowait()
        except queue.Empty:
            return
        self._answer = None
        if not self.doing:
            self._show(status)

    def _show(self, status: ServerStatus) -> None:
        settings = self.settings
        assert settings is not None
        self._next_question = time.monotonic() + (_NEAR_SECONDS if settings.near else _FAR_SECONDS)
        if status.state == "ready":
            self._unanswered = 0
            self.log = ()
            self.status = status
            if self.local is not None and time.monotonic() - self.local.started > _STEADY_SECONDS:
                self.restarts = 0
            return
        if self._restart_at is not None:
            return
        self._unanswered += 1
        if self._unanswered < _GONE_AFTER and self.status.state == "ready":
            self._next_question = time.monotonic() + 0.5
            return
        if settings.on_this_computer and status.code in ("off", "refused", "broken", "stranger"):
            if self.status.state == "problem" and self.status.code not in ("", "off", "refused", "broken"):
                return  # why it did not start says more than that it is not there
            status = self._off(status)
        self.status = replace(status, models=self.status.models)

    def _off(self, status: ServerStatus) -> ServerStatus:
        """Not running on this computer: whether it can be started."""
        assert self.settings is not None
        if self.installing or self.removing:
            what = "installed" if self.installing else "removed"
            return ServerStatus("problem", f"The server is being {what}", code="installing")
        try:
            find_program(self.settings.program, self.settings.managed, checkout_of(self.settings.package))
        except CareError as error:
            return ServerStatus("problem", error.message, error.remedy, code=error.code)
        gone = "The server has gone" if self.status.state == "ready" else "The server is not running"
        return ServerStatus("problem", gone, "Press Start", code="off")

    def _look_at_process(self) -> None:
        """One that has ended without being asked to is started again, once; then it is offered."""
        local = self.local
        if local is None or self.doing or local.running():
            return
        code = local.process.poll()
        self.local = None
        lines = tail(local.log)
        if time.monotonic() - local.started > _STEADY_SECONDS:
            self.restarts = 0
        if self.restarts < 1:
            wait = _RESTART_SECONDS[min(self.restarts, len(_RESTART_SECONDS) - 1)]
            self.restarts += 1
            self._restart_at = time.monotonic() + wait
            self.log = tuple(lines)
            text = f"The server has ended ({describe_exit(code)}); it is started again"
            self.status = ServerStatus("starting", text, models=self.status.models)
            self._next_question = self._restart_at + _FAR_SECONDS
        else:
            error = explain(lines, code)
            self._fail(CareError("gone", f"The server has ended again: {error.message}", error.remedy, lines))

    def _take_install_states(self) -> None:
        while self.installation is not None:
            try:
                self.install_state = self.installation.states.get_nowait()
            except queue.Empty:
                return
            if self.install_state.outcome:
                self.installation = None
                self.size = None
                if self.status.state == "problem":
                    self.ask()


CARE = Care()
