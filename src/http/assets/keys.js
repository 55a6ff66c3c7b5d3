// The keyboard. Letters are off in fields, and can be switched off (WCAG 2.1.4).

import { remember, remembered } from "./state.js";

/** Keys and what they do, as the list shows them. */
export const KEYS = /** @type {[string, string][]} */ ([
  ["/", "search"],
  ["g then n m p s e x c", "Now, Metrics, Presence, Senders, Events, Explain, Configuration"],
  ["j k or arrows", "next and previous row"],
  ["Enter", "open the row, or the only result"],
  ["Esc", "back, close"],
  ["p", "pin the series"],
  ["c", "compare the series"],
  ["l", "copy a link to what is shown"],
  ["[ ]", "earlier, later"],
  ["+ -", "zoom in, zoom out"],
  ["0", "back to the range that ends now"],
  ["Space", "pause, go on"],
  ["t", "range of time"],
  ["f", "filter"],
  ["d", "dark or light"],
  [".", "local time or UTC"],
  ["?", "this list"],
  ["in a chart: arrows", "move the crosshair by an interval; with Shift by ten; Home, End"],
]);

/** Where `g` and a letter go. */
export const VIEWS = /** @type {Record<string, string>} */ ({
  n: "/",
  m: "/series",
  p: "/presence",
  s: "/senders",
  e: "/events",
  x: "/explain",
  c: "/config",
});

/** How long `g` waits for its letter, in milliseconds. */
const PAIR = 1500;

/** @param {EventTarget | null} target */
function isField(target) {
  return (
    target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName))
  );
}

/**
 * Moves the focus within an open menu.
 * @param {EventTarget | null} target
 * @param {number} by
 * @returns {boolean} whether there is one
 */
function inMenu(target, by) {
  const menu = target instanceof Element ? target.closest("details.menu[open]") : null;
  if (!menu) {
    return false;
  }
  const entries = /** @type {HTMLElement[]} */ ([...menu.querySelectorAll(":scope > div :is(a[href], button)")]);
  const at = entries.indexOf(/** @type {HTMLElement} */ (target));
  entries[(at < 0 && by < 0 ? entries.length - 1 : at + by + entries.length) % entries.length]?.focus();
  return true;
}

export const lettersAreOn = () => remembered("letters") !== "off";

/**
 * @param {Record<string, (event: KeyboardEvent) => void>} acts by key
 * @param {(path: string) => void} go
 */
export function keyboard(acts, go) {
  let pair = 0;
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) {
      return;
    }
    const { key, target } = event;
    if (isField(target)) {
      const isSearch =
        target instanceof HTMLInputElement &&
        (target.dataset.search !== undefined || target.dataset.filter !== undefined);
      if (key === "Escape") {
        acts.fieldEscape?.(event);
      } else if (isSearch && (key === "ArrowDown" || key === "ArrowUp")) {
        acts[key]?.(event);
      } else if (isSearch && key === "Enter") {
        acts.fieldEnter?.(event);
      }
      return;
    }
    const isModal = document.querySelector("dialog[open]") !== null;
    if (isModal) {
      return;
    }
    if ((key === "ArrowDown" || key === "ArrowUp") && inMenu(target, key === "ArrowDown" ? 1 : -1)) {
      event.preventDefault();
      return;
    }
    const isLetter = key.length === 1 && key !== " ";
    if (isLetter && !lettersAreOn() && key !== "?") {
      return;
    }
    if (pair && Date.now() - pair < PAIR && VIEWS[key]) {
      pair = 0;
      event.preventDefault();
      go(VIEWS[key]);
      return;
    }
    pair = key === "g" ? Date.now() : 0;
    const isControl =
      target instanceof HTMLElement && target.closest("a,button,summary,[role=slider],[role=button]") !== null;
    if ((key === " " || key === "Enter" || key.startsWith("Arrow")) && isControl) {
      return;
    }
    acts[key]?.(event);
  });
}

/** The list of keys. */
export function keyList() {
  let dialog = /** @type {HTMLDialogElement | null} */ (document.querySelector("dialog.keys"));
  if (!dialog) {
    dialog = document.createElement("dialog");
    dialog.className = "keys";
    dialog.setAttribute("aria-labelledby", "keys-title");
    const title = document.createElement("h2");
    title.id = "keys-title";
    title.textContent = "Keyboard";
    const list = document.createElement("dl");
    for (const [keys, what] of KEYS) {
      const term = document.createElement("dt");
      const kbd = document.createElement("kbd");
      kbd.textContent = keys;
      term.append(kbd);
      const text = document.createElement("dd");
      text.textContent = what;
      list.append(term, text);
    }
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = lettersAreOn();
    box.addEventListener("change", () => remember("letters", box.checked ? null : "off"));
    label.append(box, " Single keys are on");
    const close = document.createElement("button");
    close.type = "button";
    close.textContent = "Close";
    close.addEventListener("click", () => dialog?.close());
    dialog.append(title, list, label, close);
    document.body.append(dialog);
  }
  dialog.open ? dialog.close() : dialog.showModal();
}

/**
 * Copies a text; without a clipboard (plain HTTP, not from this machine) shows it selected.
 * @param {string} text
 * @returns {Promise<boolean>} whether it is on the clipboard
 */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const dialog = document.createElement("dialog");
    dialog.className = "keys";
    const label = document.createElement("label");
    label.textContent = "Copy this";
    const field = document.createElement("input");
    field.readOnly = true;
    field.value = text;
    label.append(field);
    const close = document.createElement("button");
    close.type = "button";
    close.textContent = "Close";
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => dialog.remove());
    dialog.append(label, close);
    document.body.append(dialog);
    dialog.showModal();
    field.select();
    return false;
  }
}
