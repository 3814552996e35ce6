// Elements from text: whatever a name or a word holds, it becomes a text node or an attribute's value, never markup.

const byId = (id) => document.getElementById(id);

/** An element with attributes (functions become listeners, false and null are left out) and children (elements or text). */
function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}%`;

let byTouch = false; // whether the last thing that was pressed was pressed by a finger
addEventListener("pointerdown", (event) => (byTouch = event.pointerType === "touch"), true);

/** A path in one line, cut in the middle where it does not fit, so that its end, the file's name, stays. */
function pathLine(path) {
  if (path.length <= 22) return [path];
  const end = Math.max(path.lastIndexOf("/") + 1, path.length - 18);
  return [el("span", { class: "path-start" }, path.slice(0, end)), el("span", { class: "path-end" }, path.slice(end))];
}

/** A horizontal bar that fills `share` of its track. The policy forbids style attributes, not styles set by the script. */
function filled(share, classes) {
  const inner = el("i");
  inner.style.width = `${100 * Math.max(0, Math.min(1, share))}%`;
  return el("span", { class: classes, "aria-hidden": "true" }, inner);
}

/** Bytes of a base64 text. */
const decoded = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
