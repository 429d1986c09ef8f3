# SPDX-License-Identifier: Apache-2.0
"""Which nodes get how many workers. A place stays where it is as long as its node is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Node:
    id: str
    address: str
    cpus: int
    gpus: int

    @classmethod
    def alive(cls, listing: Sequence[Mapping[str, Any]]) -> list[Node]:
        """``listing``: what ``ray.nodes()`` returns."""
        return [
            cls(
                node["NodeID"],
                node["NodeManagerAddress"],
                int(node["Resources"].get("CPU", 0)),
                int(node["Resources"].get("GPU", 0)),
            )
            for node in listing
            if node["Alive"]
        ]


@dataclass(frozen=True)
class Spot:
    node: Node
    number: int
    """Counts the spots of a node, from 0."""
    gpu: bool

    @property
    def id(self) -> str:
        return f"{self.node.id[:12]}-{self.number}"

    @property
    def where(self) -> str:
        """Several nodes may share an address."""
        return f"node {self.node.address} ({self.node.id[:6]})"

    @property
    def description(self) -> str:
        return f"{self.where}, {'GPU' if self.gpu else 'worker'} {self.number}"


class Layout:
    """As soon as one node has a GPU, only GPUs are used, also after the last one is lost: a model that needs one would
    take days without.

    ``workers`` None: one for every GPU; without GPUs one for every node. Otherwise so many, no more than there are
    GPUs, or cores, where they fit best.
    """

    def __init__(self, workers: int | None) -> None:
        self._workers = workers
        self._gpu = False
        self.spots: list[Spot] = []

    def update(self, nodes: Sequence[Node], is_idle: Callable[[Spot], bool] = lambda _: True) -> list[Spot]:
        """The spots on these nodes. Where another node has more room, only idle ones move there."""
        if not self._gpu and any(node.gpus for node in nodes):
            self._gpu, self.spots = True, []
        room = {node: node.gpus if self._gpu else node.cpus for node in sorted(nodes, key=lambda node: node.id)}
        room = {node: places for node, places in room.items() if places >= 1}
        self.spots = [spot for spot in self.spots if spot.node in room]
        if self._workers is None and not self._gpu:
            taken = {spot.node for spot in self.spots}
            self.spots += [Spot(node, 0, False) for node in room if node not in taken]
            return self.spots
        while self._workers is None or len(self.spots) < self._workers:
            node = self._roomiest(room)
            if node is None:
                break
            self._add(node)
        self._spread(room, is_idle)
        return self.spots

    def on(self, node: Node) -> int:
        return sum(spot.node == node for spot in self.spots)

    def _load(self, room: Mapping[Node, int]) -> dict[Node, float]:
        """The share of its room that each node would have taken with one spot more."""
        taken = Counter(spot.node for spot in self.spots)
        return {node: (taken[node] + 1) / places for node, places in room.items()}

    def _roomiest(self, room: Mapping[Node, int]) -> Node | None:
        load = {node: load for node, load in self._load(room).items() if load <= 1}
        return min(load, key=lambda node: load[node]) if load else None

    def _add(self, node: Node) -> None:
        numbers = {spot.number for spot in self.spots if spot.node == node}
        number = next(n for n in range(len(numbers) + 1) if n not in numbers)
        self.spots.append(Spot(node, number, self._gpu))

    def _spread(self, room: Mapping[Node, int], is_idle: Callable[[Spot], bool]) -> None:
        """Move idle spots from where it is narrow, one at a time, as long as that is for the better."""
        while (target := self._roomiest(room)) is not None:
            after = self._load(room)[target]
            now = {spot: self.on(spot.node) / room[spot.node] for spot in self.spots if is_idle(spot)}
            narrow = [spot for spot, load in now.items() if load > after and self.on(spot.node) > 1]
            if not narrow:
                return
            self.spots.remove(max(narrow, key=lambda spot: (now[spot], spot.number)))
            self._add(target)
