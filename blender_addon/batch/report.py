# SPDX-License-Identifier: GPL-3.0-or-later
"""The page at the end of a batch: every result and every failure, in one file that opens without a server.

``report.html`` refers to videos and pictures by relative paths, so that the folder can be moved and sent as a whole.
``report.json`` has the same for programs.
"""

from __future__ import annotations

import json
import os
import time
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from .job import Batch, Row

PAGE = "report.html"
DATA = "report.json"
_SETTINGS = (
    ("model", "Model"),
    ("prompt", "Prompt"),
    ("negative_prompt", "Avoid"),
    ("num_inference_steps", "Steps"),
    ("guidance_scale", "Guidance"),
    ("control_scale", "Follow scene"),
    ("use_points", "Points"),
    ("use_tracking", "Tracks"),
    ("length", "Length"),
    ("num_frames", "Frames asked for"),
)


def write_report(batch: Batch) -> Path:
    """Returns the path of the page. Raises OSError."""
    entries = [_entry(batch, row) for row in list(batch.rows.values())]
    totals = batch.totals()
    data = {
        "title": batch.title,
        "written": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "shots": totals.shots,
        "done": totals.done,
        "failed": totals.failed,
        "left": totals.left,
        "problem": dict(zip(("message", "remedy"), batch.courier.problem, strict=True)),
        "results": entries,
    }
    _replace(batch.out / DATA, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    page = batch.out / PAGE
    _replace(page, _page(data))
    return page


def _entry(batch: Batch, row: Row) -> dict[str, Any]:
    shot = row.shot
    unit = batch.state.get("unit", shot.unit.id) or {}
    known = batch.state.get("shot", shot.id) or {} if row.state in ("done", "failed") else {}
    return {
        "label": shot.label,
        "file": shot.unit.file,
        "scene": shot.unit.scene,
        "camera": shot.unit.camera,
        "action": shot.unit.action,
        "seed": shot.seed,
        "state": row.state if row.state in ("done", "failed") else "left",
        "error": row.message if row.state == "failed" else "",
        "remedy": row.remedy if row.state == "failed" else "",
        "video": row.video,
        "metadata": known.get("metadata", "") if row.state == "done" else "",
        "original": known.get("scene", "") if row.state == "done" else "",
        "picture": unit.get("picture", ""),
        "clip": unit.get("clip", ""),
        "clip_facts": unit.get("facts", {}),
        "job": known.get("job", ""),
        "attempt": known.get("attempt", 0) + 1 if known else 0,
        "from_before": row.kept,
        "request": {**known.get("request", {}), **_made_with(batch.out, known.get("metadata", ""))},
    }


def _made_with(out: Path, metadata: str) -> dict[str, Any]:
    """The settings that a video was really made with, the model's own among them, as far as its metadata says."""
    try:
        told = json.loads((out / metadata).read_text("utf-8")) if metadata else {}
        request = {name: value for name, value in told["request"].items() if name in dict(_SETTINGS)}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}
    return {name: value for name, value in request.items() if value is not None}


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, "utf-8")
    os.replace(part, path)


def _page(data: dict[str, Any]) -> str:
    results = [entry for entry in data["results"] if entry["state"] == "done"]
    failures = [entry for entry in data["results"] if entry["state"] == "failed"]
    left = [entry for entry in data["results"] if entry["state"] == "left"]
    title = escape(data["title"] or "Batch")
    parts = [
        "<!doctype html>\n",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>{title}: {data['done']} of {data['shots']}</title><style>{_STYLE}</style></head><body>",
        f"<header><div><h1>{title}</h1><p>{escape(data['written'])}</p></div>{_counts(data)}</header><main>",
    ]
    problem = data["problem"]
    if problem["message"]:
        parts.append(f'<p class="problem"><b>{escape(problem["message"])}</b> {escape(problem["remedy"])}</p>')
    if failures:
        parts.append(_failures(failures))
    if left:
        names = "".join(f"<li>{escape(entry['label'])}</li>" for entry in left)
        parts.append(
            f"<section><h2>Not made yet <small>{len(left)}</small></h2><details><summary>Start the batch again, and "
            f"it goes on with these</summary><ul>{names}</ul></details></section>"
        )
    if results:
        parts.append(
            f"<section><h2>Results <small>{len(results)}</small></h2>"
            '<div class="tools"><input type="search" id="find" placeholder="Find by name, prompt or seed" '
            'aria-label="Find"><button id="play">Play all</button>'
            '<button id="original">Show the scene</button><label>Size <input type="range" id="size" min="160" '
            'max="720" value="260" aria-label="Size"></label></div>'
        )
        parts += ['<div class="groups">', *_groups(results), "</div></section>"]
    parts.append(f"</main><script>{_SCRIPT}</script></body></html>\n")
    return "".join(parts)


