// SPDX-License-Identifier: Apache-2.0
// Who is there? Then the gallery, or the door.

import { api, whenSignedOut } from "./api.js";
import { App } from "./app.js";
import { loginPage, refusal, tokenFromAddress } from "./login.js";
import { remember, remembered } from "./theme.js";

const KNOWN = "hvg3d.known";

const page = document.getElementById("page");
let app = null;

function showLogin(message = "") {
  app?.stop();
  app = null;
  document.getElementById("toasts").replaceChildren();
  document.querySelectorAll("dialog[open]").forEach((dialog) => dialog.close());
  const login = loginPage(showGallery, message);
  page.replaceChildren(login.element);
  login.focus();
}

function showGallery() {
  app?.stop();
  remember(KNOWN, "yes");
  app = new App(signOut);
  page.replaceChildren(app.element);
  app.start();
}

async function signOut() {
  remember(KNOWN, "no");
  try {
    await api.signOut();
  } catch {
    // without an answer the cookie stays, but the page closes
  }
  showLogin();
}

async function enter(token) {
  let message = "";
  if (token !== null) {
    try {
      await api.signIn(token);
      return showGallery();
    } catch (error) {
      message = refusal(error);
    }
  }
  // Scripts cannot see the cookie; so as not to ask in vain, the page remembers whether it has ever had one.
  if (remembered(KNOWN) !== "yes") return showLogin(message);
  try {
    await api.health();
  } catch (error) {
    return showLogin(message || (error.status === 401 ? "" : refusal(error)));
  }
  showGallery();
}

whenSignedOut(() => app !== null && showLogin("You were signed out. Enter the token again."));
addEventListener("hashchange", () => {
  const token = tokenFromAddress();
  if (token !== null) enter(token);
});
enter(tokenFromAddress());
