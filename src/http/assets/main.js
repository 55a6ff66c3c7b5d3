// The page comes served and complete; this makes it live: charts, the stream, search, the keyboard.

import { made } from "./chart.js";
import { Charts } from "./charts.js";
import { clock, duration } from "./format.js";
import { ask, daemonNow, tellTime } from "./history.js";
import { copy, keyboard, keyList } from "./keys.js";
import { Live } from "./live.js";
import { adoptPins, drawPins, toggleCompare, togglePin } from "./pins.js";
import { onChange, remember, remembered, replaceQuery, state, update } from "./state.js";
import { Stream } from "./stream.js";
import { SeriesTable } from "./table.js";
import { Tail } from "./tail.js";
import { beat, localize, tick } from "./times.js";
import { carry, RANGES } from "./url.js";

const root = document.documentElement;

/** Pause after the last key before fragments are fetched, in milliseconds. */
const TYPING = 250;

if (root.dataset.now) {
  tellTime(Number(root.dataset.now));
}
const charts = new Charts();
const live = new Live(swapped);
/** @type {SeriesTable | null} */
let table = null;
/** @type {Map<HTMLElement, Tail>} */
const tails = new Map();
const stream = new Stream({ interval, event, presence, gap, open, closed }, seconds());

/** When the daemon last answered, Unix seconds. */
let heard = Date.now() / 1000;
/** When the next attempt comes; 0 while all is well. */
let nextAttempt = 0;

function seconds() {
  return Number(root.dataset.interval) || 10;
}

function isLive() {
  return state().live && state().from === null;
}

/** After fragments were exchanged, and at the start. */
function swapped() {
  localize();
  adopt();
  mark();
  drawPins();
  words();
  for (const list of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-tail]"))) {
    const tail = tails.get(list) ?? new Tail(list);
    tails.set(list, tail);
    tail.pause(!state().live);
  }
  if (charts.scan()) {
    void load();
  }
}

/** Takes over the table of series, as soon as there is one. */
function adopt() {
  const found = /** @type {HTMLTableElement | null} */ (document.querySelector("table[data-series]"));
  if (found && found !== table?.table) {
    table = new SeriesTable(found);
    void table.search();
  }
}

/** Charts from the history; what goes wrong shows as no answer. */
async function load() {
  try {
    await charts.load();
    answered();
  } catch {
    silent();
  }
}

/**
 * Everything, as of the last interval.
 * @param {number} [time] its end, if it is known
 */
async function renew(time) {
  const [isThere] = await Promise.all([
    live.refresh(),
    charts.tail(time).catch(() => undefined),
    table?.refresh().catch(() => undefined),
  ]);
  isThere ? answered() : silent();
}

/** @param {{ time: number, interval: number }} message */
function interval(message) {
  answered();
  root.dataset.last = String(message.time);
  // The beat goes by the setting; an interval as measured is never quite that.
  beat(message.time, seconds(), isLive());
  if (isLive()) {
    void renew(message.time);
  }
}

/** @param {any} message */
function event(message) {
  charts.addEvents([message]);
  isLive() && live.soon(300);
}

function presence() {
  isLive() && live.soon(300);
}

function gap() {
  isLive() && void renew();
}

function open() {
  answered();
  if (isLive()) {
    void renew();
    void events();
  }
}

/** @param {number} wait */
function closed(wait) {
  nextAttempt = Date.now() / 1000 + wait;
  // The stream may be refused while the daemon is there (64 are open): then pages are asked for instead.
  if (isLive()) {
    void renew();
  } else {
    void fetch("/health").then(answered, silent);
  }
}

function answered() {
  heard = Date.now() / 1000;
  if (root.dataset.offline !== undefined) {
    delete root.dataset.offline;
    if (document.title === offlineTitle()) {
      document.title = lastTitle;
    }
    const line = /** @type {HTMLElement | null} */ (document.querySelector("[data-offline-text]"));
    if (line) {
      line.hidden = true;
    }
    words();
    beat(Number(root.dataset.last), seconds(), isLive());
  }
}

