// What can be chosen for the whole page: its theme, and the labels that are shown.

import { element } from "./tiles.js";

const $ = (id) => document.getElementById(id);

export function dark() {
  const { theme } = document.documentElement.dataset;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

// The button that changes the theme; `changed` is called at once, and whenever there is another.
export function themes(changed) {
  const show = () => {
    $("theme").textContent = dark() ? "Light" : "Dark";
    $("theme").setAttribute("aria-label", `Change to the ${dark() ? "light" : "dark"} theme`);
    changed();
  };
  $("theme").addEventListener("click", () => {
    const next = dark() ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem("lowerbound-theme", next);
    } catch {
      // it is forgotten when the page is closed
    }
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  show();
}

// A button for each label, if they are not too many; `chosen` is the set of those that are pressed.
export function legend(labels, chosen, changed) {
  if (!labels || labels.names.length > 20) return;
  const chips = labels.names.map((name, code) => {
    const dot = element("i", { class: "dot" });
    const chip = element("button", { type: "button", class: "chip", "aria-pressed": "false" }, dot, name);
    chip.addEventListener("click", () => {
      if (!chosen.delete(code)) chosen.add(code);
      chip.setAttribute("aria-pressed", chosen.has(code));
      changed();
    });
    return chip;
  });
  $("legend").replaceChildren(...chips);
}

export function tint(colours) {
  document.querySelectorAll("#legend .dot").forEach((dot, code) => (dot.style.background = colours[code]));
}
