# SPDX-License-Identifier: Apache-2.0
"""Which job is next, and on which worker.

Between clients: whoever has used the fewest worker seconds has the next turn. A job is charged to its client when it
is given out, with an estimate, and settled with what it took when it ends. A client that comes (back) starts level
with the one served least among those that wait: idle time earns no credit and past use costs nothing (start-time fair
queueing: Goyal, Vin, Cheng 1996). Neither priority nor moving has any say between clients.

Within a client: the highest priority first, then the order in which jobs came or were moved to.

Loading a model costs time in which nothing is made. So a worker may stay with the model it has as long as the turn
that is passed over is not delayed by more than ``allowance`` = ``LOADS`` x the seconds that loading its model takes
(at most ``LONGEST``), counted in worker seconds for each client that goes ahead, and in all within one client.
A job that a person moved is never passed over by others of its client, and one of lower priority never passes.

With L the longest job, n other clients that wait and k workers, a client's next job therefore begins at the latest
after n (allowance + L) worker seconds of others, once a worker is free: n (allowance + L) / k of waiting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.progress import Estimator
from server.store import Share, Store, Waiting

LOADS = 4.0  # loading costs at most about a fifth of the time
LONGEST = 600.0
UNMEASURED_LOAD = 5.0  # nobody has waited for this model yet
UNMEASURED_JOB = 60.0
_LOOKED_AT = 16  # clients whose next job is compared with the loaded model


@dataclass(frozen=True)
class Choice:
    job: Waiting
    worker: int
    """Index into the idle workers."""
    charge: float
    """Worker seconds that the job is expected to take."""
    passed: str | None = None
    """The job of the same client that it overtakes."""


class Scheduler:
    def __init__(self, store: Store) -> None:
        self._store = store

    def choose(self, idle: Sequence[str | None]) -> Choice | None:
        """``idle``: the model that each idle worker has loaded. None: nothing is queued."""
        clients = self._store.waiting_clients()
        if not clients or not idle:
            return None
        fair = self._store.first_waiting(clients[0].owner)
        assert fair is not None, "the tally says that this client has queued jobs"
        if fair.model in idle:
            return self._give(fair, idle.index(fair.model))
        if None in idle:
            return self._give(fair, idle.index(None))
        allowance = self.allowance(fair.model)
        for worker, model in enumerate(idle):
            assert model is not None
            stay = self._same_model(clients, fair, model, allowance)
            if stay is not None:
                overtakes = fair.id if stay.owner == fair.owner else None
                return self._give(stay, worker, overtakes)
        return self._give(fair, 0)

    def _same_model(self, clients: Sequence[Share], fair: Waiting, model: str, allowance: float) -> Waiting | None:
        """A job of the loaded model that may go before ``fair``, whose turn it is."""
        if fair.passed < allowance:
            job = self._store.first_waiting(fair.owner, model)
            if job is not None and job.priority == fair.priority:
                return job
        for client in clients[1:_LOOKED_AT]:
            if client.used - clients[0].used >= allowance:
                return None  # the list is in this order
            job = self._store.first_waiting(client.owner)
            if job is not None and job.model == model:
                return job
        return None

    def _give(self, job: Waiting, worker: int, passed: str | None = None) -> Choice:
        return Choice(job, worker, self.estimate(job), passed)

    def allowance(self, model: str) -> float:
        """Worker seconds by which a turn may be delayed rather than load this model."""
        load = self._store.phase_times(model).get("load")
        return min(LONGEST, LOADS * (UNMEASURED_LOAD if load is None else load[0]))

    def estimate(self, job: Waiting) -> float:
        """Worker seconds that the job will take, without loading."""
        history = self._store.phase_times(job.model)
        history.pop("load", None)
        eta = Estimator(history, job.steps).eta_seconds() if history else None
        return UNMEASURED_JOB if eta is None else max(eta, 0.001)