/** The title of the page as it was served last. */
let lastTitle = document.title;

function offlineTitle() {
  return `✕ no answer · ${root.dataset.node}`;
}

function silent() {
  if (root.dataset.offline === undefined) {
    lastTitle = document.title;
  }
  root.dataset.offline = "";
  document.title = offlineTitle();
  beat(0, seconds(), false);
  missing();
  words();
}

/** What is said while there is no answer: read out once, and counted on for the eyes. */
function missing() {
  const line = /** @type {HTMLElement | null} */ (document.querySelector("[data-offline-text]"));
  if (!line || root.dataset.offline === undefined) {
    return;
  }
  const now = Date.now() / 1000;
  const last = Number(root.dataset.last);
  const from = last ? ` What you see is from ${clock(last, state().utc)}.` : "";
  if (line.hidden || line.children.length !== 2) {
    const ears = made("span", "hide", `No answer from the daemon.${from}`);
    const eyes = made("span", "");
    eyes.setAttribute("aria-hidden", "true");
    line.replaceChildren(ears, eyes);
    line.hidden = false;
  }
  const wait = nextAttempt > now ? ` Trying again in ${duration(Math.ceil(nextAttempt - now))}.` : " Trying again.";
  line.lastElementChild?.replaceChildren(
    made("b", "", `No answer for ${duration(Math.round(now - heard))}.`),
    wait + from,
  );
}

/** Words of the header: range, Live, Paused, Offline. */
function words() {
  const now = state();
  const isOffline = root.dataset.offline !== undefined;
  const mode = isOffline ? "offline" : isLive() ? "live" : "paused";
  for (const button of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-act=live]"))) {
    button.dataset.state = mode;
    const text = button.querySelector("[data-live-text]");
    if (text) {
      text.textContent = { offline: "Offline", live: "Live", paused: "Paused" }[mode];
    }
    button.setAttribute("aria-pressed", String(mode === "live"));
  }
  for (const text of document.querySelectorAll("[data-range-text]")) {
    if (now.from !== null && now.to !== null) {
      text.textContent = `${clock(now.from, now.utc, false)} to ${clock(now.to, now.utc, false)}`;
    } else {
      const words = now.range.replace(/(\d+)m$/, "$1 min").replace(/(\d+)([hsd])$/, "$1 $2");
      const more = document.createElement("span");
      more.className = "more";
      more.textContent = "Last ";
      text.replaceChildren(more, words);
    }
  }
  for (const link of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("a[data-sort]"))) {
    const isOn = link.dataset.sort === (now.sort || "name");
    isOn ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
  }
  for (const link of document.querySelectorAll("details[data-menu=range] a")) {
    const range = new URL(/** @type {HTMLAnchorElement} */ (link).href).searchParams.get("range") ?? "30m";
    now.from === null && range === now.range
      ? link.setAttribute("aria-current", "true")
      : link.removeAttribute("aria-current");
  }
}

async function events() {
  try {
    const answer = await ask("/api/v1/events?limit=200");
    charts.addEvents(answer.events);
  } catch {
    // Charts do without flags.
  }
}

