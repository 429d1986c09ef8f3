// SPDX-License-Identifier: Apache-2.0
// Result and original, in step: under one wipe, side by side, or alone.

import { api, media } from "./api.js";
import { announce, button, h, icon, onceAFrame, setAttribute, setText } from "./dom.js";
import { Player } from "./player.js";
import { remember, remembered } from "./theme.js";

export const MODES = { wipe: "Wipe", side: "Side by side", result: "Result", original: "Original" };
const STILL = matchMedia("(prefers-reduced-motion: reduce)");

/** One finished job's videos. `close()` when it is not shown any more. */
export class Viewer extends EventTarget {
  metadata = null;
  #abort = new AbortController();
  #job;
  #wipe = 50;
  #original = true;
  #mode = remembered("hvg3d.mode", "wipe");

  constructor(job) {
    super();
    this.#job = job;
    const video = (label) =>
      h("video", {
        "aria-label": label,
        playsinline: true,
        preload: "auto",
        tabindex: -1,
        disablepictureinpicture: true,
      });
    this.result = video("Result");
    this.scene = video("Original");
    this.result.muted = this.scene.muted = true;
    this.player = new Player(this.result, this.scene);
    this.#build();
    this.#listen();
    this.mode = this.#mode;
    this.wipe = 50;
    this.scene.src = media.scene(job.id);
    this.result.src = media.video(job.id);
    this.#readRate();
    if (!STILL.matches) this.player.play();
  }

