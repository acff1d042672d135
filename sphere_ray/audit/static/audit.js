// Keys press the buttons of the page: every element with data-key says which. Nothing else happens
// here, so all of it works with the mouse, with Tab and Enter, and without this script.
"use strict";

const STORE = "audit-keys";
const keyed = [...document.querySelectorAll("[data-key]")];
const toggle = document.getElementById("use-keys");
const scopes = [...document.querySelectorAll("[data-scope]")];
let busy = false;

const stored = () => {
  try { return localStorage.getItem(STORE); } catch { return null; }
};
const label = (element) =>
  (element.closest("label") || element).firstChild.textContent.trim() || element.textContent.trim();

const seen = new Set();
for (const element of keyed) {
  const key = element.dataset.key;
  element.setAttribute("aria-keyshortcuts", key);
  if (element.matches("button, .button, summary, nav a")) {
    const hint = document.createElement("kbd");
    hint.textContent = key;
    hint.setAttribute("aria-hidden", "true");
    element.append(hint);
  }
  if (!seen.has(key)) {
    seen.add(key);
    const term = document.createElement("dt");
    const what = document.createElement("dd");
    term.textContent = key;
    what.textContent = label(element);
    document.getElementById("keys").append(term, what);
  }
}

toggle.checked = stored() !== "off";
toggle.addEventListener("change", () => {
  try { localStorage.setItem(STORE, toggle.checked ? "on" : "off"); } catch { /* private mode */ }
});

function press(key) {
  const here = document.activeElement && document.activeElement.closest("[data-scope]");
  const scope = here || scopes[0];
  const own = keyed.filter((element) => element.dataset.key === key);
  const target = own.find((element) => scope && scope.contains(element)) || own[0];
  if (!target) return false;
  if (target.matches("input, textarea")) target.focus();
  else target.click();
  return true;
}

function walk(by) {
  const at = scopes.indexOf(document.activeElement && document.activeElement.closest("[data-scope]"));
  const items = scopes.length ? scopes : [...document.querySelectorAll("[data-item]")];
  const from = scopes.length ? at : items.indexOf(document.activeElement);
  const next = items[Math.min(Math.max(from + by, 0), items.length - 1)];
  if (!next) return false;
  next.focus();
  next.scrollIntoView({ block: "nearest" });
  return true;
}

function open_all() {
  const all = [...document.querySelectorAll("details.siblings")];
  const opened = all.every((each) => each.open);
  for (const each of all) each.open = !opened;
  return all.length > 0;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const field = event.target.closest("textarea, select, input:not([type=checkbox])");
  if (field) {
    if (event.key === "Escape") field.blur();
    return;
  }
  if (!toggle.checked || busy) return;
  if (event.key === "Enter" && event.target !== document.body) return;
  const does = { j: () => walk(1), k: () => walk(-1), e: open_all }[event.key];
  if (does ? does() : press(event.key)) event.preventDefault();
});

// A key that is held must not decide the next pair too.
document.addEventListener("submit", (event) => {
  if (busy) event.preventDefault();
  else busy = event.target.method === "post";
});
window.addEventListener("pageshow", () => { busy = false; });
