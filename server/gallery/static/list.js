// SPDX-License-Identifier: Apache-2.0
// The list of jobs. Only the rows in view exist; a hundred thousand jobs are a tall empty box with a dozen rows in it.
//
// To assistive technology it is one listbox: the focus stays on the box, aria-activedescendant names the row.

import { media } from "./api.js";
import { h, icon, onceAFrame, setAttribute, setText } from "./dom.js";
import { active, ago, phaseName, stateName, title, toGo } from "./format.js";
import { FILTERS } from "./jobs.js";

const ROW = 76; // pixels, as in list.css
const OVERSCAN = 4;
const NEAR_END = 20; // rows

export class JobList {
  #jobs;
  #rows = new Map();
  #selected = null;
  #pick;
  #empty;

  /** `pick(id, how)`: a row was chosen by "move", "click" or "enter"; the last wants to get into its details. */
  constructor(jobs, pick) {
    this.#jobs = jobs;
    this.#pick = pick;
    this.box = h("div", {
      class: "list-rows",
      role: "listbox",
      tabindex: 0,
      "aria-label": "Jobs",
      on: { keydown: (event) => this.#key(event), click: (event) => this.#click(event) },
    });
    this.message = h("div", { class: "list-message", hidden: true });
    this.scroller = h("div", { class: "list-scroll", on: { scroll: () => this.draw() } }, this.box, this.message);
    this.tabs = h("div", { class: "segmented filters", role: "group", "aria-label": "Show" });
    for (const [id, { name }] of Object.entries(FILTERS)) {
      this.tabs.append(
        h("button", {
          type: "button",
          data: { filter: id },
          "aria-pressed": "false",
          text: name,
          on: { click: () => this.show(id) },
        }),
      );
    }
    this.element = h("section", { class: "list", "aria-label": "Queue and history" }, this.tabs, this.scroller);
    this.draw = onceAFrame(() => this.#draw());
    jobs.addEventListener("change", this.draw);
    jobs.addEventListener("job", this.draw);
    new ResizeObserver(this.draw).observe(this.scroller);
    setInterval(this.draw, 20000); // "2 minutes ago" grows old
  }

  show(filter) {
    this.scroller.scrollTop = 0;
    this.#jobs.load(filter);
  }

  select(id, { reveal = true } = {}) {
    this.#selected = id;
    if (reveal) this.#reveal(this.#jobs.order.indexOf(id));
    this.draw();
  }

  get selected() {
    return this.#selected;
  }

  /** The neighbour of the chosen job, `by` rows away. */
  step(by) {
    const order = this.#jobs.order;
    if (order.length === 0) return;
    const now = order.indexOf(this.#selected);
    const next = now < 0 ? 0 : Math.min(order.length - 1, Math.max(0, now + by));
    this.#pick(order[next], "move");
  }

  focus() {
    this.box.focus({ preventScroll: true });
  }

  #reveal(index) {
    if (index < 0) return;
    const { scrollTop, clientHeight } = this.scroller;
    if (index * ROW < scrollTop) this.scroller.scrollTop = index * ROW;
    else if ((index + 1) * ROW > scrollTop + clientHeight) this.scroller.scrollTop = (index + 1) * ROW - clientHeight;
  }

  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / ROW) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key in steps) this.step(steps[event.key]);
    else if (event.key === "Enter" && this.#selected !== null) this.#pick(this.#selected, "enter");
    else return;
    event.preventDefault();
  }