  #build() {
    this.handle = h(
      "div",
      {
        class: "wipe-handle",
        role: "slider",
        tabindex: 0,
        "aria-label": "Wipe between original and result",
        "aria-valuemin": 0,
        "aria-valuemax": 100,
        "aria-orientation": "horizontal",
      },
      h("span", { class: "wipe-grip" }, icon("grip")),
    );
    const frame = (kind, name, video) =>
      h("figure", { class: `frame ${kind}` }, video, h("figcaption", { text: name }));
    this.stage = h(
      "div",
      { class: "stage" },
      frame("of-scene", "Original", this.scene),
      frame("of-result", "Result", this.result),
      this.handle,
      (this.problem = h("p", { class: "stage-problem", role: "alert", hidden: true })),
    );
    this.modes = h("div", { class: "segmented modes", role: "group", "aria-label": "Compare" });
    for (const [mode, name] of Object.entries(MODES)) {
      this.modes.append(
        h("button", { type: "button", data: { mode }, text: name, on: { click: () => (this.mode = mode) } }),
      );
    }
    this.playButton = button("play", "Play", {
      bare: true,
      "data-play": "",
      on: { click: () => this.player.toggle() },
    });
    this.slider = h("input", {
      type: "range",
      class: "scrub",
      min: 0,
      max: 1,
      step: 1,
      value: 0,
      "aria-label": "Frame",
    });
    this.clock = h("span", { class: "clock", "aria-hidden": "true", text: "–" }); // the slider says it
    this.note = h("p", {
      class: "viewer-note",
      text: "The original is drawn again from the clip: places and timing, not light.",
    });
    this.element = h(
      "div",
      { class: "viewer" },
      this.stage,
      h(
        "div",
        { class: "transport", role: "group", "aria-label": "Playback" },
        this.playButton,
        button("back", "Previous frame", { bare: true, on: { click: () => this.player.step(-1) } }),
        button("forward", "Next frame", { bare: true, on: { click: () => this.player.step(1) } }),
        this.slider,
        this.clock,
        button("full", "Full screen", { bare: true, on: { click: () => this.fullScreen() } }),
      ),
      h("div", { class: "viewer-foot" }, this.modes, this.note),
    );
  }

  #listen() {
    const { player } = this;
    const draw = onceAFrame(() => this.#draw());
    for (const type of ["time", "ready", "state"]) player.addEventListener(type, draw);
    player.addEventListener("ready", () => {
      const { videoWidth: width, videoHeight: height } = this.result;
      if (width) this.stage.style.setProperty("--aspect", `${width} / ${height}`);
      if (width) this.stage.style.setProperty("--ratio", width / height);
    });
    player.addEventListener("error", () => {
      this.problem.hidden = false;
      this.problem.textContent =
        "The video cannot be played. It may have been removed from the server; the seed makes it again.";
    });
    this.scene.addEventListener("error", () => this.#withoutOriginal());
    this.slider.addEventListener("input", () => {
      if (player.playing) player.pause();
      player.seek(Number(this.slider.value));
    });
    this.handle.addEventListener("keydown", (event) => this.#wipeKey(event));
    let dragging = false;
    const follow = (event) => {
      const box = this.stage.getBoundingClientRect();
      this.wipe = (100 * (event.clientX - box.left)) / box.width;
    };
    this.stage.addEventListener("pointerdown", (event) => {
      if (this.mode !== "wipe" || event.button !== 0) return;
      dragging = true;
      this.stage.setPointerCapture(event.pointerId);
      this.handle.focus({ preventScroll: true, focusVisible: false });
      follow(event);
      event.preventDefault();
    });
    this.stage.addEventListener("pointermove", (event) => dragging && follow(event));
    for (const type of ["pointerup", "pointercancel"]) this.stage.addEventListener(type, () => (dragging = false));
    this.stage.addEventListener("click", () => this.mode !== "wipe" && player.toggle());
  }

  /** Frames a second are in the metadata; a video element does not tell them. */
  async #readRate() {
    try {
      const metadata = await api.metadata(this.#job.id, this.#abort.signal);
      this.metadata = metadata;
      this.dispatchEvent(new Event("metadata"));
      const rate = metadata.video?.fps ?? metadata.fps;
      if (rate > 0) this.player.fps = rate;
      this.#draw();
    } catch {
      // frames are then counted at 24 a second
    }
  }

  get mode() {
    return this.#mode;
  }

  set mode(mode) {
    if (!(mode in MODES)) return;
    if (!this.#original && mode !== "result") mode = "result";
    else remember("hvg3d.mode", mode);
    this.#mode = mode;
    this.stage.dataset.mode = mode;
    for (const tab of this.modes.children) setAttribute(tab, "aria-pressed", tab.dataset.mode === mode);
    this.handle.hidden = mode !== "wipe";
  }

  get wipe() {
    return this.#wipe;
  }

  /** Percent of the width that shows the original. */
  set wipe(percent) {
    this.#wipe = Math.round(Math.min(100, Math.max(0, percent)) * 10) / 10;
    this.stage.style.setProperty("--wipe", `${this.#wipe}%`);
    setAttribute(this.handle, "aria-valuenow", Math.round(this.#wipe));
    setAttribute(this.handle, "aria-valuetext", `${Math.round(this.#wipe)} percent original`);
  }

  fullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.stage.requestFullscreen?.().catch(() => announce("Full screen is not possible here"));
  }

  close() {
    this.#abort.abort();
    this.player.close();
  }

  #withoutOriginal() {
    if (!this.#original) return;
    this.#original = false;
    this.player.follow(null);
    this.mode = "result";
    for (const tab of this.modes.children) if (tab.dataset.mode !== "result") tab.disabled = true;
    setText(this.note, "Nothing of the original was kept with this result.");
    if (this.player.playing) this.player.play();
  }

  #wipeKey(event) {
    const steps = {
      ArrowLeft: -2,
      ArrowDown: -2,
      ArrowRight: 2,
      ArrowUp: 2,
      PageDown: -10,
      PageUp: 10,
      Home: -100,
      End: 100,
    };
    if (!(event.key in steps) || event.altKey || event.ctrlKey || event.metaKey) return;
    this.wipe += steps[event.key] * (event.shiftKey ? 5 : 1);
    event.preventDefault();
    event.stopPropagation();
  }

  #draw() {
    const { player } = this;
    const name = player.playing ? "Pause" : "Play";
    if (this.playButton.title !== name) {
      this.playButton.title = name;
      this.playButton.setAttribute("aria-label", name);
      this.playButton.firstChild.replaceWith(icon(player.playing ? "pause" : "play"));
    }
    const { frame, frames } = player;
    this.slider.max = frames - 1;
    if (document.activeElement !== this.slider || player.playing) this.slider.value = frame;
    setAttribute(this.slider, "aria-valuetext", `Frame ${frame + 1} of ${frames}`);
    this.slider.style.setProperty("--done", `${frames > 1 ? (100 * frame) / (frames - 1) : 0}%`);
    setText(this.clock, player.duration ? `${frame + 1} / ${frames}` : "–");
  }
}
