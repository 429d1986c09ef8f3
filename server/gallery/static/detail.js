// SPDX-License-Identifier: Apache-2.0
// One job: what it shows, what can be done with it, what made it.

import { media } from "./api.js";
import { button, h, icon, onceAFrame, setAttribute, setText } from "./dom.js";
import { active, bytes, fileName, finished, moment, span, stateName, title } from "./format.js";
import { previewVersion } from "./list.js";
import { Running } from "./running.js";
import { Viewer } from "./viewer.js";

const VIDEO_AFTER = 120; // milliseconds on a job before its videos are loaded: arrow keys rush past

export class Detail {
  #jobs;
  #id = null;
  #kind = "";
  #pick;
  #timer = 0;
  #settingsOf = "";
  #takesOf = "";
  viewer = null;

  /** `actions`: see actions.js; `pick(id)` shows another job, `back()` the list (on a phone). */
  constructor(jobs, actions, { pick, back }) {
    this.#jobs = jobs;
    this.#pick = pick;
    this.actions = actions;
    this.title = h("h2", { id: "detail-title", class: "detail-title", tabindex: -1 });
    this.badge = h("span", { class: "badge" });
    this.subtitle = h("p", { class: "detail-sub" });
    const now = (action) => () => this.job && action(this.job);
    const link = (name, label, extra = "") =>
      h("a", { class: `button ${extra}`.trim(), download: "" }, icon(name), h("span", { text: label }));
    this.buttons = {
      reroll: button("dice", "Re-roll", {
        class: "primary",
        title: "Same settings, new seed",
        on: { click: now(actions.reroll) },
      }),
      take: button("tune", "New take …", { title: "Change the settings first", on: { click: now(actions.take) } }),
      cancel: button("stop", "Cancel", { on: { click: now(actions.cancel) } }),
      first: button("top", "Move to the front", {
        bare: true,
        on: { click: now((job) => actions.move(job, -Infinity)) },
      }),
      earlier: button("up", "Move up", { bare: true, on: { click: now((job) => actions.move(job, -1)) } }),
      later: button("lower", "Move down", { bare: true, on: { click: now((job) => actions.move(job, 1)) } }),
      video: link("down", "Video"),
      metadata: link("file", "Metadata"),
      remove: button("bin", "Delete", { bare: true, class: "danger-text", on: { click: now(actions.remove) } }),
    };
    this.toolbar = h("div", { class: "toolbar", role: "group", "aria-label": "Actions" }, Object.values(this.buttons));
    this.body = h("div", { class: "detail-body" });
    this.facts = h("dl", { class: "facts" });
    this.takes = h("section", { class: "takes", "aria-labelledby": "takes-title", hidden: true });
    this.settings = h(
      "section",
      { class: "settings", "aria-labelledby": "settings-title" },
      h("h3", { id: "settings-title", text: "Settings" }),
      this.facts,
    );
    this.content = h(
      "article",
      { class: "detail-content", "aria-labelledby": "detail-title", hidden: true },
      h(
        "div",
        { class: "detail-head" },
        h("div", { class: "detail-names" }, h("div", { class: "detail-line" }, this.title, this.badge), this.subtitle),
        this.toolbar,
      ),
      this.body,
      this.takes,
      this.settings,
    );
    this.nothing = h(
      "div",
      { class: "empty nothing" },
      icon("film"),
      h("h2", { text: "No job chosen" }),
      h("p", { text: "Choose one from the list to see its progress or its result." }),
    );
    this.backButton = button("left", "All jobs", { class: "back quiet", on: { click: back } });
    this.element = h("main", { class: "detail", id: "detail" }, this.backButton, this.nothing, this.content);
    this.draw = onceAFrame(() => this.#draw());
    jobs.addEventListener("job", (event) => {
      const job = jobs.get(event.detail);
      if (event.detail === this.#id || job?.request.clip === this.job?.request.clip) this.draw();
    });
    setInterval(this.draw, 20000);
  }

  get job() {
    return this.#id === null ? null : this.#jobs.get(this.#id);
  }

  show(id) {
    if (id === this.#id) return;
    this.#id = id;
    this.#kind = "";
    this.#closeViewer();
    this.#draw();
    this.element.scrollTop = 0;
  }

  focus() {
    this.title.focus();
  }

  #closeViewer() {
    clearTimeout(this.#timer);
    this.viewer?.close();
    this.viewer = null;
  }

  #draw() {
    const job = this.job;
    this.content.hidden = job === null;
    this.nothing.hidden = job !== null;
    if (job === null) return this.#closeViewer();
    setText(this.title, title(job));
    setText(this.badge, stateName(job.state));
    setAttribute(this.badge, "data-state", job.state);
    setText(this.subtitle, subtitle(job));
    this.#drawButtons(job);
    this.#drawBody(job);
    this.#drawSettings(job);
    this.#drawTakes(job);
  }

  #drawButtons(job) {
    const has = job.state === "done" && job.result !== null;
    const shown = {
      reroll: finished(job),
      take: true,
      cancel: job.state === "queued" || active(job),
      first: job.state === "queued",
      earlier: job.state === "queued",
      later: job.state === "queued",
      video: has,
      metadata: has,
      remove: finished(job),
    };
    const focused = document.activeElement;
    for (const [name, element] of Object.entries(this.buttons)) element.hidden = !shown[name];
    this.buttons.cancel.disabled = job.state === "cancelling";
    if (has) {
      setAttribute(this.buttons.video, "href", media.video(job.id));
      setAttribute(this.buttons.video, "download", fileName(job, "mp4"));
      setAttribute(this.buttons.metadata, "href", media.metadata(job.id));
      setAttribute(this.buttons.metadata, "download", fileName(job, "json"));
    }
    // A button that is gone must not take the keyboard with it.
    if (this.toolbar.contains(focused) && (focused.hidden || focused.disabled)) this.title.focus();
  }

  #drawBody(job) {
    const kind = job.state === "done" ? (job.result ? "video" : "gone") : job.state;
    if (kind !== this.#kind) {
      const inside = this.body.contains(document.activeElement);
      this.#kind = kind;
      this.#closeViewer();
      this.parts = null;
      if (kind === "video") {
        this.body.replaceChildren(h("div", { class: "stage shimmer waiting", "aria-hidden": "true" }));
        this.#timer = setTimeout(() => {
          this.viewer = new Viewer(job);
          this.viewer.addEventListener("metadata", this.draw);
          this.body.replaceChildren(this.viewer.element);
        }, VIDEO_AFTER);
      } else if (kind === "running" || kind === "cancelling") {
        this.parts = new Running();
        this.body.replaceChildren(this.parts.element);
      } else this.body.replaceChildren(...still(job, kind));
      if (inside) this.title.focus();
    }
    this.parts?.update(job);
    if (kind === "queued") setText(this.body.querySelector("[data-place]"), place(job));
  }

  #drawSettings(job) {
    const facts = settings(job, this.viewer?.metadata?.request);
    const key = JSON.stringify(facts);
    if (key === this.#settingsOf) return;
    this.#settingsOf = key;
    this.facts.replaceChildren(
      ...facts.map(([name, value, kind = ""]) =>
        h("div", { class: kind }, h("dt", { text: name }), h("dd", { text: value })),
      ),
    );
  }

  #drawTakes(job) {
    const takes = this.#jobs.takes(job.request.clip).slice(0, 24);
    const key = JSON.stringify([this.#id, takes.map((take) => [take.id, take.state, take.result !== null])]);
    if (key === this.#takesOf) return;
    this.#takesOf = key;
    this.takes.hidden = takes.length < 2;
    const focused = this.takes.contains(document.activeElement) ? document.activeElement.dataset.take : null;
    const strip = takes.map((take) => {
      const version = previewVersion(take);
      const seed = `Seed ${take.request.seed}`;
      const image =
        version === null
          ? null
          : h("img", {
              src: media.preview(take.id, version),
              alt: "",
              loading: "lazy",
              on: { error: (event) => event.target.remove() },
            });
      return h(
        "li",
        {},
        h(
          "button",
          {
            type: "button",
            class: "take-button",
            data: { take: take.id, state: take.state },
            "aria-current": take.id === this.#id ? "true" : null,
            on: { click: () => this.#pick(take.id) },
          },
          h("span", { class: "thumb" }, icon("film"), image),
          h("span", { class: "take-seed", text: seed }),
          h("span", { class: "take-state", text: stateName(take.state) }),
        ),
      );
    });
    this.takes.replaceChildren(h("h3", { id: "takes-title", text: `Takes of this clip` }), h("ul", {}, strip));
    if (focused) this.takes.querySelector(`[data-take="${CSS.escape(focused)}"]`)?.focus();
  }
}

/** Everything that does not move: waiting, failed, cancelled, removed. */
function still(job, kind) {
  if (kind === "queued") {
    return [
      h(
        "div",
        { class: "state-card" },
        icon("film"),
        h("h3", { "data-place": "", text: place(job) }),
        h("p", { text: "It starts by itself, as soon as a worker is free." }),
        job.note ? h("p", { class: "callout", text: job.note }) : null,
      ),
    ];
  }
  if (kind === "failed") {
    const { message = "The job failed.", remedy, field, code, log = [] } = job.error ?? {};
    return [
      h(
        "div",
        { class: "state-card bad" },
        icon("warn"),
        h("h3", { text: message }),
        remedy ? h("p", { class: "remedy" }, h("strong", { text: "What to do: " }), remedy) : null,
        h("p", { class: "hint", text: [code, field].filter(Boolean).join(" · ") }),
        log.length
          ? h(
              "details",
              { class: "log" },
              h("summary", { text: `Last ${log.length} lines of the worker's log` }),
              h("pre", { tabindex: 0, text: log.join("\n") }),
            )
          : null,
      ),
    ];
  }
  const [head, text] =
    kind === "gone"
      ? [
          "The video is not on the server any more",
          "It was removed to make room. The same settings and seed make the same video again.",
        ]
      : ["Cancelled", "Nothing was kept. A new take starts from the beginning."];
  return [
    h(
      "div",
      { class: "state-card" },
      icon(kind === "gone" ? "bin" : "stop"),
      h("h3", { text: head }),
      h("p", { text }),
    ),
  ];
}

function place(job) {
  if (job.queue_position === null) return "Waiting";
  return job.queue_position === 0 ? "Next in line" : `${job.queue_position + 1} in line`;
}

function subtitle(job) {
  const parts = [`Seed ${job.request.seed}`, job.request.model];
  if (job.client) parts.push(job.client);
  parts.push(moment(job.created_at));
  return parts.join(" · ");
}

/** [name, value, class] of everything that decided what the video looks like, and what it took. */
function settings(job, used = {}) {
  const { request } = job;
  // What a request leaves to the model is in the result's metadata, once that is here.
  const own = (name) =>
    (request[name] ?? null) === null
      ? (used[name] ?? null) === null
        ? "the model's own"
        : `${used[name]} (the model's own)`
      : String(request[name]);
  const facts = [
    ["Prompt", request.prompt ?? (used.prompt ? `${used.prompt} (the clip's own)` : "the clip's own"), "wide"],
    ["Model", request.model],
    ["Seed", String(request.seed)],
    ["Steps", own("num_inference_steps")],
    ["Guidance", own("guidance_scale")],
    ["Frames", own("num_frames")],
    ["Control strength", String(request.control_scale)],
    [
      "Conditions",
      [request.use_points && "points", request.use_tracking && "tracks"].filter(Boolean).join(" and ") || "none",
    ],
  ];
  if (request.negative_prompt) facts.splice(1, 0, ["Negative prompt", request.negative_prompt, "wide"]);
  if (request.memory?.length) facts.push(["Memory modes", request.memory.join(", ")]);
  if (job.priority) facts.push(["Priority", String(job.priority)]);
  if (job.client) facts.push(["Sent by", job.client]);
  facts.push(["Sent", moment(job.created_at)]);
  if (job.started_at !== null && job.finished_at !== null) facts.push(["Took", span(job.finished_at - job.started_at)]);
  if (job.attempt > 1) facts.push(["Attempts", String(job.attempt)]);
  if (job.note) facts.push(["Note", job.note, "wide"]);
  if (job.result_bytes) facts.push(["Size on disk", bytes(job.result_bytes)]);
  facts.push(["Clip", request.clip, "wide mono"], ["Job", job.id, "wide mono"]);
  return facts;
}
