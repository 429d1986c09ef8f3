# SPDX-License-Identifier: GPL-3.0-or-later
"""Which buttons mend what: remedies as operators, for the panel, the preferences and the checklist."""

from __future__ import annotations

from typing import Any

from ..client.check import ServerStatus
from .care import Care

Button = tuple[str, str, dict[str, Any]]
"""Label, operator, its properties."""

_AGAIN: Button = ("Try Again", "hvg3d.check_server", {})
_START: Button = ("Start", "hvg3d.start_server", {})
_INSTALL: Button = ("Install", "hvg3d.install_server", {})
_UPDATE: Button = ("Update Server", "hvg3d.install_server", {})
_GO_ON: Button = ("Go On", "hvg3d.install_server", {})
_CANCEL: Button = ("Cancel", "hvg3d.cancel_install", {})
_PREFERENCES: Button = ("Preferences", "hvg3d.show_preferences", {})
_LOG: Button = ("Show Log", "hvg3d.show_server_log", {})
_STOP: Button = ("Stop", "hvg3d.stop_server", {})
_ANY_PORT: Button = ("Use a Free Port", "hvg3d.use_any_port", {})
_ONLINE: Button = ("System Preferences", "hvg3d.show_online_access", {})

_BY_CODE: dict[str, tuple[Button, ...]] = {
    "off": (_START, _PREFERENCES),
    "gone": (_START, _LOG),
    "not_installed": (_INSTALL, _PREFERENCES),
    "unfinished": (_GO_ON, _PREFERENCES),
    "installing": (_CANCEL,),
    "incomplete": (_INSTALL, _PREFERENCES),
    "broken": (_AGAIN, _PREFERENCES),
    "port_taken": (_ANY_PORT, _PREFERENCES),
    "port": (_ANY_PORT, _PREFERENCES),
    "online_access": (_ONLINE, _PREFERENCES),
    "in_use": (_START, _PREFERENCES),
    "disk_full": (_START, _PREFERENCES),
    "read_only": (_START, _PREFERENCES),
    "memory": (_START, _LOG),
    "failed": (_START, _LOG, _PREFERENCES),
    "model": (_START, _PREFERENCES),
    "options": (_START, _PREFERENCES),
}


def buttons(care: Care, status: ServerStatus) -> tuple[Button, ...]:
    """What can be done about the state of the server, the best first."""
    if status.state == "ready":
        outdated = care.settings is not None and status.version != care.settings.version
        return (_UPDATE,) if outdated and care.mine and care.managed_state().ready else ()
    if status.state == "starting":
        return (_STOP,)
    if status.state != "problem":
        return (_AGAIN,)
    here = care.settings is not None and care.settings.on_this_computer
    if status.code in _BY_CODE and (here or status.code in ("online_access", "broken")):
        return _BY_CODE[status.code]
    return (_AGAIN, _PREFERENCES)
