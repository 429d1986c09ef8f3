// SPDX-License-Identifier: Apache-2.0
// The gallery once somebody is in: list on the left, details on the right, one event stream for both.

import { makeActions } from "./actions.js";
import { api } from "./api.js";
import { Detail } from "./detail.js";
import { showKeys } from "./dialogs.js";
import { announce, h } from "./dom.js";
import { Stream } from "./events.js";
import { title } from "./format.js";
import { Header } from "./header.js";
import { Jobs } from "./jobs.js";
import { listenForKeys } from "./keys.js";
import { JobList } from "./list.js";
import { nextTheme } from "./theme.js";
import { toastError } from "./toasts.js";

const HEALTH_EVERY = 15000;
const RENEW_EVERY = 12 * 3600 * 1000;
const NARROW = matchMedia("(max-width: 52rem)");

const idFromAddress = () => /^#\/job\/([\w-]+)$/.exec(location.hash)?.[1] ?? null;

export class App {
  #jobs = new Jobs();
  #stream = new Stream();
  #timers = [];
  #healthSoon = 0;
  #instance = null;
  #end = new AbortController();

  constructor(onSignOut) {
    const pick = (id, how) => this.pick(id, how);
    this.actions = makeActions(this.#jobs, pick);
    this.header = new Header({ onTheme: () => this.theme(), onKeys: showKeys, onSignOut });
    this.list = new JobList(this.#jobs, pick);
    this.detail = new Detail(this.#jobs, this.actions, { pick, back: () => this.back() });
    this.element = h("div", { class: "app" }, this.header.element, this.list.element, this.detail.element);
    this.#follow();
    const { signal } = this.#end;
    addEventListener("hashchange", () => this.#show(idFromAddress()), { signal });
    listenForKeys(this.#keys(), signal);
  }

  async start() {
    this.#timers = [
      setInterval(() => this.#health(), HEALTH_EVERY),
      setInterval(() => api.renew().catch(() => {}), RENEW_EVERY),
    ];
    this.#health();
    await this.#reload();
    const wanted = idFromAddress();
    if (wanted !== null) await this.#show(wanted);
    else if (!NARROW.matches && this.#jobs.order.length) this.pick(this.#jobs.order[0], "first");
    this.list.focus();
  }

  stop() {
    this.#end.abort();
    this.#stream.stop();
    this.#timers.forEach(clearInterval);
    this.detail.viewer?.close();
  }

  /** List anew, and follow from there: nothing is missed in between. */
  async #reload() {
    const last = await this.#jobs.load();
    if (this.#end.signal.aborted) return;
    this.#stream.start(last ?? 0);
  }

  #follow() {
    const stream = this.#stream;
    stream.addEventListener("job", ({ detail: job }) => {
      this.#tellOf(job);
      this.#jobs.event(job);
      this.#healthAfter();
    });
    stream.addEventListener("progress", ({ detail }) => this.#jobs.progress(detail));
    stream.addEventListener("deleted", ({ detail }) => this.#jobs.remove(detail.id));
    stream.addEventListener("reset", () => this.#reload());
    stream.addEventListener("state", ({ detail }) => {
      this.header.connection(detail);
      if (detail === "live") this.#health();
    });
  }

  /** Say what happened to the job that is being looked at. */
  #tellOf(job) {
    const before = this.#jobs.get(job.id);
    if (before === null || before.state === job.state || job.id !== this.list.selected) return;
    const words = { done: "is done", failed: `failed: ${job.error?.message ?? ""}`, running: "has started" }[job.state];
    if (words) announce(`${title(job)} ${words}`);
  }

  async #health() {
    try {
      const health = await api.health();
      this.header.health(health);
      // Another start of the server: what it did meanwhile may be more than its events still tell.
      if (this.#instance !== null && this.#instance !== health.instance) this.#reload();
      this.#instance = health.instance;
    } catch {
      // the stream says so
    }
  }

  #healthAfter() {
    if (this.#healthSoon) return;
    this.#healthSoon = setTimeout(() => {
      this.#healthSoon = 0;
      this.#health();
    }, 400);
  }

  /** Show a job. The address follows, so that a job has a link and the phone's back button works. */
  pick(id, how = "click") {
    const open = how === "click" || how === "enter";
    const address = id === null ? location.pathname : `#/job/${id}`;
    if (id !== idFromAddress()) {
      if (open && NARROW.matches && !this.element.classList.contains("opened")) history.pushState(null, "", address);
      else history.replaceState(null, "", address);
    }
    this.#show(id, how);
  }

  async #show(id, how = "address") {
    if (id !== null && this.#jobs.get(id) === null) {
      try {
        await this.#jobs.fetch(id);
      } catch (error) {
        if (error.status !== 404) toastError(error);
        else toastError({ message: "There is no such job here.", remedy: "It may have been deleted." });
        history.replaceState(null, "", location.pathname);
        id = null;
      }
    }
    this.list.select(id);
    this.detail.show(id);
    const open = id !== null && ["click", "enter", "address"].includes(how);
    if (how !== "move" && how !== "first") this.element.classList.toggle("opened", open);
    if (how === "enter" || (open && NARROW.matches)) this.detail.focus();
    else if (how === "deleted") this.list.focus();
  }

  back() {
    history.replaceState(null, "", location.pathname);
    this.element.classList.remove("opened");
    this.list.focus();
  }

  theme() {
    announce(`Theme: ${nextTheme()}`);
    this.header.showTheme();
  }

  #keys() {
    const withJob = (action) => () => this.detail.job && action(this.detail.job);
    const withViewer = (action) => () => this.detail.viewer && action(this.detail.viewer);
    const mode = (name) =>
      withViewer((viewer) => {
        viewer.mode = name;
        if (name === "wipe") viewer.handle.focus();
      });
    return {
      next: () => this.list.step(1),
      previous: () => this.list.step(-1),
      play: withViewer((viewer) => viewer.player.toggle()),
      forward: withViewer((viewer) => viewer.player.step(1)),
      back: withViewer((viewer) => viewer.player.step(-1)),
      wipe: mode("wipe"),
      side: mode("side"),
      result: mode("result"),
      original: mode("original"),
      full: withViewer((viewer) => viewer.fullScreen()),
      reroll: withJob(this.actions.reroll),
      take: withJob(this.actions.take),
      cancel: withJob(this.actions.cancel),
      download: withJob(this.actions.download),
      remove: withJob(this.actions.remove),
      list: () => this.list.focus(),
      theme: () => this.theme(),
      help: showKeys,
    };
  }
}
