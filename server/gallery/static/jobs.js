// SPDX-License-Identifier: Apache-2.0
// What this page knows of the jobs: pages of the server's list, kept right by its events.
//
// Never all of them: a list starts with the newest hundred and grows as it is scrolled.

import { api } from "./api.js";
import { active } from "./format.js";

const PAGE = 100;
const PLACES_EVERY = 1500; // milliseconds

export const FILTERS = {
  all: { name: "All", states: [] },
  queue: { name: "Queue", states: ["running", "cancelling", "queued"] },
  done: { name: "Done", states: ["done"] },
  failed: { name: "Failed", states: ["failed", "cancelled"] },
};

const newestFirst = (a, b) => b.created_at - a.created_at || (a.id < b.id ? 1 : -1);

/** What is being worked on, then what comes next. */
const queueOrder = (a, b) =>
  active(b) - active(a) || (a.queue_position ?? 0) - (b.queue_position ?? 0) || a.created_at - b.created_at;

/** Events: `change` (the list), `job` (detail: id), `loading`. */
export class Jobs extends EventTarget {
  #byId = new Map();
  #next = null;
  #generation = 0;
  #oldest = null; // the last job of the last page: what is older is not in the list yet
  #placesTimer = 0;
  #told = 0; // events so far
  #toldAt = new Map(); // id: the last of them about this job
  filter = "all";
  order = [];
  loading = false;
  loaded = false;
  error = null;

  get(id) {
    return this.#byId.get(id) ?? null;
  }

  get more() {
    return this.#next !== null;
  }

  /** The first page of a filter. Answers with the number of the last event that it contains. */
  async load(filter = this.filter) {
    this.filter = filter;
    const generation = ++this.#generation;
    Object.assign(this, { order: [], loading: true, loaded: false, error: null });
    this.#next = this.#oldest = null;
    this.#tell("change");
    const last = await this.#page(generation, null);
    // The list is the newest first, and the next in line is the oldest: of the queue it takes all.
    while (filter === "queue" && generation === this.#generation && this.#next !== null && this.error === null) {
      await this.loadMore();
    }
    return last;
  }

  async loadMore() {
    if (this.loading || this.#next === null) return;
    this.loading = true;
    this.#tell("change");
    await this.#page(this.#generation, this.#next);
  }

  async #page(generation, before) {
    const query = FILTERS[this.filter].states.map((state) => ["state", state]);
    query.push(["limit", this.filter === "queue" ? 1000 : PAGE]);
    if (before !== null) query.push(["before", before]);
    try {
      const asked = this.#told;
      const page = await api.jobs(query);
      if (generation !== this.#generation) return null;
      for (const job of page.jobs) if (!this.#toldSince(job.id, asked)) this.#byId.set(job.id, job);
      const known = new Set(this.order);
      this.order.push(...page.jobs.map((job) => job.id).filter((id) => !known.has(id)));
      this.#next = page.next;
      this.#oldest = page.jobs.at(-1) ?? this.#oldest;
      this.error = null;
      this.#sort();
      return page.last_event;
    } catch (error) {
      if (generation === this.#generation) this.error = error;
      return null;
    } finally {
      if (generation === this.#generation) {
        this.loading = false;
        this.loaded = true;
        this.#tell("change");
      }
    }
  }

  /** One job that a link named, whether or not it is in the list. */
  async fetch(id) {
    return this.answer(api.job(id));
  }

  /** The job that a request answers with, unless an event has told something newer before the answer came. */
  async answer(request) {
    const asked = this.#told;
    const job = await request;
    if (!this.#toldSince(job.id, asked)) this.#put(job);
    return this.get(job.id) ?? job;
  }

  /** A job as an event shows it. */
  event(job) {
    this.#toldAt.set(job.id, ++this.#told);
    this.#put(job);
  }

  #toldSince(id, moment) {
    return (this.#toldAt.get(id) ?? 0) > moment;
  }

  #put(job) {
    const before = this.#byId.get(job.id);
    this.#byId.set(job.id, job);
    const states = FILTERS[this.filter].states;
    const fits = states.length === 0 || states.includes(job.state);
    const place = this.order.indexOf(job.id);
    if (!fits && place >= 0) this.order.splice(place, 1);
    if (fits && place < 0 && (this.#next === null || this.#oldest === null || newestFirst(job, this.#oldest) < 0)) {
      this.order.push(job.id);
      this.#sort();
    } else if (this.filter === "queue") this.#sort();
    if (job.state === "queued" || before?.state === "queued") this.#placesSoon();
    this.#tell("job", job.id);
    this.#tell("change");
  }

  progress({ id, progress }) {
    const job = this.#byId.get(id);
    if (job === undefined) return;
    job.progress = progress;
    this.#tell("job", id);
  }

  remove(id) {
    this.#toldAt.set(id, ++this.#told);
    this.#byId.delete(id);
    this.order = this.order.filter((other) => other !== id);
    this.#tell("job", id);
    this.#tell("change");
  }

  /** Other takes of the same clip, as far as they are known here, the newest first. */
  takes(clip) {
    return [...this.#byId.values()].filter((job) => job.request.clip === clip).sort(newestFirst);
  }

  known() {
    return this.#byId.values();
  }

  /** Places shift without an event of their own: look again, now and then. */
  #placesSoon() {
    if (this.#placesTimer) return;
    this.#placesTimer = setTimeout(async () => {
      try {
        const { jobs } = await api.jobs([
          ["state", "queued"],
          ["limit", 1000],
        ]);
        for (const job of jobs) {
          const known = this.#byId.get(job.id);
          if (known?.state === "queued") {
            known.queue_position = job.queue_position;
            this.#tell("job", job.id);
          }
        }
        if (this.filter === "queue") this.#sort();
        this.#tell("change");
      } catch {
        // the stream says that the server is gone
      } finally {
        this.#placesTimer = 0;
      }
    }, PLACES_EVERY);
  }

  #sort() {
    const compare = this.filter === "queue" ? queueOrder : newestFirst;
    this.order.sort((a, b) => compare(this.#byId.get(a), this.#byId.get(b)));
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
