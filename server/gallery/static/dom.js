// SPDX-License-Identifier: Apache-2.0
// Elements without markup in strings: what a client wrote into a label can never become HTML.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element. Properties: `class`, `text`, `on` ({event: listener}), `data` ({name: value}), `hidden` and other
 * booleans; the rest are attributes, left out where null or undefined. Children: nodes, strings, null, or lists.
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name === "on")
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (typeof value === "boolean" && !name.startsWith("aria-")) element.toggleAttribute(name, value);
    else element.setAttribute(name, String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set text only where it differs: live regions and selections stay undisturbed. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set or remove an attribute, where that changes anything. */
export function setAttribute(element, name, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value));
}

// Outlines of 24 x 24, drawn for this page.
const ICONS = {
  play: ["M7 4.5v15l12-7.5z"],
  pause: ["M8 5v14", "M16 5v14"],
  back: ["M18 6l-8 6 8 6z", "M6 6v12"],
  forward: ["M6 6l8 6-8 6z", "M18 6v12"],
  full: ["M4 9V4h5", "M20 9V4h-5", "M4 15v5h5", "M20 15v5h-5"],
  tune: ["M4 7h9", "M17 7h3", "M15 4.5v5", "M4 17h3", "M11 17h9", "M9 14.5v5"],
  dice: [
    "M5 3h14a2 2 0 0 1 2 2v14a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2V5a2 2 0 0 1 2-2z",
    "M8.5 8.5h.01",
    "M15.5 8.5h.01",
    "M12 12h.01",
    "M8.5 15.5h.01",
    "M15.5 15.5h.01",
  ],
  stop: ["M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18z", "M9 9l6 6", "M15 9l-6 6"],
  bin: ["M4 7h16", "M9 7V4h6v3", "M6 7l1 13h10l1-13", "M10 11v5", "M14 11v5"],
  down: ["M12 4v11", "M7 11l5 5 5-5", "M5 20h14"],
  file: ["M6 3h8l4 4v14H6z", "M14 3v4h4", "M9 13h6", "M9 17h6"],
  top: ["M5 4h14", "M12 20V8", "M7 13l5-5 5 5"],
  up: ["M12 19V6", "M6 12l6-6 6 6"],
  lower: ["M12 5v13", "M6 12l6 6 6-6"],
  keys: [
    "M4 6h16a1 1 0 0 1 1 1v10a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1V7a1 1 0 0 1 1-1z",
    "M7 10h.01",
    "M12 10h.01",
    "M17 10h.01",
    "M8 14h8",
  ],
  sun: [
    "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8z",
    "M12 2v2",
    "M12 20v2",
    "M2 12h2",
    "M20 12h2",
    "M5 5l1.4 1.4",
    "M17.6 17.6L19 19",
    "M5 19l1.4-1.4",
    "M17.6 6.4L19 5",
  ],
  moon: ["M20 14.5A8.5 8.5 0 1 1 9.5 4a7 7 0 0 0 10.5 10.5z"],
  system: ["M4 5h16v11H4z", "M9 20h6", "M12 16v4"],
  out: ["M14 4h5v16h-5", "M4 12h10", "M10 8l4 4-4 4"],
  left: ["M15 5l-7 7 7 7"],
  close: ["M6 6l12 12", "M18 6L6 18"],
  warn: ["M12 4l9 16H3z", "M12 10v4", "M12 17h.01"],
  check: ["M5 12.5l4.5 4.5L19 7.500"],
  film: ["M4 5h16v14H4z", "M8 5v14", "M16 5v14", "M4 12h16"],
  grip: ["M9 6l-5 6 5 6", "M15 6l5 6-5 6"],
};

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  for (const d of ICONS[name]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", d);
    svg.append(path);
  }
  return svg;
}

/** A button with an icon; `label` is shown unless `bare`, and then its name and tooltip. */
export function button(name, label, { bare = false, ...properties } = {}) {
  const { class: extra = "", ...rest } = properties;
  return h(
    "button",
    {
      type: "button",
      class: `button ${bare ? "bare" : ""} ${extra}`.trim(),
      ...(bare ? { "aria-label": label, title: label } : {}),
      ...rest,
    },
    name ? icon(name) : null,
    bare ? null : h("span", { text: label }),
  );
}

/** Call `work` at most once a frame, however often the answer is called. */
export function onceAFrame(work) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    const run = () => {
      if (!waiting) return;
      waiting = false;
      work();
    };
    requestAnimationFrame(run);
    setTimeout(run, 250); // a hidden tab has no frames
  };
}

let clearing = 0;

/** Have a screen reader say something, politely. */
export function announce(text) {
  const region = document.getElementById("announcer");
  region.textContent = "";
  clearTimeout(clearing);
  requestAnimationFrame(() => (region.textContent = text));
  clearing = setTimeout(() => (region.textContent = ""), 8000);
}
