// SPDX-License-Identifier: Apache-2.0
// The bar at the top: what the server is doing, and whether this page still hears from it.

import { button, h, icon, setAttribute, setText } from "./dom.js";
import { count } from "./format.js";
import { theme } from "./theme.js";

export const logo = () => h("img", { class: "logo", src: "icon.svg", alt: "", width: 28, height: 28 });

const THEMES = {
  system: ["system", "Theme: as the system"],
  light: ["sun", "Theme: light"],
  dark: ["moon", "Theme: dark"],
};

export class Header {
  constructor({ onTheme, onKeys, onSignOut }) {
    this.work = h("p", { class: "head-work" });
    this.link = h(
      "p",
      { class: "head-link", role: "status" },
      h("span", { class: "dot" }),
      (this.linkText = h("span")),
    );
    this.themeButton = button("system", "Theme", { bare: true, on: { click: onTheme } });
    this.element = h(
      "header",
      { class: "head" },
      h("a", { class: "skip", href: "#detail-title", text: "Skip to the details" }),
      h("div", { class: "brand" }, logo(), h("h1", { text: "HVG-3D" })),
      this.work,
      this.link,
      h(
        "div",
        { class: "head-buttons" },
        this.themeButton,
        button("keys", "Keyboard shortcuts", { bare: true, class: "keys-button", on: { click: onKeys } }),
        button("out", "Sign out", { bare: true, on: { click: onSignOut } }),
      ),
    );
    this.connection("connecting");
    this.showTheme();
  }

  showTheme() {
    const [name, label] = THEMES[theme()];
    this.themeButton.replaceChildren(icon(name));
    this.themeButton.title = label;
    this.themeButton.setAttribute("aria-label", label);
  }

  /** "live", "lost" or "connecting". */
  connection(state) {
    setAttribute(this.link, "data-state", state);
    setText(this.linkText, { live: "Live", lost: "Reconnecting …", connecting: "Connecting …" }[state]);
  }

  health({ queued, running, workers }) {
    const parts = [running ? `${count(running)} running` : "Idle"];
    if (queued) parts.push(`${count(queued)} queued`);
    const ill = workers.filter((worker) => ["restarting", "stopped"].includes(worker.state)).length;
    if (ill) parts.push(`${count(ill)} of ${count(workers.length)} workers down`);
    setText(this.work, parts.join(" · "));
  }
}
