// SPDX-License-Identifier: Apache-2.0
// Short messages at the edge of the page. They are announced, and stay while the mouse or the focus is on them.

import { button, h } from "./dom.js";

const SECONDS = 6;

/** `action`: [label, what it does]. Errors stay until they are closed. */
export function toast(text, { action = null, error = false } = {}) {
  const box = document.getElementById("toasts");
  const element = h(
    "div",
    { class: `toast ${error ? "bad" : ""}`, role: error ? "alert" : "status" },
    h("p", { text }),
  );
  const close = () => element.remove();
  if (action !== null) {
    const [label, run] = action;
    element.append(
      h("button", { type: "button", class: "button quiet", text: label, on: { click: () => (close(), run()) } }),
    );
  }
  element.append(button("close", "Close this message", { bare: true, on: { click: close } }));
  box.append(element);
  while (box.children.length > 3) box.firstChild.remove();
  if (error) return;
  const fade = () => (element.matches(":hover, :focus-within") ? setTimeout(fade, 1000) : close());
  setTimeout(fade, SECONDS * 1000);
}

export function toastError(error) {
  toast([error.message, error.remedy].filter(Boolean).join(" — "), { error: true });
}