def _counts(data: dict[str, Any]) -> str:
    shown = [f'<b class="good">{data["done"]}</b> <span>of {data["shots"]} done</span>']
    if data["failed"]:
        shown.append(f'<b class="bad">{data["failed"]}</b> <span>failed</span>')
    if data["left"]:
        shown.append(f"<b>{data['left']}</b> <span>not made yet</span>")
    return '<div class="counts">' + "".join(f"<div>{one}</div>" for one in shown) + "</div>"


def _failures(entries: list[dict[str, Any]]) -> str:
    """One line for each reason, with all the shots that it stopped."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        reasons.setdefault((entry["error"], entry["remedy"]), []).append(entry["label"])
    rows = "".join(
        f"<tr><td>{'<br>'.join(escape(label) for label in labels)}</td>"
        f"<td>{escape(error)}</td><td>{escape(remedy)}</td></tr>"
        for (error, remedy), labels in reasons.items()
    )
    head = "<tr><th>Shot</th><th>What is wrong</th><th>What to do</th></tr>"
    return (
        f'<section class="failures"><h2>Failed <small>{len(entries)}</small></h2>'
        f"<table><thead>{head}</thead><tbody>{rows}</tbody></table></section>"
    )


def _groups(entries: list[dict[str, Any]]) -> list[str]:
    """The results of a scene, camera and action together, one card for each seed."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for entry in entries:
        groups.setdefault(tuple(entry[name] for name in ("file", "scene", "camera", "action")), []).append(entry)
    parts = []
    for (file, *names), members in groups.items():
        first = members[0]
        facts = first["clip_facts"]
        heading = (
            " · ".join([Path(file).name, *(name for name in names if name)])
            if file
            else " · ".join(filter(None, names))
        )
        about = []
        if facts:
            about = [
                f"{facts['frames']} frames at {facts['fps']:g} fps",
                f"{facts['width']} x {facts['height']}",
                f"{facts['points']} points, {facts['tracks']} tracks",
                ", ".join(facts["entities"]),
            ]
        picture = f'<img src="{_url(first["picture"])}" alt="First picture" loading="lazy">' if first["picture"] else ""
        parts.append(
            f'<article style="--n:{len(members)}"><div class="unit">{picture}'
            f'<div class="about"><h3>{escape(heading)}</h3>'
            f'<p>{escape(" · ".join(about))}</p></div></div><div class="cards">'
        )
        parts += [_card(entry) for entry in members]
        parts.append("</div></article>")
    return parts


def _card(entry: dict[str, Any]) -> str:
    request = entry["request"]
    prompt = request.get("prompt") or entry["clip_facts"].get("prompt", "")
    settings = [(name, {**request, "prompt": prompt}.get(key)) for key, name in _SETTINGS]
    rows = [("Seed", entry["seed"]), *((name, value) for name, value in settings if value not in (None, ""))]
    rows.append(("Job", entry["job"]))
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(_value(value))}</dd>" for name, value in rows)
    links = "".join(
        f'<a href="{_url(entry[name])}">{text}</a>'
        for name, text in (("video", "Video"), ("metadata", "Metadata"), ("clip", "Clip"))
        if entry[name]
    )
    original = f' data-original="{_url(entry["original"])}"' if entry["original"] else ""
    find = escape(f"{entry['label']} {prompt}".lower(), quote=True)
    model = request.get("model") or ""
    return (
        f'<figure data-find="{find}"><video src="{_url(entry["video"])}"{original} controls loop muted playsinline '
        f'preload="metadata"></video><figcaption><b>Seed {entry["seed"]}</b> <span>{escape(model)}</span>'
        f"<details><summary>Settings</summary><dl>{listed}</dl><p>{links}</p></details></figcaption></figure>"
    )


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _url(path: str) -> str:
    return escape(quote(path), quote=True)


