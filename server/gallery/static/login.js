// SPDX-License-Identifier: Apache-2.0
// The door: nothing else is on the page until the server knows this browser.

import { api } from "./api.js";
import { h, icon } from "./dom.js";
import { logo } from "./header.js";

/** The token in the address bar's fragment, which is taken out at once: it belongs in no history and no screenshot. */
export function tokenFromAddress() {
  const found = /^#token=([^&]+)/.exec(location.hash);
  if (found === null) return null;
  history.replaceState(null, "", location.pathname + location.search);
  return decodeURIComponent(found[1]);
}

/** What to tell somebody whose token did not work. */
export function refusal(error) {
  if (error.code === "wrong_token")
    return "That token is not this server's. A link works once and only for 15 minutes; the token itself always works.";
  if (error.status === 401) return "The server needs a token.";
  return [error.message, error.remedy].filter(Boolean).join(" ");
}

/** The form; `done()` once there is a session. */
export function loginPage(done, message = "") {
  const alert = h("p", { class: "login-problem", id: "login-problem", role: "alert" });
  const input = h("input", {
    type: "password",
    id: "token",
    name: "token",
    autocomplete: "current-password",
    spellcheck: "false",
    autocapitalize: "none",
    "aria-describedby": "login-problem login-help",
    required: true,
  });
  const submit = h("button", { type: "submit", class: "button primary", text: "Open the gallery" });
  const refuse = (text) => {
    alert.replaceChildren(...(text ? [icon("warn"), h("span", { text })] : []));
    input.setAttribute("aria-invalid", String(Boolean(text)));
  };
  const form = h(
    "form",
    {
      class: "login-card",
      novalidate: true,
      on: {
        submit: async (event) => {
          event.preventDefault();
          const token = input.value.trim();
          if (!token) {
            refuse("Enter the token.");
            input.focus();
            return;
          }
          submit.disabled = true;
          refuse("");
          try {
            await api.signIn(token);
            done();
          } catch (error) {
            refuse(refusal(error));
            submit.disabled = false;
            input.select();
            input.focus();
          }
        },
      },
    },
    h("div", { class: "login-brand" }, logo(), h("h1", { text: "HVG-3D" })),
    h("p", { class: "login-lead", text: "This server shows its queue and results to those who have its token." }),
    h("div", { class: "field" }, h("label", { for: "token", text: "Token" }), input),
    alert,
    submit,
    h(
      "p",
      { class: "hint", id: "login-help" },
      "The server prints a link that opens this page without typing. The token is the word in the file ",
      h("code", { text: "token" }),
      " in the server's folder.",
    ),
  );
  if (message) refuse(message);
  return { element: h("main", { class: "login" }, form), focus: () => input.focus() };
}
