// The state that lies in the URL: everything that two people must share to see the same. Pure.
//
// `range=30m` or `from=&to=` (Unix seconds), `live=0`, `tz=utc`, `q=`, `kind=`, `sort=`, `sel=`, `pin=` and `cmp=`
// (repeated), `y=log`. What else a page has in its URL (a name, a form's fields) stays as it is.

/**
 * @typedef {object} State
 * @property {string} range name of a range that ends now
 * @property {number | null} from Unix seconds; with `to` instead of `range`
 * @property {number | null} to
 * @property {boolean} live
 * @property {boolean} utc
 * @property {string} q
 * @property {string} kind
 * @property {string} sort
 * @property {string} sel
 * @property {string[]} pin
 * @property {string[]} cmp
 * @property {boolean} log
 */

/** Ranges by their names, in seconds. */
export const RANGES = /** @type {Record<string, number>} */ ({
  "5m": 300,
  "15m": 900,
  "30m": 1800,
  "1h": 3600,
  "6h": 21_600,
  "24h": 86_400,
});

/** The range without `range=`. */
export const DEFAULT_RANGE = "30m";

/** Shortest and longest own range, in seconds. */
export const SHORTEST = 10;
export const LONGEST = 31 * 86_400;

const OURS = ["range", "from", "to", "live", "tz", "q", "kind", "sort", "sel", "pin", "cmp", "y"];

/**
 * Seconds of a range such as `30m` or `90s`; `null` if it is none.
 * @param {string | null} text
 */
export function rangeSeconds(text) {
  const found = /^(\d{1,6})([smhd])$/.exec(text ?? "");
  if (!found) {
    return null;
  }
  const seconds = Number(found[1]) * { s: 1, m: 60, h: 3600, d: 86_400 }[/** @type {"s"|"m"|"h"|"d"} */ (found[2])];
  return seconds >= SHORTEST && seconds <= LONGEST ? seconds : null;
}

/**
 * @param {string | null} text
 */
function moment(text) {
  const value = text ? Number(text) : Number.NaN;
  return Number.isFinite(value) && value >= 0 && value < 1e11 ? value : null;
}

/**
 * @param {string} search the query of a URL
 * @returns {State}
 */
export function parse(search) {
  const given = new URLSearchParams(search);
  const [from, to] = [moment(given.get("from")), moment(given.get("to"))];
  const isWindow = from !== null && to !== null && to - from >= SHORTEST && to - from <= LONGEST;
  const range = given.get("range");
  return {
    range: range && rangeSeconds(range) ? range : DEFAULT_RANGE,
    from: isWindow ? from : null,
    to: isWindow ? to : null,
    live: given.get("live") !== "0",
    utc: given.get("tz") === "utc",
    q: given.get("q") ?? "",
    kind: given.get("kind") ?? "",
    sort: given.get("sort") ?? "",
    sel: given.get("sel") ?? "",
    pin: unique(given.getAll("pin")),
    cmp: unique(given.getAll("cmp")),
    log: given.get("y") === "log",
  };
}

/** @param {string[]} values */
function unique(values) {
  return [...new Set(values.filter((value) => value !== ""))];
}

/**
 * The query for a state, with what else `search` has; defaults are left out.
 * @param {State} state
 * @param {string} search
 * @returns {string} with its `?`, or empty
 */
export function write(state, search) {
  const out = new URLSearchParams();
  for (const [key, value] of new URLSearchParams(search)) {
    // `kind` belongs to the identity of a series where there is a name.
    if (!OURS.includes(key) || (key === "kind" && isSeries(search))) {
      out.append(key, value);
    }
  }
  const put = (/** @type {string} */ key, /** @type {string} */ value) => value && out.append(key, value);
  if (state.from !== null && state.to !== null) {
    put("from", String(Number(state.from.toFixed(3))));
    put("to", String(Number(state.to.toFixed(3))));
  } else {
    put("range", state.range === DEFAULT_RANGE ? "" : state.range);
  }
  put("live", state.live ? "" : "0");
  put("tz", state.utc ? "utc" : "");
  put("q", state.q);
  if (!isSeries(search)) {
    put("kind", state.kind);
  }
  put("sort", state.sort);
  put("sel", state.sel);
  for (const id of state.pin) {
    put("pin", id);
  }
  for (const id of state.cmp) {
    put("cmp", id);
  }
  put("y", state.log ? "log" : "");
  const text = out.toString();
  return text ? `?${text}` : "";
}

/** @param {string} search */
function isSeries(search) {
  return new URLSearchParams(search).has("name");
}

/**
 * What a link to another view carries along: the window, the clock and whether it moves.
 * @param {State} state
 * @param {string} href a path of ours, with or without a query
 */
export function carry(state, href) {
  const [path, query = ""] = href.split("?", 2);
  const given = new URLSearchParams(query);
  if (!given.has("range") && !given.has("from")) {
    if (state.from !== null && state.to !== null) {
      given.set("from", String(state.from));
      given.set("to", String(state.to));
    } else if (state.range !== DEFAULT_RANGE) {
      given.set("range", state.range);
    }
  }
  if (!state.live && !given.has("live")) {
    given.set("live", "0");
  }
  if (state.utc && !given.has("tz")) {
    given.set("tz", "utc");
  }
  const text = given.toString();
  return text ? `${path}?${text}` : path;
}

/**
 * The window that is shown.
 * @param {State} state
 * @param {number} now Unix seconds: the end of what is known
 * @returns {{ from: number, to: number }}
 */
export function windowOf(state, now) {
  if (state.from !== null && state.to !== null) {
    return { from: state.from, to: state.to };
  }
  return { from: now - (rangeSeconds(state.range) ?? RANGES[DEFAULT_RANGE]), to: now };
}

/**
 * A window of another length or place. It never ends after `now`, and never becomes too short or too long.
 * @param {{ from: number, to: number }} window
 * @param {{ shift?: number, zoom?: number, around?: number }} by `shift`: in lengths of the window; `zoom`: factor of
 *   its length; `around`: moment that stays in place
 * @param {number} now
 */
export function moved({ from, to }, { shift = 0, zoom = 1, around }, now) {
  const length = Math.min(LONGEST, Math.max(SHORTEST, (to - from) * zoom));
  const middle = around ?? (from + to) / 2;
  let start = middle - ((middle - from) / (to - from)) * length + shift * (to - from);
  start = Math.max(0, Math.min(start, now - length));
  return { from: start, to: start + length };
}
