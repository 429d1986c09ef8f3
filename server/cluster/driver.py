# SPDX-License-Identifier: Apache-2.0
"""The process that belongs to the Ray cluster: ``python -m server.cluster.driver --address A --backend SPEC``.

JSON lines both ways, as with a worker. On standard input come

    {"op": "start", "worker", "place"}               start a worker (a number that was not used yet) at a place
    {"op": "command", "worker", "command": {...}}    what the worker is to do
    {"op": "kill" | "end", "worker"}                 at once; or leaving nothing behind on the node

and on what was standard output go ``connected`` or ``refused``; ``places`` whenever they change; ``started`` or
``not_started``; ``message`` with what a worker says, ``log`` with what it prints, ``gone`` with how it ended. Files go
between the server's home and the nodes in pieces, so that an object store of any size will do.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hvg3d_core import __version__
from server.cluster.actor import NodeWorker
from server.cluster.layout import Layout, Node, Spot
from server.failures import describe_exception
from server.worker import Channel, die_with_parent

_PIECE = 4 * 1024 * 1024
_NODES_SECONDS = 1.0
_GOODBYE_SECONDS = 4.0
_REASON_CHARACTERS = 300
_AGAIN_SECONDS = 0.5
_SILENT_SECONDS = 60.0


class Link:
    """One worker, and the way to it."""

    def __init__(self, number: int, spot: Spot) -> None:
        self.number = number
        self.spot = spot
        self.actor: Any = None
        self.job: str | None = None
        self.folder = Path()
        self.commands: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.tasks: list[asyncio.Task[None]] = []
        self.gone = False
        self.seen = 0
        """Number of the last message that was dealt with."""
        self.silence = (0.0, 0.0)
        """When its node did not answer for the first time and for the last time, of several times in a row."""


class Driver:
    def __init__(self, channel: Channel, workers: int | None, backend: str) -> None:
        self._channel = channel
        self._backend = backend
        self._layout = Layout(workers)
        self._links: dict[int, Link] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._actor_class = ray.remote(NodeWorker)

    async def follow_nodes(self) -> None:
        told: list[Spot] | None = None
        while True:
            try:
                nodes = Node.alive(await asyncio.to_thread(ray.nodes))
            except Exception:  # the head may be away for a moment; if it stays away, Ray ends this process
                traceback.print_exc()
            else:
                spots = list(self._layout.update(nodes, self._is_idle))
                if spots != told:
                    told = spots
                    places = [{"id": spot.id, "description": spot.description} for spot in spots]
                    self._channel.send("places", places=places)
            await asyncio.sleep(_NODES_SECONDS)

    def _is_idle(self, spot: Spot) -> bool:
        return all(link.job is None for link in self._links.values() if link.spot == spot)

    def take(self, order: dict[str, Any]) -> None:
        number = order["worker"]
        link = self._links.get(number)
        match order["op"]:
            case "start":
                self._run(self._start(number, order["place"]))
            case "command" if link is not None:
                command = order["command"]
                if command["op"] == "cancel":  # overtakes a clip that is under way
                    self._run(self._cancel(link, command))
                else:
                    if command["op"] == "run":
                        link.job = command["job"]
                    link.commands.put_nowait(command)
            case "kill" if link is not None:
                self._run(self._end(link, gently=False))
            case "end" if link is not None:
                self._run(self._end(link, gently=True))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # a worker's life

    async def _start(self, number: int, place: str) -> None:
        spot = next((spot for spot in self._layout.spots if spot.id == place), None)
        if spot is None:
            return  # its node is gone: that is told by the next places
        link = self._links[number] = Link(number, spot)
        try:
            # In a thread: the first call sends the class to the cluster.
            link.actor = await asyncio.to_thread(self._create, spot)
            about = await link.actor.start.remote(self._backend, self._environment(spot))
        except Exception as error:
            reason: str | None = explain(error)
            if not link.gone and not await self._is_alive(spot.node):
                self._drop(link)
                return  # as above
        else:
            reason = None
            if about["version"] != __version__:
                reason = f"hvg3d is {about['version']} there, but {__version__} here: install the same version"
        if reason is not None or link.gone:
            self._drop(link)
            self._channel.send("not_started", worker=number, reason=f"{spot.where}: {reason or 'it was given up'}")
            return
        self._channel.send("started", worker=number, pid=about["pid"])
        link.tasks = [asyncio.create_task(self._forward(link)), asyncio.create_task(self._obey(link))]

    def _create(self, spot: Spot) -> Any:
        return self._actor_class.options(
            num_cpus=min(1, spot.node.cpus // spot.node.gpus) if spot.gpu else 1,
            num_gpus=1 if spot.gpu else 0,
            max_restarts=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(spot.node.id, soft=False),
        ).remote()

    def _environment(self, spot: Spot) -> dict[str, str]:
        """Ray itself says which GPU it is. On the CPU the workers of a node share its cores."""
        if spot.gpu:
            return {}
        threads = str(max(1, spot.node.cpus // max(1, self._layout.on(spot.node))))
        return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}

    async def _end(self, link: Link, gently: bool) -> None:
        if gently and link.actor is not None:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(link.actor.close.remote(), _GOODBYE_SECONDS)
        self._gone(link, "being stopped", blame=True, memory=False)

    def _gone(self, link: Link, reason: str, blame: bool, memory: bool) -> None:
        if link.gone:
            return
        self._drop(link)
        self._channel.send("gone", worker=link.number, reason=reason, blame=blame, memory=memory)

    def _drop(self, link: Link) -> None:
        link.gone = True
        self._links.pop(link.number, None)
        this = asyncio.current_task()
        for task in link.tasks:
            if task is not this:
                task.cancel()
        if link.actor is not None:
            with contextlib.suppress(Exception):
                ray.kill(link.actor)

    # from the worker

    async def _forward(self, link: Link) -> None:
        try:
            while not link.gone:
                with self._patience(link):
                    for number, message in await link.actor.receive.remote(link.seen):
                        await self._pass_on(link, dict(message))
                        link.seen = number
                    continue
                await asyncio.sleep(_AGAIN_SECONDS)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            text = explain(error)
            unreachable = isinstance(error, ray.exceptions.ActorUnavailableError)
            if unreachable or not await self._is_alive(link.spot.node):
                self._gone(link, f"the loss of {link.spot.where}", blame=False, memory=False)
            else:
                memory = "OutOfMemory" in type(error).__name__ or "memory" in text.lower()
                self._gone(link, f"the death of its actor on {link.spot.where}: {text}", blame=True, memory=memory)

    @staticmethod
    async def _is_alive(node: Node) -> bool:
        try:
            return any(other.id == node.id for other in Node.alive(await asyncio.to_thread(ray.nodes)))
        except Exception:
            traceback.print_exc()
            return False

    @contextlib.contextmanager
    def _patience(self, link: Link) -> Iterator[None]:
        """Wait with a node that does not answer until the cluster has found out what became of it, or for a while."""
        try:
            yield
        except ray.exceptions.ActorUnavailableError:
            now, (first, last) = time.monotonic(), link.silence
            link.silence = (first if now - last < _SILENT_SECONDS / 2 else now, now)
            if now - link.silence[0] > _SILENT_SECONDS:
                raise

    async def _pass_on(self, link: Link, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "log":
            self._channel.send("log", worker=link.number, line=message["line"], pid=message["pid"])
            return
        if kind == "exit":
            reason = f"{message['reason']} on {link.spot.where}"
            self._gone(link, reason, blame=True, memory=message["memory"])
            return
        if kind == "progress" and (jpeg := message.pop("jpeg", None)) is not None:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(replace, link.folder / "preview.jpg", jpeg)
        if kind == "done":
            try:
                await self._fetch(link)
            except OSError as error:
                error_of_job = describe_exception(error)
                message = {"type": "failed", "job": message["job"], "error": error_of_job, "mode": None}
        if kind in ("done", "failed", "cancelled"):
            link.job = None
        self._channel.send("message", worker=link.number, message=message)

    async def _fetch(self, link: Link) -> None:
        """Every file that the job has written, whole, into the folder that the server has named."""
        for name, size, sha256 in await link.actor.files.remote():
            path = link.folder / Path(name).name
            part = path.with_name(path.name + ".part")
            sum_of, offset = hashlib.sha256(), 0
            with open(part, "wb") as file:
                while offset < size:
                    data = await link.actor.read.remote(name, offset, _PIECE)
                    if not data:
                        break
                    sum_of.update(data)
                    await asyncio.to_thread(file.write, data)
                    offset += len(data)
            if sum_of.hexdigest() != sha256:
                part.unlink()
                raise OSError(f"{path.name} has been damaged on its way from {link.spot.where}")
            os.replace(part, path)

    # to the worker

    async def _obey(self, link: Link) -> None:
        while True:
            command = await link.commands.get()
            try:
                while True:
                    with self._patience(link):
                        if command["op"] == "run":
                            await self._give(link, command)
                        else:
                            await link.actor.command.remote(command)
                        break
                    await asyncio.sleep(_AGAIN_SECONDS)
            except ray.exceptions.RayActorError:
                return  # who waits for its messages sees to it
            except Exception as error:
                traceback.print_exc()
                if command["op"] == "run":
                    link.job = None
                    error = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
                    failed = {"type": "failed", "job": command["job"], "error": describe_exception(error), "mode": None}
                    self._channel.send("message", worker=link.number, message=failed)

    async def _give(self, link: Link, command: dict[str, Any]) -> None:
        clip, link.folder = Path(command["clip"]), Path(command["folder"])
        rest = {name: value for name, value in command.items() if name not in ("clip", "folder")}
        sha256 = clip.stem
        if not await link.actor.has_clip.remote(sha256):
            size = clip.stat().st_size
            with open(clip, "rb") as file:
                offset, last = 0, False
                while not last:
                    data = await asyncio.to_thread(file.read, _PIECE)
                    last = offset + len(data) >= size or not data
                    await link.actor.put_clip.remote(sha256, offset, data, last)
                    offset += len(data)
        await link.actor.command.remote(rest, sha256)

    async def _cancel(self, link: Link, command: dict[str, Any]) -> None:
        with contextlib.suppress(Exception):
            await link.actor.command.remote(command)


def replace(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)


def explain(error: BaseException) -> str:
    """Ray's messages are pages long: what they say of the cause, in one line."""
    text = str(error.cause if isinstance(error, ray.exceptions.RayTaskError) else error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    keys = ("class_name:", "actor_id:", "pid:", "namespace:", "ip:", "name:")
    return " ".join(line for line in lines if not line.startswith(keys))[:_REASON_CHARACTERS] or type(error).__name__


def listen(take: Callable[[dict[str, Any]], None], loop: asyncio.AbstractEventLoop) -> None:
    """Read orders until the server is gone; Ray then ends the actors of this process."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        for line in sys.stdin:
            loop.call_soon_threadsafe(take, json.loads(line))
    os._exit(0)


async def work(channel: Channel, workers: int | None, backend: str) -> None:
    driver = Driver(channel, workers, backend)
    loop = asyncio.get_running_loop()
    threading.Thread(target=listen, args=(driver.take, loop), name="orders", daemon=True).start()
    await driver.follow_nodes()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m server.cluster.driver")
    parser.add_argument("--address", required=True)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args()
    channel = Channel()
    die_with_parent()
    try:
        ray.init(given.address, namespace="hvg3d", log_to_driver=False, logging_level=logging.WARNING)
    except Exception as error:
        channel.send("refused", message=explain(error))
        sys.exit(2)
    channel.send("connected", ray=ray.__version__)
    asyncio.run(work(channel, given.workers, given.backend))


if __name__ == "__main__":
    main()
