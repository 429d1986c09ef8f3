// SPDX-License-Identifier: Apache-2.0
// Shortcuts of one key. They can be switched off (WCAG 2.1.4): speech input says letters, too.

import { remember, remembered } from "./theme.js";

/** What the keys do is bound in app.js, by these names. */
export const SHORTCUTS = {
  next: { keys: ["J"], match: ["j"], text: "Next job" },
  previous: { keys: ["K"], match: ["k"], text: "Previous job" },
  play: { keys: ["Space"], match: [" "], text: "Play or pause" },
  forward: { keys: ["."], match: ["."], text: "One frame forward" },
  back: { keys: [","], match: [","], text: "One frame back" },
  wipe: { keys: ["W"], match: ["w"], text: "Wipe, with the focus on its handle" },
  side: { keys: ["S"], match: ["s"], text: "Side by side" },
  result: { keys: ["V"], match: ["v"], text: "Result alone" },
  original: { keys: ["O"], match: ["o"], text: "Original alone" },
  full: { keys: ["F"], match: ["f"], text: "Full screen" },
  reroll: { keys: ["R"], match: ["r"], text: "Re-roll: same settings, new seed" },
  take: { keys: ["N"], match: ["n"], text: "New take: change the settings first" },
  cancel: { keys: ["X"], match: ["x"], text: "Cancel the job" },
  download: { keys: ["D"], match: ["d"], text: "Download the video" },
  remove: { keys: ["Del"], match: ["Delete"], text: "Delete the result" },
  list: { keys: ["L"], match: ["l"], text: "Focus on the list" },
  theme: { keys: ["T"], match: ["t"], text: "Theme: system, light, dark" },
  help: { keys: ["?"], match: ["?"], text: "This list" },
};

const KEY = "hvg3d.shortcuts";
let on = remembered(KEY, "on") === "on";

export const shortcutsOn = () => on;

export function switchShortcuts(value) {
  on = value;
  remember(KEY, value ? "on" : "off");
}

/** `actions`: {name: function}. Keys that mean something to what has the focus are left to it. */
export function listenForKeys(actions, signal) {
  const listen = (event) => {
    if (!on || event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey) return;
    if (document.querySelector("dialog[open]")) return;
    const at = event.target;
    if (at.closest?.("input:not([type=range]), textarea, select, [contenteditable]")) return;
    if (event.key === " " && at.closest?.("button, a, summary, input")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    for (const [name, { match }] of Object.entries(SHORTCUTS)) {
      if (match.includes(key) && actions[name]) {
        event.preventDefault();
        actions[name]();
        return;
      }
    }
  };
  document.addEventListener("keydown", listen, { signal });
}
