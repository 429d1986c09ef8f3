// SPDX-License-Identifier: Apache-2.0
// Dialogs: the browser's own, which keeps the focus inside and gives it back.

import { button, h } from "./dom.js";
import { SHORTCUTS, shortcutsOn, switchShortcuts } from "./keys.js";
import { randomSeed } from "./api.js";

/** Show a dialog; answers with the value of the button that closed it, "" if none did. */
function show(title, content, buttons, { wide = false, describedBy = null } = {}) {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog",
      { class: `dialog ${wide ? "wide" : ""}`, "aria-labelledby": "dialog-title", "aria-describedby": describedBy },
      h(
        "form",
        { method: "dialog" },
        h("h2", { id: "dialog-title", text: title }),
        content,
        h("div", { class: "dialog-buttons" }, buttons),
      ),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close(""));
    document.body.append(dialog);
    dialog.showModal();
  });
}

const closing = (value, text, kind = "") =>
  h("button", { type: "submit", value, class: `button ${kind}`, text, autofocus: kind === "" || null });

export async function confirmDelete(name) {
  const text = h(
    "p",
    { id: "dialog-text" },
    "The video, its preview and its settings are removed from the server. ",
    h("strong", { text: name }),
    " cannot be brought back.",
  );
  return (
    (await show("Delete this result?", text, [closing("", "Keep"), closing("yes", "Delete", "danger")], {
      describedBy: "dialog-text",
    })) === "yes"
  );
}

export async function showKeys() {
  const rows = Object.entries(SHORTCUTS).map(([, { keys, text }]) =>
    h(
      "div",
      {},
      h(
        "dt",
        {},
        keys.map((key) => h("kbd", { text: key })),
      ),
      h("dd", { text }),
    ),
  );
  const toggle = h("input", { type: "checkbox", id: "single-keys" });
  toggle.checked = shortcutsOn();
  toggle.addEventListener("change", () => switchShortcuts(toggle.checked));
  const content = [
    h("dl", { class: "keys" }, rows),
    h("label", { class: "check", for: "single-keys" }, toggle, h("span", { text: "Single-key shortcuts" })),
    h("p", {
      class: "hint",
      text: "In the list: arrow keys, Home, End, Page Up, Page Down; Enter goes to the details. On the wipe: arrow keys, with Shift in larger steps.",
    }),
  ];
  await show("Keyboard", content, [closing("", "Close")], { wide: true });
}

/** Settings of a new take, started from another's; null if nothing is wanted. */
export async function askForTake(request) {
  const number = (name, label, value, attributes, hint = null) => {
    const input = h("input", {
      type: "number",
      id: `take-${name}`,
      name,
      ...attributes,
      "aria-describedby": hint ? `hint-${name}` : null,
    });
    input.value = value ?? "";
    return [
      h(
        "div",
        { class: "field" },
        h("label", { for: `take-${name}`, text: label }),
        input,
        hint ? h("p", { class: "hint", id: `hint-${name}`, text: hint }) : null,
      ),
      input,
    ];
  };
  const prompt = h("textarea", { id: "take-prompt", rows: 3, maxlength: 4000, placeholder: "The clip's own prompt" });
  prompt.value = request.prompt ?? "";
  const [seedField, seed] = number("seed", "Seed", randomSeed(), {
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
    step: 1,
    required: true,
  });
  const [stepsField, steps] = number("steps", "Steps", request.num_inference_steps, {
    min: 1,
    max: 1000,
    step: 1,
    placeholder: "model's own",
  });
  const [guidanceField, guidance] = number("guidance", "Guidance", request.guidance_scale, {
    min: 0,
    max: 50,
    step: "any",
    placeholder: "model's own",
  });
  const [controlField, control] = number("control", "Control strength", request.control_scale, {
    min: 0,
    max: 10,
    step: "any",
    required: true,
  });
  const dice = button("dice", "Another seed", { bare: true, on: { click: () => (seed.value = randomSeed()) } });
  seedField.append(dice);
  seedField.classList.add("with-button");
  const content = h(
    "div",
    { class: "take" },
    h("div", { class: "field" }, h("label", { for: "take-prompt", text: "Prompt" }), prompt),
    h("div", { class: "fields" }, seedField, stepsField, guidanceField, controlField),
  );
  // Enter in a field must not press Cancel, the first button of the form.
  const buttons = [
    closing("go", "Add to queue", "primary"),
    h("button", { type: "submit", value: "", class: "button", text: "Cancel", formnovalidate: true }),
  ];
  if ((await show("New take", content, buttons, { wide: true })) !== "go") return null;
  const optional = (input) => (input.value === "" ? null : Number(input.value));
  return {
    ...request,
    prompt: prompt.value.trim() === "" && request.prompt === null ? null : prompt.value.trim(),
    seed: Number(seed.value),
    num_inference_steps: optional(steps),
    guidance_scale: optional(guidance),
    control_scale: Number(control.value),
  };
}
