// SPDX-License-Identifier: Apache-2.0
// The server's event stream, kept open: the browser reconnects after a break by itself, we after everything else.

import { api } from "./api.js";

const FIRST_PAUSE = 1000;
const LONGEST_PAUSE = 15000;
const HIDDEN_FOR = 60000; // a browser opens six connections to a server: tabs nobody looks at give theirs back

export class Stream extends EventTarget {
  #source = null;
  #last = 0;
  #pause = FIRST_PAUSE;
  #timer = 0;
  #hidden = 0;
  #stopped = true;

  constructor() {
    super();
    document.addEventListener("visibilitychange", () => {
      if (this.#stopped) return;
      clearTimeout(this.#hidden);
      if (document.hidden) this.#hidden = setTimeout(() => this.#close(), HIDDEN_FOR);
      else if (this.#source === null) this.#open();
    });
    addEventListener("online", () => this.#soon(0));
  }

  /** Follow from event number `since` on. */
  start(since) {
    this.stop();
    this.#stopped = false;
    this.#last = since;
    this.#open();
  }

  stop() {
    this.#stopped = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#hidden);
    this.#close();
  }

  #close() {
    this.#source?.close();
    this.#source = null;
  }

  #open() {
    clearTimeout(this.#timer);
    this.#close();
    const source = new EventSource(`/v1/events?since=${this.#last}`);
    this.#source = source;
    const tell = (type, detail) => this.dispatchEvent(new CustomEvent(type, { detail }));
    source.addEventListener("open", () => {
      this.#pause = FIRST_PAUSE;
      tell("state", "live");
    });
    for (const type of ["job", "progress", "reset", "deleted"]) {
      source.addEventListener(type, (event) => {
        this.#last = Number(event.lastEventId) || this.#last;
        tell(type, JSON.parse(event.data));
      });
    }
    source.addEventListener("error", () => {
      if (this.#stopped || source !== this.#source) return;
      tell("state", "lost");
      if (source.readyState === EventSource.CLOSED) this.#retry();
    });
  }

  /** The browser has given up: the server refused, for want of a session or of room. */
  async #retry() {
    this.#close();
    try {
      await api.health(); // 401 brings back the login form
    } catch (error) {
      if (error.status === 401) return;
    }
    this.#soon(this.#pause);
    this.#pause = Math.min(2 * this.#pause, LONGEST_PAUSE);
  }

  #soon(pause) {
    clearTimeout(this.#timer);
    if (!this.#stopped)
      this.#timer = setTimeout(() => this.#source?.readyState === EventSource.OPEN || this.#open(), pause);
  }
}
