// Times of the page in the zone of the reader, and the beat: how far the open interval is.

import { clock, date, duration } from "./format.js";
import { daemonNow } from "./history.js";
import { state } from "./state.js";

/** Writes the times of the page in the zone that is chosen. */
export function localize() {
  const { utc } = state();
  const zone = utc ? "UTC" : Intl.DateTimeFormat().resolvedOptions().timeZone || "local time";
  for (const element of document.querySelectorAll("[data-t]")) {
    const time = Number(element.getAttribute("data-t"));
    const format = element.getAttribute("data-f") ?? "s";
    const text = format === "d" ? `${date(time, utc)} ${clock(time, utc, false)}` : clock(time, utc, format !== "m");
    if (element.textContent !== text) {
      element.textContent = text;
    }
    element.setAttribute("data-shown", element.getAttribute("data-t") ?? "");
    if (element instanceof HTMLElement && !element.title) {
      element.title = `${date(time, true)} ${clock(time, true)} UTC`;
    }
  }
  // Beside a time in UTC.
  for (const element of document.querySelectorAll("[data-local]")) {
    const time = Number(element.getAttribute("data-local"));
    const text = utc || zone === "UTC" ? "" : ` (${date(time, false)} ${clock(time, false)} ${zone})`;
    if (element.textContent !== text) {
      element.textContent = text;
    }
  }
  for (const element of document.querySelectorAll("[data-zone]")) {
    if (element.textContent !== zone) {
      element.textContent = zone;
    }
  }
}

/** @param {number} now Unix seconds; counts up what lies behind and down what is due */
export function tick(now) {
  for (const element of document.querySelectorAll("[data-ago]")) {
    const then = Number(element.getAttribute("data-ago"));
    const text = `${duration(Math.max(0, Math.round(now - then)))} ago`;
    if (/ ago$/.test(element.textContent ?? "") && element.textContent !== text) {
      element.textContent = text;
    }
  }
  for (const element of document.querySelectorAll("[data-due]")) {
    const due = Number(element.getAttribute("data-due"));
    const found = /^(.*\bin )\d.*$/.exec(element.textContent ?? "");
    if (found && due > now) {
      const text = `${found[1]}${duration(Math.ceil(due - now))}`;
      if (element.textContent !== text) {
        element.textContent = text;
      }
    }
  }
}

/**
 * Fills the line under the header until the next flush.
 * @param {number} last end of the last closed interval, Unix seconds
 * @param {number} interval seconds
 * @param {boolean} isRunning
 */
export function beat(last, interval, isRunning) {
  const bar = /** @type {HTMLElement | null} */ (document.querySelector(".beat i"));
  if (!bar) {
    return;
  }
  for (const animation of bar.getAnimations()) {
    animation.cancel();
  }
  const done = Math.min(1, Math.max(0, (daemonNow() - last) / interval));
  if (!isRunning || interval < 1) {
    bar.style.transform = "scaleX(0)";
  } else if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
    bar.style.transform = "scaleX(1)";
  } else {
    bar.style.transition = "none";
    bar.style.transform = "scaleX(1)";
    bar.animate([{ transform: `scaleX(${done})` }, { transform: "scaleX(1)" }], {
      duration: (1 - done) * interval * 1000,
    });
  }
}
