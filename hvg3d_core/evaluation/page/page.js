// SPDX-License-Identifier: Apache-2.0
// The page of an evaluation: tables by subset, and the clips of all methods on one clock. No server, no network.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const STRIP = 6; // frames of a strip
const state = { subset: "all", scope: data.scopes[0]?.key, differences: false, sort: null, down: true, frame: 0, playing: false };
const shown = new Set(data.methods);

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function number(value, key, signed = false) {
  if (value === null || value === undefined) return "–";
  const metric = data.metrics[key.split(".")[0]];
  const text = (value * metric.scale).toFixed(metric.digits);
  return signed && value >= 0 ? `+${text}` : text;
}

const better = (key) => (data.metrics[key.split(".")[0]].better === "up" ? 1 : -1);
const titleOf = (key) => data.metrics[key.split(".")[0]].heading;
const scopeTitle = (scope) => data.scopes.find((s) => s.key === scope).title;
const valueOf = (method, key) => data.summary[state.subset].methods[method]?.[key];

// Numbers

function drawTable() {
  const keys = data.keys.filter((key) => key.endsWith(`.${state.scope}`));
  const field = state.differences ? "over_baseline" : "value";
  let rows = data.methods.filter((method) => keys.some((key) => valueOf(method, key)?.[field]));
  if (state.sort && keys.includes(state.sort)) {
    const of = (method) => valueOf(method, state.sort)?.[field]?.mean ?? null;
    const sign = better(state.sort) * (state.down ? -1 : 1);
    const known = rows.filter((m) => of(m) !== null).sort((a, b) => sign * (of(a) - of(b)));
    rows = [...known, ...rows.filter((m) => of(m) === null)];
  }
  const clips = data.summary[state.subset].clips;
  const head = element("tr", {}, element("th", { scope: "col" }, `N = ${clips} clips`));
  for (const key of keys) {
    const button = element("button", { type: "button" }, titleOf(key) + (state.sort === key ? (state.down ? " ▾" : " ▴") : ""));
    button.onclick = () => {
      state.down = state.sort === key ? !state.down : true;
      state.sort = key;
      drawTable();
      [...$("table").querySelectorAll("thead button")][keys.indexOf(key)].focus();
    };
    const cell = element("th", { scope: "col" }, button);
    cell.setAttribute("aria-sort", state.sort !== key ? "none" : (better(key) > 0) === state.down ? "descending" : "ascending");
    head.append(cell);
  }
  const best = {};
  for (const key of keys) {
    const values = rows.filter((m) => !data.bounds.includes(m)).map((m) => valueOf(m, key)?.value?.mean).filter((v) => v !== undefined && v !== null);
    best[key] = better(key) > 0 ? Math.max(...values) : Math.min(...values);
  }
  const body = rows.map((method) => {
    const row = element("tr", {}, element("th", { scope: "row" }, method));
    for (const key of keys) {
      const found = valueOf(method, key)?.[field];
      const cell = element("td", {}, found ? number(found.mean, key, state.differences) : "–");
      if (found) {
        const own = found.count === clips ? "" : ` N=${found.count}`;
        const interval = found.low === null ? "" : `${number(found.low, key, state.differences)} … ${number(found.high, key, state.differences)}`;
        cell.append(element("small", {}, interval + own));
        if (state.differences && (found.low > 0 || found.high < 0)) cell.className = found.mean * better(key) > 0 ? "up" : "down";
        if (!state.differences && found.mean === best[key] && !data.bounds.includes(method)) cell.className = "best";
      }
      row.append(cell);
    }
    return row;
  });
  $("table").replaceChildren(element("thead", {}, head), element("tbody", {}, ...body));
}

// Clips. Every video is one picture, its frames in a grid, so that all of them show the same frame at the same moment.

const sheets = new Map(); // path -> image
const visible = new Set(); // clip elements on the screen

function sheet(video) {
  if (!sheets.has(video.path)) {
    const image = new Image();
    image.onload = () => visible.forEach(drawClip);
    image.src = video.path;
    sheets.set(video.path, image);
  }
  return sheets.get(video.path);
}

function drawCanvas(canvas, video, strips) {
  const image = sheet(video);
  const count = strips ? Math.min(STRIP, video.frames) : 1;
  const width = video.width * count;
  if (canvas.width !== width || canvas.height !== video.height) Object.assign(canvas, { width, height: video.height });
  if (!image.complete || !image.naturalWidth) return;
  const context = canvas.getContext("2d");
  for (let i = 0; i < count; i++) {
    const frame = strips ? Math.round((i * (video.frames - 1)) / Math.max(1, count - 1)) : Math.min(state.frame, video.frames - 1);
    const x = (frame % video.columns) * video.width, y = Math.floor(frame / video.columns) * video.height;
    context.drawImage(image, x, y, video.width, video.height, i * video.width, 0, video.width, video.height);
  }
}

function drawClip(card) {
  for (const canvas of card.querySelectorAll("canvas")) drawCanvas(canvas, card.clip.videos[canvas.dataset.method], $("strips").checked);
}

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) { visible.add(target); drawClip(target); } else visible.delete(target);
  }
}, { rootMargin: "300px" });

