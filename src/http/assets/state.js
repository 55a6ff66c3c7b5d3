// The state of this page: what lies in the URL, and what this browser remembers.

import { parse, write } from "./url.js";

/** @typedef {import("./url.js").State} State */

/** @type {State} */
let current = parse(location.search);

/** @type {((now: State, before: State) => void)[]} */
const listeners = [];

/** @returns {State} */
export function state() {
  return current;
}

/**
 * Called after every change, also by the browser's Back.
 * @param {(now: State, before: State) => void} listener
 */
export function onChange(listener) {
  listeners.push(listener);
}

/**
 * @param {Partial<State>} patch
 * @param {{ push?: boolean }} [options] `push`: Back returns to what was before
 */
export function update(patch, { push = false } = {}) {
  const before = current;
  const next = { ...before, ...patch };
  const query = write(next, location.search);
  if (query === location.search && JSON.stringify(next) === JSON.stringify(before)) {
    return;
  }
  current = next;
  history[push ? "pushState" : "replaceState"](null, "", `${location.pathname}${query}`);
  for (const listener of listeners) {
    listener(current, before);
  }
}

/**
 * Another query, of a form for example.
 * @param {string} query with its `?`, or empty
 */
export function replaceQuery(query) {
  const before = current;
  history.replaceState(null, "", `${location.pathname}${query}`);
  current = parse(query);
  for (const listener of listeners) {
    listener(current, before);
  }
}

addEventListener("popstate", () => {
  const before = current;
  current = parse(location.search);
  for (const listener of listeners) {
    listener(current, before);
  }
});

/**
 * What this browser remembers under a name.
 * @param {string} name
 * @returns {string | null}
 */
export function remembered(name) {
  try {
    return localStorage.getItem(`systole-${name}`);
  } catch {
    return null;
  }
}

/**
 * @param {string} name
 * @param {string | null} value `null` to forget it
 */
export function remember(name, value) {
  try {
    value === null ? localStorage.removeItem(`systole-${name}`) : localStorage.setItem(`systole-${name}`, value);
  } catch {
    // Storage may be forbidden or full: then nothing is remembered.
  }
}

/** Series that are pinned: those of the URL, else those this browser remembers. */
export function pins() {
  if (current.pin.length) {
    return current.pin;
  }
  try {
    const kept = JSON.parse(remembered("pins") ?? "[]");
    return Array.isArray(kept) ? kept.filter((id) => typeof id === "string").slice(0, 20) : [];
  } catch {
    return [];
  }
}
