// SPDX-License-Identifier: Apache-2.0
// Dark, light, or as the system says.

const KEY = "hvg3d.theme";
const ORDER = ["system", "light", "dark"];

export function remembered(key, otherwise = null) {
  try {
    return localStorage.getItem(key) ?? otherwise;
  } catch {
    return otherwise; // storage is switched off
  }
}

export function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // then only for as long as the page is open
  }
}

export const theme = () => document.documentElement.dataset.theme ?? "system";

export function setTheme(name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  remember(KEY, name);
}

export function nextTheme() {
  const name = ORDER[(ORDER.indexOf(theme()) + 1) % ORDER.length];
  setTheme(name);
  return name;
}
