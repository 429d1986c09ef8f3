// SPDX-License-Identifier: Apache-2.0
// Numbers and times as people read them.

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const absolute = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const number = new Intl.NumberFormat("en");

/** Seconds since 1970 as "3 minutes ago". */
export function ago(seconds, now = Date.now() / 1000) {
  const past = Math.max(0, now - seconds);
  if (past < 45) return "just now";
  if (past < 3600) return relative.format(-Math.max(1, Math.round(past / 60)), "minute");
  if (past < 86400) return relative.format(-Math.round(past / 3600), "hour");
  if (past < 30 * 86400) return relative.format(-Math.round(past / 86400), "day");
  return new Intl.DateTimeFormat(undefined, { dateStyle: "medium" }).format(seconds * 1000);
}

export const moment = (seconds) => absolute.format(seconds * 1000);

export const count = (value) => number.format(value);

/** A span of time: "8.2 s", "3 min 20 s", "2 h 5 min". */
export function span(seconds) {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.round((whole % 3600) / 60)} min`;
}

/** Time to go, rounded as befits an estimate. */
export function toGo(seconds) {
  if (seconds < 1) return "almost done";
  if (seconds < 60) return `about ${Math.ceil(seconds)} s left`;
  if (seconds < 3600) return `about ${Math.ceil(seconds / 60)} min left`;
  return `about ${(seconds / 3600).toFixed(1)} h left`;
}

export function bytes(value) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (value < 1000) return `${unit === "B" ? value : value.toFixed(1)} ${unit}`;
    value /= 1000;
  }
  return `${value.toFixed(1)} TB`;
}

const STATES = {
  queued: "Queued",
  running: "Running",
  cancelling: "Cancelling",
  done: "Done",
  failed: "Failed",
  cancelled: "Cancelled",
};

export const stateName = (state) => STATES[state] ?? state;

const PHASES = { load: "Loading", encode: "Encoding", denoise: "Generating", decode: "Decoding", write: "Writing" };

export const phaseName = (phase) => PHASES[phase] ?? phase;

export const finished = (job) => ["done", "failed", "cancelled"].includes(job.state);

export const active = (job) => ["running", "cancelling"].includes(job.state);

/** What a person would call the job. */
export const title = (job) => job.label || job.request.prompt || `Job ${job.id.slice(0, 8)}`;

/** A file name that every system takes. */
export function fileName(job, extension) {
  const base = title(job)
    .normalize("NFKD")
    .replace(/[^\w\- ]+/g, "")
    .trim()
    .replace(/\s+/g, "-")
    .slice(0, 60);
  return `${base || "hvg3d"}-seed${job.request.seed}.${extension}`;
}