function makeCard(clip, key) {
  const chips = clip.subsets.filter((s) => s !== "all").map((s) => element("span", { className: "chip" }, s));
  const said = clip.manifest.prompt ?? "";
  const head = element("header", {}, element("h3", {}, clip.name), element("span", { className: "muted" }, said), ...chips);
  const figures = data.methods.filter((m) => shown.has(m) && clip.videos[m]).map((method) => {
    const canvas = element("canvas");
    canvas.dataset.method = method;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${method}, clip ${clip.name}`);
    Object.assign(canvas, { width: clip.videos[method].width, height: clip.videos[method].height });
    const value = key ? number(clip.values[method]?.[key], key) : "";
    return element("figure", {}, canvas, element("figcaption", {}, element("span", {}, method), element("span", {}, value)));
  });
  const card = element("article", { className: "clip" }, head, element("div", { className: "videos" }, ...figures));
  card.clip = clip;
  return card;
}

function drawClips() {
  watcher.disconnect();
  visible.clear();
  const key = $("metric").value, method = $("method").value;
  let clips = data.clips.filter((clip) => clip.subsets.includes(state.subset));
  if (key) {
    const sign = better(key) * ($("worst").checked ? 1 : -1);
    const of = (clip) => clip.values[method]?.[key] ?? null;
    const known = clips.filter((c) => of(c) !== null).sort((a, b) => sign * (of(a) - of(b)));
    clips = [...known, ...clips.filter((c) => of(c) === null)];
  }
  $("count").textContent = `${clips.length} clips` + (key ? `; beside each name: ${titleOf(key)}, ${scopeTitle(key.split(".")[1]).toLowerCase()}` : "");
  $("clips").className = $("strips").checked ? "strips" : "";
  $("clips").replaceChildren(...clips.map((clip) => makeCard(clip, key)));
  for (const card of $("clips").children) watcher.observe(card);
}

// The clock

let last = 0, gone = 0;
function setFrame(frame) {
  state.frame = frame;
  $("scrub").value = frame;
  $("frame").textContent = `${frame + 1} / ${data.frames}`;
  if (!$("strips").checked) visible.forEach(drawClip);
}
function tick(now) {
  if (!state.playing) return;
  gone += (now - last) * Number($("speed").value) * data.fps / 1000;
  last = now;
  const steps = Math.floor(gone);
  gone -= steps;
  if (steps) setFrame((state.frame + steps) % data.frames);
  requestAnimationFrame(tick);
}
function setPlaying(playing) {
  state.playing = playing;
  $("play").textContent = playing ? "Pause" : "Play";
  $("play").setAttribute("aria-pressed", String(playing));
  if (playing) { last = performance.now(); gone = 0; requestAnimationFrame(tick); }
}

// Controls

function remember(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = theme === "dark" ? "Light" : "Dark";
  try { localStorage.setItem("hvg3d-theme", theme); } catch { /* a file may have no storage */ }
}
let theme = null;
try { theme = localStorage.getItem("hvg3d-theme"); } catch { /* as above */ }
remember(theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
$("theme").onclick = () => remember(document.documentElement.dataset.theme === "dark" ? "light" : "dark");

$("about").textContent = `${data.clips.length} clips, ${data.settings.size}, from ${data.settings.data}. Scored: frames ${data.settings.scored_frames}.`;
$("settings").textContent = JSON.stringify(data.settings, null, 2);
$("baseline").textContent = data.baseline;
for (const subset of Object.keys(data.summary)) $("subset").append(element("option", { value: subset }, `${subset} (${data.summary[subset].clips})`));
for (const { key, title } of data.scopes) {
  const input = element("input", { type: "radio", name: "scope", value: key, checked: key === state.scope });
  input.onchange = () => { state.scope = key; drawTable(); };
  $("scope").append(element("label", {}, input, title));
}
for (const [key, reason] of Object.entries(data.not_computed)) {
  $("missing").hidden = false;
  $("missing").querySelector("ul").append(element("li", {}, `${data.metrics[key].title}: ${reason}`));
}
$("metric").append(element("option", { value: "" }, "name"));
for (const key of data.keys.filter((k) => data.clips.some((c) => data.methods.some((m) => key_in(c, m, k))))) {
  $("metric").append(element("option", { value: key }, `${titleOf(key)} (${key.split(".")[1]})`));
}
function key_in(clip, method, key) { return clip.values[method]?.[key] !== undefined; }
for (const method of data.methods) {
  $("method").append(element("option", { value: method, selected: method === data.first }, method));
  const input = element("input", { type: "checkbox", checked: true });
  input.onchange = () => { input.checked ? shown.add(method) : shown.delete(method); drawClips(); };
  $("shown").append(element("label", {}, input, ` ${method}`));
}
$("subset").onchange = () => { state.subset = $("subset").value; drawTable(); drawClips(); };
$("differences").onchange = () => { state.differences = $("differences").checked; drawTable(); };
for (const id of ["metric", "method", "worst", "strips"]) $(id).onchange = drawClips;
$("play").onclick = () => setPlaying(!state.playing);
$("scrub").max = data.frames - 1;
$("scrub").oninput = () => { setPlaying(false); setFrame(Number($("scrub").value)); };
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, button, summary, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " ") setPlaying(!state.playing);
  else if (event.key === "ArrowRight") { setPlaying(false); setFrame((state.frame + 1) % data.frames); }
  else if (event.key === "ArrowLeft") { setPlaying(false); setFrame((state.frame + data.frames - 1) % data.frames); }
  else return;
  event.preventDefault();
});
drawTable();
drawClips();
setFrame(0);