function themeOf() {
  return root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

function otherTheme() {
  const next = themeOf() === "dark" ? "light" : "dark";
  root.dataset.theme = next;
  remember("theme", next);
  charts.restyle();
}

function pause() {
  if (state().from !== null) {
    charts.reset();
    update({ live: true });
  } else {
    update({ live: !state().live });
  }
}

async function copyLink() {
  const { from, to } = charts.window;
  const url = new URL(location.href);
  url.searchParams.delete("range");
  url.searchParams.set("from", from.toFixed(0));
  url.searchParams.set("to", to.toFixed(0));
  if (await copy(url.href)) {
    said("Link copied");
  }
}

/** @param {string} text says it once, to ears and eyes, beside what is there */
function said(text) {
  let line = document.querySelector("output.said-once");
  if (!line) {
    line = document.createElement("output");
    line.className = "said-once";
    document.body.append(line);
  }
  line.textContent = text;
  setTimeout(() => {
    if (line?.textContent === text) {
      line.textContent = "";
    }
  }, 2500);
}

/** The series that keys and buttons mean: selected in the table, or the one whose page this is. */
function meant() {
  return state().sel || /** @type {HTMLElement | null} */ (document.querySelector(".title[data-id]"))?.dataset.id || "";
}

/** @param {string} id */
function pin(id) {
  if (id) {
    togglePin(id);
    said(state().pin.includes(id) ? "Pinned" : "Unpinned");
  }
}

/** @param {string} id */
function compare(id) {
  if (!id) {
    return;
  }
  if (document.querySelector("[data-pins]")) {
    toggleCompare(id);
  } else {
    location.href = carry(
      state(),
      `/series?${new URLSearchParams([["cmp", id], ...state().cmp.map((one) => ["cmp", one])])}`,
    );
  }
}

/** @type {HTMLElement | null} the row that the keyboard is at */
let cursor = null;

/** Views whose rows need not be links to be walked. */
const READ_ROW_BY_ROW = ["events", "config"];

/** Rows of tables and lists that the keyboard walks, in their order. */
function walked() {
  const isRead = READ_ROW_BY_ROW.includes(root.dataset.view ?? "");
  return /** @type {HTMLElement[]} */ ([...document.querySelectorAll("main tbody tr, main .log li")]).filter(
    (one) =>
      one.offsetParent !== null &&
      !one.closest(".chart-table") &&
      (one.querySelector("a[href]") !== null || (isRead && (one.matches("li") || one.querySelector("td") !== null))),
  );
}

/** Marks the row that the keyboard is at, also after a refresh. */
function mark() {
  cursor = cursor?.isConnected ? cursor : null;
  cursor?.classList.add("sel");
}

/** @param {number} by */
function row(by) {
  if (table) {
    table.move(by);
    return;
  }
  const rows = walked();
  const focused = rows.findIndex((one) => one.contains(document.activeElement));
  const at = focused >= 0 ? focused : cursor ? rows.indexOf(cursor) : -1;
  const next = rows[Math.max(0, Math.min(rows.length - 1, at < 0 ? 0 : at + by))];
  if (!next) {
    return;
  }
  cursor?.classList.remove("sel");
  cursor = next;
  mark();
  const link = /** @type {HTMLElement | null} */ (next.querySelector("a[href]"));
  if (!link) {
    next.tabIndex = -1;
  }
  (link ?? next).focus({ preventScroll: true });
  next.scrollIntoView({ block: "nearest" });
}

function openRow() {
  const href = table
    ? table.selected
    : /** @type {HTMLAnchorElement | null | undefined} */ (cursor?.querySelector("a[href]"))?.href;
  if (href) {
    location.href = href;
  }
}

function leave() {
  const menu = document.querySelector("details.menu[open]");
  if (menu) {
    menu.removeAttribute("open");
    menu.querySelector("summary")?.focus();
  } else if (charts.cross) {
    charts.point(null);
  } else if (root.dataset.view === "metrics" && location.pathname !== "/series") {
    // Back to the list as it was; the browser's own Back may be a zoom.
    const list = `${location.origin}/series`;
    const isFromList = document.referrer === list || document.referrer.startsWith(`${list}?`);
    location.assign(isFromList ? document.referrer : carry(state(), "/series"));
  } else if (state().sel) {
    update({ sel: "" });
    table?.restyle();
  } else if (above()) {
    location.assign(carry(state(), above()));
  } else {
    wider();
  }
}

/** The view that this one is a part of; empty if it is one of its own. */
function above() {
  const parts = location.pathname.split("/").filter(Boolean);
  if (parts[0] === "presence" && parts.length > 1) {
    return `/${parts.slice(0, -1).join("/")}`;
  }
  const service = parts[0] === "maintenance" ? state().q : "";
  return service ? `/presence/${encodeURIComponent(service)}` : "";
}

/** Takes away what narrows the list: the search, then the sender or the state that is chosen. */
function wider() {
  if (state().q) {
    update({ q: "" });
    return;
  }
  const query = new URLSearchParams(location.search);
  const narrowing = ["sender", "state", "tag", "prefix", "kind"].filter((name) => query.has(name));
  if (narrowing.length) {
    for (const name of narrowing) {
      query.delete(name);
    }
    replaceQuery(query.size ? `?${query}` : "");
  }
}

/** @param {KeyboardEvent} event */
function fieldEscape(event) {
  const field = /** @type {HTMLInputElement} */ (event.target);
  if (field.value && field.dataset.search === "series") {
    field.value = "";
    field.dispatchEvent(new Event("input", { bubbles: true }));
  } else {
    field.blur();
  }
}

/** Enter in the search of series opens what is selected, or the only one that is found. @param {KeyboardEvent} event */
function fieldEnter(event) {
  const field = /** @type {HTMLInputElement} */ (event.target);
  if (table && field.dataset.search === "series") {
    event.preventDefault();
    void table.enter().then((href) => href && location.assign(href));
  }
}

/** @param {string} selector */
function focus(selector) {
  const field = /** @type {HTMLInputElement | null} */ (document.querySelector(selector));
  field?.focus();
  field?.select?.();
  return field !== null;
}

/** @param {string} key */
function menu(key) {
  const details = /** @type {HTMLDetailsElement | null} */ (document.querySelector(`details[data-menu="${key}"]`));
  if (details) {
    details.open = !details.open;
    /** @type {HTMLElement | null} */ (details.querySelector(details.open ? "a" : "summary"))?.focus();
  }
}

/** @type {Record<string, () => void>} what keys do */
const acts = {
  "/": () => focus("main [data-search]") || focus("[data-search=global]"),
  f: () => focus("[data-filter], main input[name=q]"),
  j: () => row(1),
  k: () => row(-1),
  ArrowDown: () => row(1),
  ArrowUp: () => row(-1),
  Enter: openRow,
  Escape: leave,
  p: () => pin(meant()),
  c: () => compare(meant()),
  l: () => void copyLink(),
  "[": () => charts.move({ shift: -0.5 }),
  "]": () => charts.move({ shift: 0.5 }),
  "+": () => charts.move({ zoom: 0.5 }),
  "=": () => charts.move({ zoom: 0.5 }),
  "-": () => charts.move({ zoom: 2 }),
  0: () => charts.reset(),
  " ": pause,
  t: () => menu("range"),
  d: otherTheme,
  ".": () => update({ utc: !state().utc }),
  "?": keyList,
};

keyboard(
  {
    ...Object.fromEntries(
      Object.entries(acts).map(([key, act]) => [
        key,
        (/** @type {KeyboardEvent} */ event) => {
          event.preventDefault();
          act();
        },
      ]),
    ),
    fieldEscape,
    fieldEnter,
  },
  (path) => location.assign(carry(state(), path)),
);

/** @type {Record<string, (button: HTMLElement) => void>} what buttons do */
const buttons = {
  live: pause,
  pause,
  theme: otherTheme,
  help: keyList,
  keys: keyList,
  zone: () => update({ utc: !state().utc }),
  link: () => void copyLink(),
  "copy-link": () => void copyLink(),
  pin: (button) => pin(button.dataset.id || meant()),
  compare: (button) => compare(button.dataset.id || meant()),
  linear: () => update({ log: false }),
  log: () => update({ log: true }),
  copy: async (button) => {
    if (await copy(button.dataset.text ?? "")) {
      said("Copied");
    }
  },
};

document.addEventListener("click", (event) => {
  const target = /** @type {Element} */ (event.target);
  const button = /** @type {HTMLElement | null} */ (target.closest("button[data-act]"));
  if (button) {
    buttons[button.dataset.act ?? ""]?.(button);
    return;
  }
  for (const details of document.querySelectorAll("details.menu[open]")) {
    if (!details.contains(target)) {
      details.removeAttribute("open");
    }
  }
  const link = /** @type {HTMLAnchorElement | null} */ (target.closest("a[href]"));
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || link.origin !== location.origin) {
    return;
  }
  const wanted = new URL(link.href);
  const range = wanted.searchParams.get("range") ?? "30m";
  if (link.closest("details[data-menu=range]") && RANGES[range]) {
    event.preventDefault();
    link.closest("details")?.removeAttribute("open");
    update({ range, from: null, to: null, live: true }, { push: true });
  } else if ((link.dataset.sort || link.closest("[data-facets], .narrow")) && wanted.pathname === location.pathname) {
    event.preventDefault();
    replaceQuery(wanted.search);
  } else if (link.pathname.startsWith("/") && link.closest("nav, .verdict, main")) {
    link.href = carry(state(), `${link.pathname}${link.search}`);
  }
});

