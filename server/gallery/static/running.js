// SPDX-License-Identifier: Apache-2.0
// A job at work.

import { media } from "./api.js";
import { announce, h, setAttribute, setText } from "./dom.js";
import { phaseName, toGo } from "./format.js";
import { previewVersion } from "./list.js";

const PHASES = ["load", "encode", "denoise", "decode", "write"];

/** A job at work: its newest picture, how far it is, and what comes. */
export class Running {
  #version = "";
  #said = "";

  constructor() {
    this.image = h("img", { alt: "Preview of the unfinished video", hidden: true, on: { load: () => this.#fit() } });
    this.phases = PHASES.map((phase) => h("li", { data: { phase } }, phaseName(phase)));
    this.bar = h(
      "div",
      { class: "meter", role: "progressbar", "aria-label": "Progress", "aria-valuemin": 0, "aria-valuemax": 100 },
      h("div"),
    );
    this.percent = h("span", { class: "percent" });
    this.step = h("span");
    this.eta = h("span", { class: "eta" });
    this.note = h("p", { class: "callout", hidden: true });
    this.element = h(
      "div",
      { class: "running" },
      (this.stage = h(
        "div",
        { class: "stage preview" },
        h(
          "div",
          { class: "stage-wait" },
          h("span", { class: "spinner" }),
          h("span", { text: "The first preview comes while generating" }),
        ),
        this.image,
      )),
      h(
        "div",
        { class: "running-facts" },
        h("p", { class: "running-line" }, this.percent, this.step, this.eta),
        this.bar,
        h("ol", { class: "phases", "aria-label": "Phases" }, this.phases),
      ),
      this.note,
    );
  }

  #fit() {
    const { naturalWidth: width, naturalHeight: height } = this.image;
    this.image.hidden = false;
    this.stage.style.setProperty("--aspect", `${width} / ${height}`);
    this.stage.style.setProperty("--ratio", width / height);
  }

  update(job) {
    const progress = job.progress ?? {
      phase: "load",
      step: 0,
      total: 1,
      fraction: 0,
      eta_seconds: null,
      preview: false,
    };
    const percent = Math.floor(100 * progress.fraction);
    this.bar.firstChild.style.transform = `scaleX(${progress.fraction})`;
    setAttribute(this.bar, "aria-valuenow", percent);
    setText(this.percent, `${percent} %`);
    const steps = progress.total > 1 ? ` ${progress.step} of ${progress.total}` : "";
    setText(this.step, job.state === "cancelling" ? "Cancelling …" : `${phaseName(progress.phase)}${steps}`);
    setText(this.eta, job.state === "cancelling" || progress.eta_seconds === null ? "" : toGo(progress.eta_seconds));
    setAttribute(this.bar, "aria-valuetext", `${percent} percent, ${this.step.textContent}`);
    const now = PHASES.indexOf(progress.phase);
    this.phases.forEach((item, index) => {
      setAttribute(item, "data-is", index < now ? "over" : index === now ? "now" : "ahead");
      setAttribute(item, "aria-current", index === now ? "step" : null);
    });
    const version = previewVersion(job, 50);
    if (version !== null && version !== this.#version) {
      this.#version = version;
      this.image.src = media.preview(job.id, version);
    }
    this.note.hidden = !job.note;
    setText(this.note, job.note ? `Attempt ${job.attempt}: ${job.note}` : "");
    // A screen reader hears of every quarter, not of every step.
    const quarter = `${job.id} ${Math.floor(percent / 25)}`;
    if (this.#said !== "" && this.#said !== quarter) announce(`${percent} percent`);
    this.#said = quarter;
  }
}
