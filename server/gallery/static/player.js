// SPDX-License-Identifier: Apache-2.0
// Two videos of the same length as one: played, sought and looped together. The first leads, the other follows.

const TIGHT = 0.012; // seconds by which the follower may be off
const LOOSE = 0.2; // beyond this it is put right at once instead of being sped up or slowed down
const CATCH_UP = 2; // playback rate per second of distance
const MOST = 0.15;

/** Events: `time` (the frame changed), `state` (playing or not), `ready`, `error`. */
export class Player extends EventTarget {
  #leader;
  #follower;
  #wanted = false;
  #frame = 0;
  #abort = new AbortController();
  fps = 24;

  constructor(leader, follower) {
    super();
    this.#leader = leader;
    this.#follower = follower;
    const { signal } = this.#abort;
    leader.addEventListener("loadedmetadata", () => this.#tell("ready"), { signal });
    leader.addEventListener("error", () => this.#tell("error"), { signal });
    leader.addEventListener("ended", () => this.#again(), { signal });
    leader.addEventListener("seeked", () => this.#tell("time"), { signal });
    for (const video of this.#both) video.addEventListener("canplay", () => this.#wanted && this.#run(), { signal });
  }

  get #both() {
    return this.#follower === null ? [this.#leader] : [this.#leader, this.#follower];
  }

  get playing() {
    return this.#wanted;
  }

  get duration() {
    return Number.isFinite(this.#leader.duration) ? this.#leader.duration : 0;
  }

  get time() {
    return this.#leader.currentTime;
  }

  get frames() {
    return Math.max(1, Math.round(this.duration * this.fps));
  }

  get frame() {
    return Math.min(this.frames - 1, Math.floor(this.time * this.fps + 0.01));
  }

  /** The follower is there, or is not to be waited for (null). */
  follow(video) {
    this.#follower = video;
    video?.addEventListener("canplay", () => this.#wanted && this.#run(), { signal: this.#abort.signal });
    this.seek(this.frame);
  }

  play() {
    this.#wanted = true;
    this.#run();
    this.#tell("state");
  }

  pause() {
    this.#wanted = false;
    cancelAnimationFrame(this.#frame);
    for (const video of this.#both) {
      video.pause();
      video.playbackRate = 1;
    }
    if (this.#follower !== null && Math.abs(this.#follower.currentTime - this.time) > TIGHT)
      this.#follower.currentTime = this.time;
    this.#tell("state");
    this.#tell("time");
  }

  toggle() {
    if (this.#wanted) this.pause();
    else this.play();
  }

  /** Go to the middle of a frame: at its edge, rounding would show the one before. */
  seek(frame) {
    const time = (Math.min(this.frames - 1, Math.max(0, frame)) + 0.5) / this.fps;
    for (const video of this.#both) video.currentTime = time;
  }

  step(by) {
    if (this.#wanted) this.pause();
    this.seek((this.frame + by + this.frames) % this.frames);
  }

  close() {
    this.#wanted = false;
    cancelAnimationFrame(this.#frame);
    this.#abort.abort();
    for (const video of this.#both) {
      video.pause();
      video.removeAttribute("src");
      video.load(); // lets go of the connection
    }
  }

  /** Start once all of them can. */
  async #run() {
    if (this.#both.some((video) => video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA)) return;
    if (this.#leader.ended || this.#leader.currentTime >= this.duration)
      for (const video of this.#both) video.currentTime = 0;
    try {
      await Promise.all(this.#both.map((video) => video.play()));
    } catch (error) {
      if (error.name === "NotAllowedError") this.pause(); // the browser wants a click first
      return;
    }
    cancelAnimationFrame(this.#frame);
    this.#watch();
  }

  #again() {
    if (!this.#wanted) return;
    for (const video of this.#both) {
      video.currentTime = 0;
      video.play().catch(() => {});
    }
  }

  #watch() {
    if (!this.#wanted) return;
    const follower = this.#follower;
    if (follower !== null && !this.#leader.ended && !follower.seeking && !this.#leader.seeking) {
      const late = this.#leader.currentTime - follower.currentTime;
      if (Math.abs(late) > LOOSE) follower.currentTime = this.#leader.currentTime;
      else follower.playbackRate = Math.abs(late) < TIGHT ? 1 : 1 + Math.max(-MOST, Math.min(MOST, CATCH_UP * late));
      if (follower.paused && !follower.ended) follower.play().catch(() => {});
    }
    this.#tell("time");
    this.#frame = requestAnimationFrame(() => this.#watch());
  }

  #tell(type) {
    this.dispatchEvent(new Event(type));
  }
}
