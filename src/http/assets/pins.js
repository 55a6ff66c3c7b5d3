// Charts that a reader collects: pinned series, and series compared in one chart.

import { made } from "./chart.js";
import { fieldUnit } from "./format.js";
import { parseId, seriesUrl } from "./ids.js";
import { pins, remember, state, update } from "./state.js";
import { carry } from "./url.js";

/** Most pinned series, and most compared ones. */
const MOST = 8;

/** @param {string} id */
export function togglePin(id) {
  const now = pins();
  const next = now.includes(id) ? now.filter((one) => one !== id) : [...now, id].slice(-MOST);
  remember("pins", next.length ? JSON.stringify(next) : null);
  update({ pin: next });
}

/** @param {string} id */
export function toggleCompare(id) {
  const now = state().cmp;
  update({ cmp: now.includes(id) ? now.filter((one) => one !== id) : [...now, id].slice(-MOST) });
}

/**
 * Pinned series of this browser go into the URL, so that a copied link has them.
 */
export function adoptPins() {
  if (document.querySelector("[data-pins]") && !state().pin.length && pins().length) {
    update({ pin: pins() });
  }
}

/**
 * @param {string} key
 * @param {string} type
 * @param {string[]} ids
 */
function figure(key, type, ids) {
  const made = document.createElement("figure");
  made.className = "card";
  made.dataset.key = key;
  made.dataset.chart = type;
  made.dataset.ids = JSON.stringify(ids);
  made.append(document.createElement("figcaption"));
  const plot = document.createElement("div");
  plot.className = "plot";
  made.append(plot);
  return made;
}

/**
 * @param {string} text
 * @param {string} label
 * @param {() => void} act
 */
function button(text, label, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "plain";
  made.textContent = text;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

/** @param {string} id */
function pinned(id) {
  const { kind, name, tags } = parseId(id);
  const isTimer = !["counter", "gauge", "set", "kv"].includes(kind);
  const out = figure(`pin ${id}`, kind === "counter" ? "area" : "line", [id]);
  out.dataset.small = "";
  const caption = /** @type {HTMLElement} */ (out.querySelector("figcaption"));
  const link = /** @type {HTMLAnchorElement} */ (made("a", "name", name));
  link.href = carry(state(), seriesUrl(kind, name, tags));
  const detail = made("span", "sub", tags.map(([key, value]) => (value === null ? key : `${key}:${value}`)).join(" "));
  caption.append(
    link,
    detail,
    button("✕", `Unpin ${name}`, () => togglePin(id)),
  );
  if (isTimer) {
    out.dataset.unit = fieldUnit(kind, "max");
  }
  const plot = /** @type {HTMLElement} */ (out.querySelector(".plot"));
  plot.classList.add("low");
  return out;
}

/**
 * Compared series, one chart for each unit, because one axis has one unit.
 * @param {string[]} ids
 */
function compared(ids) {
  /** @type {Map<string, string[]>} */
  const groups = new Map();
  for (const id of ids) {
    const { kind } = parseId(id);
    const group = kind === "counter" ? "per second" : kind === "timer" ? "milliseconds" : "values";
    groups.set(group, [...(groups.get(group) ?? []), id]);
  }
  return [...groups].map(([group, members]) => {
    const out = figure(`compare ${group}`, "line", members);
    out.dataset.compare = "";
    out.classList.add("wide-figure");
    const caption = /** @type {HTMLElement} */ (out.querySelector("figcaption"));
    caption.append(
      made("h2", "", "Compared"),
      made("span", "sub", group),
      button("Clear", "Compare nothing", () => update({ cmp: [] })),
    );
    return out;
  });
}

/** Makes the charts in `[data-pins]` those of the URL; whether something changed. */
export function drawPins() {
  const home = /** @type {HTMLElement | null} */ (document.querySelector("[data-pins]"));
  if (!home) {
    return false;
  }
  const { pin, cmp } = state();
  const wanted = JSON.stringify([pin, cmp]);
  if (home.dataset.shown === wanted) {
    return false;
  }
  home.dataset.shown = wanted;
  home.dataset.kept = "";
  const known = new Map([...home.children].map((child) => [/** @type {HTMLElement} */ (child).dataset.key, child]));
  const next = [...(cmp.length ? compared(cmp) : []), ...pin.slice(0, MOST).map(pinned)];
  home.replaceChildren(
    ...next.map((one) => {
      const old = /** @type {HTMLElement | undefined} */ (known.get(one.dataset.key));
      return old && old.dataset.ids === one.dataset.ids ? old : one;
    }),
  );
  return true;
}