  #click(event) {
    const row = event.target.closest("[data-job]");
    if (row) this.#pick(row.dataset.job, "click");
  }

  #draw() {
    const jobs = this.#jobs;
    const { order } = jobs;
    for (const tab of this.tabs.children) setAttribute(tab, "aria-pressed", tab.dataset.filter === jobs.filter);
    setAttribute(this.box, "aria-busy", jobs.loading);
    this.#drawMessage();
    this.box.style.height = `${order.length * ROW}px`;
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / ROW) - OVERSCAN);
    const last = Math.min(
      order.length,
      Math.ceil((this.scroller.scrollTop + this.scroller.clientHeight) / ROW) + OVERSCAN,
    );
    const wanted = new Map();
    for (let index = first; index < last; index++) wanted.set(order[index], index);
    const chosen = order.indexOf(this.#selected); // stays in the tree, since the box points at it
    if (chosen >= 0) wanted.set(this.#selected, chosen);
    for (const [id, row] of this.#rows) {
      if (!wanted.has(id)) {
        row.element.remove();
        this.#rows.delete(id);
      }
    }
    for (const [id, index] of wanted) {
      let row = this.#rows.get(id);
      if (row === undefined) {
        row = new Row(id);
        this.#rows.set(id, row);
        this.box.append(row.element);
      }
      row.update(jobs.get(id), index, jobs.more ? -1 : order.length, id === this.#selected);
    }
    setAttribute(this.box, "aria-activedescendant", chosen >= 0 ? `job-${this.#selected}` : null);
    if (jobs.more && last > order.length - NEAR_END && jobs.error === null) jobs.loadMore();
  }

  #drawMessage() {
    const { loading, loaded, error, order, filter } = this.#jobs;
    const what = error
      ? "error"
      : loading && order.length === 0
        ? "skeleton"
        : loaded && order.length === 0
          ? `empty-${filter}`
          : "";
    if (what === this.#empty) return;
    this.#empty = what;
    this.message.hidden = what === "";
    this.message.replaceChildren();
    if (what === "skeleton") {
      for (let row = 0; row < 6; row++) {
        this.message.append(
          h(
            "div",
            { class: "row ghost", "aria-hidden": "true" },
            h("div", { class: "thumb shimmer" }),
            h(
              "div",
              { class: "row-text" },
              h("div", { class: "bar shimmer" }),
              h("div", { class: "bar short shimmer" }),
            ),
          ),
        );
      }
    } else if (what === "error") {
      const again = h("button", {
        type: "button",
        class: "button",
        text: "Try again",
        on: { click: () => this.#jobs.load() },
      });
      this.message.append(
        h(
          "div",
          { class: "empty", role: "alert" },
          icon("warn"),
          h("h2", { text: "The list could not be loaded" }),
          h("p", { text: error.message }),
          again,
        ),
      );
    } else if (what) {
      const [head, text] = {
        "empty-all": [
          "Nothing here yet",
          "In Blender, click Render to Real Video. The job appears here as soon as it is sent.",
        ],
        "empty-queue": ["The queue is empty", "Nothing is being generated, and nothing waits."],
        "empty-done": ["No results yet", "Finished videos are kept here."],
        "empty-failed": ["Nothing has failed", "Failed and cancelled jobs are listed here, with the reason."],
      }[what];
      this.message.append(
        h(
          "div",
          { class: "empty" },
          icon(filter === "failed" ? "check" : "film"),
          h("h2", { text: head }),
          h("p", { text }),
        ),
      );
    }
  }
}

class Row {
  #preview = "";

  constructor(id) {
    this.image = h("img", {
      alt: "",
      decoding: "async",
      on: { error: () => (this.image.hidden = true), load: () => (this.image.hidden = false) },
    });
    this.image.hidden = true;
    this.thumb = h("div", { class: "thumb" }, icon("film"), this.image);
    this.name = h("div", { class: "row-name" });
    this.dot = h("span", { class: "dot" });
    this.state = h("span", { class: "row-state" });
    this.more = h("span", { class: "row-more" });
    this.bar = h("div", { class: "row-progress" }, h("div"));
    this.element = h(
      "div",
      { class: "row", id: `job-${id}`, role: "option", data: { job: id } },
      this.thumb,
      h(
        "div",
        { class: "row-text" },
        this.name,
        h("div", { class: "row-line" }, this.dot, this.state, this.more),
        this.bar,
      ),
    );
  }

  update(job, index, total, selected) {
    if (job === null) return;
    this.element.style.transform = `translateY(${index * ROW}px)`;
    setAttribute(this.element, "data-state", job.state);
    setAttribute(this.element, "aria-selected", selected);
    setAttribute(this.element, "aria-posinset", index + 1);
    setAttribute(this.element, "aria-setsize", total);
    setText(this.name, title(job));
    const [state, more] = describe(job);
    setText(this.state, state);
    setText(this.more, more);
    setAttribute(this.element, "aria-label", `${title(job)}, ${state}, ${more}`);
    const progress = job.progress;
    this.bar.hidden = !active(job);
    if (active(job)) this.bar.firstChild.style.transform = `scaleX(${progress?.fraction ?? 0})`;
    const version = previewVersion(job);
    const source = version === null ? "" : media.preview(job.id, version);
    if (source !== this.#preview) {
      this.#preview = source;
      if (source) this.image.src = source;
      else this.image.hidden = true;
    }
  }
}

/** Changes when the job's preview does; null where there is none. A row need not follow every step. */
export function previewVersion(job, every = 10) {
  if (job.state === "done") return job.result ? `${job.attempt}-done` : null;
  if (!active(job) || !job.progress?.preview) return null;
  return `${job.attempt}-${job.progress.phase}-${Math.floor(job.progress.fraction * every)}`;
}

/** [state, the rest of the line]. */
function describe(job) {
  const seed = `seed ${job.request.seed}`;
  if (job.state === "running") {
    const { phase = "load", eta_seconds: eta = null } = job.progress ?? {};
    return [phaseName(phase), eta === null ? seed : toGo(eta)];
  }
  if (job.state === "queued") {
    const place = job.queue_position;
    return [place === null ? "Queued" : place === 0 ? "Next" : `${place + 1} in line`, seed];
  }
  const when = job.finished_at ?? job.created_at;
  return [stateName(job.state), `${seed} · ${ago(when)}`];
}
