// SPDX-License-Identifier: Apache-2.0
// What can be done with a job. Each tells how it went, and nobody has to wait for the event to see it.

import { api, media, randomSeed, uuid } from "./api.js";
import { announce, h } from "./dom.js";
import { confirmDelete, askForTake } from "./dialogs.js";
import { active, fileName, finished, stateName, title } from "./format.js";
import { toast, toastError } from "./toasts.js";

/** A client's jobs are moved among themselves; the place in line that is shown counts everybody's. */
async function placeAmongOwn(job) {
  const { jobs } = await api.jobs([
    ["state", "queued"],
    ["limit", 1000],
  ]);
  const own = jobs.filter((other) => other.client === job.client).sort((a, b) => a.queue_position - b.queue_position);
  return Math.max(
    0,
    own.findIndex((other) => other.id === job.id),
  );
}

export function makeActions(jobs, pick) {
  const guarded =
    (work) =>
    async (...input) => {
      try {
        await work(...input);
      } catch (error) {
        toastError(error);
      }
    };

  async function send(job, request) {
    const body = { id: uuid(), request, label: job.label, client: job.client };
    const made = await jobs.answer(api.create(body));
    toast(`New take queued, seed ${request.seed}`, { action: ["Show", () => pick(made.id)] });
  }

  return {
    reroll: guarded(async (job) => {
      if (finished(job)) await send(job, { ...job.request, seed: randomSeed() });
    }),

    take: guarded(async (job) => {
      const request = await askForTake(job.request);
      if (request !== null) await send(job, request);
    }),

    cancel: guarded(async (job) => {
      if (job.state !== "queued" && !active(job)) return;
      const after = await jobs.answer(api.cancel(job.id));
      announce(`${title(after)}: ${stateName(after.state)}`);
    }),

    /** `by` places towards the end of what its client has queued. */
    move: guarded(async (job, by) => {
      const place = Math.max(0, (await placeAmongOwn(job)) + by);
      const after = await jobs.answer(api.move(job.id, place));
      announce(after.queue_position === 0 ? "Next in line" : `${after.queue_position + 1} in line`);
    }),

    remove: guarded(async (job) => {
      if (!finished(job) || !(await confirmDelete(title(job)))) return;
      await api.remove(job.id);
      const place = jobs.order.indexOf(job.id);
      jobs.remove(job.id);
      pick(jobs.order[Math.min(place, jobs.order.length - 1)] ?? null, "deleted");
      announce("Deleted");
    }),

    download: guarded(async (job) => {
      if (job.result === null) return;
      h("a", { href: media.video(job.id), download: fileName(job, "mp4") }).click();
    }),
  };
}
