// SPDX-License-Identifier: Apache-2.0
// Before the first paint, so that a chosen theme does not flash in. A classic script: modules run too late for that.
(() => {
  let theme = null;
  try {
    theme = localStorage.getItem("hvg3d.theme");
  } catch {
    // storage is switched off: follow the system
  }
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
})();
