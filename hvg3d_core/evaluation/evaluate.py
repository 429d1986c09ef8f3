# SPDX-License-Identifier: Apache-2.0
"""An evaluation from beginning to end: videos of every method, their numbers, tables, JSON and the page."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..checkpoints.registry import find_model
from ..training.dataset import UNREADABLE, Sample
from .catalogue import Metric, choose_metrics
from .distributions import frechet_of_clips
from .errors import EvaluationError
from .generation import OnClip, generate_missing, slug, video_of
from .methods import (
    REPEAT,
    TRUTH,
    Method,
    check_labels,
    find_baseline,
    folder_methods,
    model_methods,
    split_name,
)
from .networks import Loaded, load_networks
from .page import write_page, write_sheet
from .regions import FRAME
from .results import Results
from .scoring import GIVEN, ClipScorer, keep_scores, kept_scores, keys_of, mark_of
from .statistics import Interval
from .subsets import members
from .table import markdown
from .truths import Size, Truth, choose_samples, load_truth, native_size
from .video_files import find_video, load_any
from .weights import parse_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """All that an evaluation is asked for; see ``hvg3d eval --help``."""

    data: Path
    out: Path
    models: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    metrics: tuple[str, ...] | None = None
    weights: tuple[str, ...] = ()
    subsets: tuple[str, ...] | None = None
    baseline: str | None = None
    limit: int | None = None
    seed: int = 0
    steps: int | None = None
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    page: bool = True


@dataclass
class _Features:
    """Vectors of the pooled metrics: by method and ``metric.scope``, one array for each clip (None: no video)."""

    of: dict[str, dict[str, list[np.ndarray | None]]] = field(default_factory=dict)

    def add(self, method: str, key: str, clip: int, clips: int, vectors: np.ndarray) -> None:
        self.of.setdefault(method, {}).setdefault(key, [None] * clips)[clip] = vectors


@dataclass
class _Shown:
    """What the page has of the videos: for each clip, by method, where its pictures lie."""

    sheets: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    fps: float = 8.0


def choose_size(plan: Plan, samples: Sequence[Sample]) -> Size:
    """What is asked for; else that of the first model, or of the data with as many frames as the first video has."""
    if plan.models:
        entry = find_model(split_name(plan.models[0])[1])
        usual = Size(entry.width, entry.height, entry.num_frames)
    else:
        usual = native_size(samples[0])
        for text in plan.videos:
            path = find_video(Path(split_name(text)[1]), samples[0].name)
            if path is not None and plan.num_frames is None and not (path.is_file() and path.suffix == ".png"):
                usual = Size(usual.width, usual.height, min(usual.num_frames, len(load_any(path, None))))
                break
    return Size(plan.width or usual.width, plan.height or usual.height, plan.num_frames or usual.num_frames)


def evaluate(plan: Plan, on_clip: OnClip | None = None) -> Results:
    """Make what is missing of the videos, score everything, and write ``results.json``, ``table.md`` and
    ``index.html`` into ``plan.out``. Raises EvaluationError, ModelError, ClipError."""
    metrics = choose_metrics(plan.metrics)
    places = parse_weights(plan.weights)
    pairs = choose_samples(plan.data, plan.subsets, plan.limit)
    size = choose_size(plan, [sample for sample, _ in pairs])
    methods = [
        Method(REPEAT),
        *folder_methods(plan.videos),
        *model_methods(plan.models, plan.variants, size=size, seed=plan.seed, steps=plan.steps),
    ]
    check_labels(methods)
    baseline = find_baseline(methods, plan.baseline)
    networks, reasons = load_networks(metrics, places, _device())
    plan.out.mkdir(parents=True, exist_ok=True)
    generate_missing(methods, [sample for sample, _ in pairs], size, plan.out, on_clip)
    methods.append(Method(TRUTH))
    results, features, shown = score_all(plan, pairs, size, methods, metrics, networks, on_clip)
    results.baseline, results.not_computed = baseline, reasons
    _pool(results, features, [m for m in metrics if m.pooled and m.network in networks])
    results.settings = _settings(plan, size, methods, networks)
    results.write_json(plan.out / "results.json")
    (plan.out / "table.md").write_text(markdown(results), encoding="utf-8")
    if plan.page:
        write_page(results, shown.sheets, shown.fps, size.num_frames, plan.out)
    return results


def _device() -> str:
    try:
        import torch
    except ModuleNotFoundError:
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


def score_all(
    plan: Plan,
    pairs: Sequence[tuple[Sample, dict]],
    size: Size,
    methods: Sequence[Method],
    metrics: Sequence[Metric],
    networks: dict[str, Loaded],
    on_clip: OnClip | None = None,
) -> tuple[Results, _Features, _Shown]:
    """Every method's numbers of every readable clip, one clip in memory at a time."""
    names: list[str] = []
    said: list[dict] = []
    rows: list[dict[str, dict[str, float]]] = []
    features, shown = _Features(), _Shown()
    videos_seen = dict.fromkeys((m.label for m in methods if m.folder is not None), 0)
    for number, pair in enumerate(pairs, 1):
        sample = pair[0]
        try:
            truth = load_truth(*pair, size)
        except UNREADABLE as error:
            log.warning("left out %s: %s", sample.name, error)
            continue
        scorer, clip = ClipScorer(truth), len(names)
        row: dict[str, dict[str, float]] = {}
        sheets: dict[str, dict[str, Any]] = {}
        for method in methods:
            video = video_of(method, truth, sample, size, plan.out)
            if video is None:
                continue
            if method.folder is not None:
                videos_seen[method.label] += 1
            wanted = [m for m in metrics if method.label != TRUTH or m.of_truth]
            kept = plan.out / "scores" / slug(method.label) / f"{slug(truth.name)}.json"
            row[method.label] = _scores(scorer, video, truth, wanted, networks, kept)
            if plan.page:
                sheets[method.label] = write_sheet(video, method.label, truth.name, plan.out)
            for metric in metrics:
                if metric.pooled and metric.network in networks:
                    for scope in metric.scopes:
                        vectors = _vectors(networks[metric.network], video, truth, scope)
                        if vectors is not None:
                            features.add(method.label, f"{metric.key}.{scope}", clip, len(pairs), vectors)
        names.append(truth.name)
        said.append(truth.said)
        rows.append(row)
        shown.sheets.append(sheets)
        shown.fps = truth.fps
        if on_clip is not None:
            on_clip("scores", truth.name, number, len(pairs))
    if not names:
        raise EvaluationError(f"{plan.data}: not one clip could be read; the reasons are in the log above")
    for label, count in videos_seen.items():
        if not count:
            folder = next(m.folder for m in methods if m.label == label)
            raise EvaluationError(f"--videos {label}={folder}: no video of any clip there, such as {names[0]}.mp4")
    results = Results(
        clips=names,
        said=said,
        methods=[m.label for m in methods],
        metrics=list(metrics),
        subsets=members(said, plan.subsets),
        baseline=REPEAT,
    )
    for method in methods:
        keys = dict.fromkeys(key for row in rows for key in row.get(method.label, {}))
        results.values[method.label] = {
            key: np.array([row.get(method.label, {}).get(key, float("nan")) for row in rows]) for key in keys
        }
    return results, features, shown