document.addEventListener("input", (event) => {
  const field = /** @type {HTMLInputElement} */ (event.target);
  const isForm = field.form?.dataset.liveForm !== undefined && field.name !== "";
  if (field.dataset.filter !== undefined || (field.dataset.search ?? "global") !== "global") {
    update({ q: field.value });
  } else if (isForm && field.form) {
    const fields = new URLSearchParams(location.search);
    for (const name of new Set([...new FormData(field.form).keys()])) {
      fields.delete(name);
    }
    for (const [name, value] of new FormData(field.form)) {
      typeof value === "string" && value && fields.append(name, value);
    }
    const text = fields.toString();
    replaceQuery(text ? `?${text}` : "");
  }
});

document.addEventListener("submit", (event) => {
  const form = /** @type {HTMLFormElement} */ (event.target);
  const isLiveField = form.querySelector("[data-filter], [data-search]:not([data-search=global])") !== null;
  if (form.method === "get" && (isLiveField || form.dataset.liveForm !== undefined)) {
    event.preventDefault();
    live.soon(0);
  }
});

onChange((now, before) => {
  const isOther = (/** @type {(keyof typeof now)[]} */ ...keys) =>
    keys.some((key) => String(now[key]) !== String(before[key]));
  words();
  if (isOther("utc")) {
    localize();
  }
  if (isOther("range", "from", "to")) {
    void load();
    live.soon(0);
  } else if (isOther("log", "utc")) {
    charts.rebuild();
  }
  if (isOther("live", "range", "from", "to")) {
    beat(Number(root.dataset.last), seconds(), isLive());
    for (const tail of tails.values()) {
      tail.pause(!now.live);
    }
    if (isLive()) {
      void renew();
    }
  }
  if (isOther("pin", "cmp") && drawPins() && charts.scan()) {
    void load();
  }
  table?.restyle();
  const field = /** @type {HTMLInputElement | null} */ (document.querySelector("main [data-search], [data-filter]"));
  if (field && field.value !== now.q && document.activeElement !== field) {
    field.value = now.q;
  }
  table?.typed();
  live.soon(isOther("sel") ? 80 : TYPING);
});

for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)", "(prefers-contrast: more)"]) {
  matchMedia(query).addEventListener("change", () => charts.restyle());
}
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) {
    beat(Number(root.dataset.last), seconds(), isLive());
  }
});
setInterval(() => {
  if (!document.hidden) {
    isLive() && tick(daemonNow());
    missing();
  }
}, 1000);

const chosen = remembered("theme");
if (chosen === "dark" || chosen === "light") {
  root.dataset.theme = chosen;
}
adoptPins();
swapped();
void events();
beat(Number(root.dataset.last), seconds(), isLive());
stream.start();
root.dataset.ready = "";