_STYLE = """
:root{color-scheme:light dark;--back:#f6f6f4;--card:#fff;--ink:#1c1d1f;--soft:#6a6d73;--line:#dfdfdb;--good:#1d7a46;
--bad:#b3261e;--badback:#fdecea;--accent:#2f5fd0}
@media(prefers-color-scheme:dark){:root{--back:#17181a;--card:#212327;--ink:#ececec;--soft:#9a9ea6;--line:#34373d;
--good:#5fcf8e;--bad:#ff8a80;--badback:#3a2321;--accent:#8fb0ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:15px/1.45 system-ui,sans-serif}
header{display:flex;flex-wrap:wrap;gap:1rem 3rem;align-items:center;justify-content:space-between;padding:1.6rem 2rem;
background:var(--card);border-bottom:1px solid var(--line)}
h1{margin:0;font-size:1.5rem;overflow-wrap:anywhere}h2{font-size:1.15rem;margin:2rem 0 .8rem}h3{margin:0;font-size:1rem}
small{color:var(--soft);font-weight:400;margin-left:.3em}p{margin:.2rem 0;color:var(--soft)}
main{max-width:1500px;margin:auto;padding:0 2rem 3rem}
.counts{display:flex;gap:2rem}.counts b{font-size:2rem;line-height:1;font-variant-numeric:tabular-nums}
.counts span{color:var(--soft)}.good{color:var(--good)}.bad{color:var(--bad)}
.problem{background:var(--badback);color:var(--ink);padding:.8rem 1rem;border-radius:8px;margin-top:1.5rem}
table{width:100%;border-collapse:collapse;background:var(--card);border-radius:10px;overflow:hidden}
th,td{text-align:left;vertical-align:top;padding:.6rem .9rem;border-bottom:1px solid var(--line);overflow-wrap:anywhere}
th{color:var(--soft);font-weight:500;font-size:.87em}tr:last-child td{border-bottom:0}
.failures td:first-child{border-left:4px solid var(--bad);width:30%}.failures td:last-child{width:32%}
.tools{display:flex;flex-wrap:wrap;gap:.6rem;align-items:center;margin-bottom:1rem;color:var(--soft)}
.tools label{display:flex;gap:.4rem;align-items:center}
input[type=search]{font:inherit;
padding:.4rem .7rem;border:1px solid var(--line);border-radius:8px;background:var(--card);
color:inherit;width:min(20rem,100%)}
button{font:inherit;padding:.4rem .9rem;border:1px solid var(--line);border-radius:8px;background:var(--card);
color:inherit;cursor:pointer}
button[aria-pressed=true]{border-color:var(--accent);color:var(--accent)}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
.groups{display:flex;flex-wrap:wrap;gap:1.6rem 2rem;align-items:flex-start}
article{width:min(100%,calc(var(--n)*(var(--size,260px) + 1rem) - 1rem))}
.unit{display:flex;gap:.9rem;align-items:center;margin-bottom:.6rem}
.about{width:0;flex:1 1 0;min-width:12rem}.unit img{height:3.4rem;border-radius:6px;background:#000}
.cards{display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start}
figure{margin:0;flex:0 0 min(var(--size,260px),100%);
background:var(--card);border:1px solid var(--line);border-radius:10px;overflow:hidden}
video{display:block;width:100%;background:#000}figcaption{padding:.5rem .8rem}
figcaption>span{color:var(--soft);float:right}details summary{cursor:pointer;color:var(--soft)}
dl{display:grid;grid-template-columns:auto 1fr;gap:.15rem .8rem;margin:.5rem 0;font-size:.9em}dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}a{color:var(--accent);margin-right:.9rem}
@media(max-width:700px){main,header{padding-left:1rem;padding-right:1rem}
thead{display:none}tr,td{display:block;border:0}.failures td,.failures td:last-child{width:auto;padding:.3rem .9rem}
td:nth-child(n+2){color:var(--soft)}.failures tr{border-left:4px solid var(--bad);margin:.6rem 0}
.failures td:first-child{border:0;width:auto}}
[hidden]{display:none!important}
"""

_SCRIPT = """
const videos=[...document.querySelectorAll('video')],by=id=>document.getElementById(id);
const press=(button,on)=>button.setAttribute('aria-pressed',on);
by('play')?.addEventListener('click',event=>{
  const on=event.target.getAttribute('aria-pressed')!=='true';press(event.target,on);
  event.target.textContent=on?'Pause all':'Play all';
  for(const video of videos){if(on){video.currentTime=0;video.play()}else video.pause()}});
by('original')?.addEventListener('click',event=>{
  const on=event.target.getAttribute('aria-pressed')!=='true';press(event.target,on);
  event.target.textContent=on?'Show the results':'Show the scene';
  for(const video of videos){if(!video.dataset.original)continue;
    const at=video.currentTime,playing=!video.paused;video.dataset.result??=video.getAttribute('src');
    video.src=on?video.dataset.original:video.dataset.result;
    video.addEventListener('loadedmetadata',()=>{video.currentTime=at;if(playing)video.play()},{once:true})}});
if(by('original')&&!videos.some(video=>video.dataset.original))by('original').hidden=true;
by('size')?.addEventListener('input',event=>
  document.documentElement.style.setProperty('--size',event.target.value+'px'));
by('find')?.addEventListener('input',event=>{
  const words=event.target.value.toLowerCase().split(/\\s+/);
  for(const card of document.querySelectorAll('figure'))
    card.hidden=!words.every(word=>card.dataset.find.includes(word));
  for(const group of document.querySelectorAll('article'))
    group.hidden=![...group.querySelectorAll('figure')].some(card=>!card.hidden)});
"""