def _scores(
    scorer: ClipScorer,
    video: np.ndarray,
    truth: Truth,
    metrics: Sequence[Metric],
    networks: dict[str, Loaded],
    kept: Path,
) -> dict[str, float]:
    """The numbers of one video: those kept from before, and the others computed and kept."""
    mark = mark_of(truth, video)
    known = kept_scores(kept, mark)
    plain = keys_of(m for m in metrics if not m.network)
    missing = [key for key in plain if key not in known]
    new = scorer.score(video, missing) if missing else {}
    values = {key: known.get(key, new.get(key, float("nan"))) for key in plain}
    for metric in metrics:
        if metric.pooled or metric.network not in networks:
            continue
        loaded = networks[metric.network]
        for scope in metric.scopes:
            name = f"{metric.key}.{scope}"
            stored = f"{name}@{loaded.mark}"
            if stored not in known:
                empty = scope != FRAME and truth.region.empty
                pair = None if empty else [truth.region.view(v, scope)[GIVEN:] for v in (video, truth.frames)]
                new[stored] = float("nan") if pair is None else loaded.network.compare(*pair)
            values[name] = known.get(stored, new.get(stored, float("nan")))
    if new:
        keep_scores(kept, mark, known | new)
    return values


def _vectors(loaded: Loaded, video: np.ndarray, truth: Truth, scope: str) -> np.ndarray | None:
    """What a pooled metric takes of one video; None where the clip has no region."""
    if scope != FRAME and truth.region.empty:
        return None
    return np.asarray(loaded.network.features(truth.region.view(video, scope)[GIVEN:]))


def _pool(results: Results, features: _Features, metrics: Sequence[Metric]) -> None:
    """The pooled metrics of each subset and method against the true videos of the same clips."""
    truth = features.of.get(TRUTH, {})
    for subset, index in results.subsets.items():
        for method in results.methods:
            for metric in metrics if method != TRUTH else ():
                for scope in metric.scopes:
                    key = f"{metric.key}.{scope}"
                    made, true = features.of.get(method, {}).get(key), truth.get(key)
                    if made is None or true is None:
                        continue
                    pairs = [(made[i], true[i]) for i in index]
                    both = [(a, b) for a, b in pairs if a is not None and b is not None]
                    value: Interval | None = frechet_of_clips([a for a, _ in both], [b for _, b in both])
                    if value is not None:
                        results.pooled.setdefault(subset, {}).setdefault(method, {})[key] = value


def _settings(plan: Plan, size: Size, methods: Sequence[Method], networks: dict[str, Loaded]) -> dict:
    models = {m.label: m.model for m in methods if m.model is not None}
    return {
        "hvg3d": __version__,
        "data": str(plan.data),
        "size": str(size),
        "seed": plan.seed,
        "scored_frames": f"{GIVEN} to {size.num_frames - 1}; frame 0 is given",
        "models": {
            label: {
                "title": entry.title,
                "steps": plan.steps or entry.num_inference_steps,
                "guidance": entry.guidance_scale,
                "size": f"{entry.width}x{entry.height}",
            }
            for label, entry in models.items()
        },
        "networks": {name: loaded.path.name for name, loaded in networks.items()},
    }
