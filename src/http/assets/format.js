// Numbers, durations and times as text. Pure: no document, no clock.

const MINUS = "−";

/** @type {Map<number, Intl.NumberFormat>} */
const fixed = new Map();

/**
 * A number with thousands separators and exactly so many digits after the point.
 * @param {number} value
 * @param {number} digits
 */
function grouped(value, digits) {
  let format = fixed.get(digits);
  if (!format) {
    format = new Intl.NumberFormat("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
    fixed.set(digits, format);
  }
  return format.format(value).replace("-", MINUS);
}

/**
 * `184,232`, `61.2`, `0.38`: three significant digits below 1,000, whole numbers above. Not a number is "none".
 * @param {number | null | undefined} value
 */
export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) {
    return "none";
  }
  const size = Math.abs(value);
  if (size >= 3.4e38) {
    return value < 0 ? `≤ ${MINUS}3.4e38` : "≥ 3.4e38";
  }
  if (size >= 1e15 || (size > 0 && size < 1e-4)) {
    return value.toExponential(2).replace("-", MINUS).replace("e-", `e${MINUS}`);
  }
  if (size >= 1000) {
    return grouped(value, 0);
  }
  if (Number.isInteger(value)) {
    return grouped(value, 0);
  }
  const digits = size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : Math.min(6, 2 - Math.floor(Math.log10(size)));
  const text = grouped(value, digits);
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

const SCALES = /** @type {const} */ ([
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
]);

/**
 * A number of at most three digits and a letter from 10,000 on: `184 k`, `1.2 M`.
 * @param {number} value
 * @param {number} [from] least size that is shortened
 */
export function short(value, from = 10_000) {
  const size = Math.abs(value);
  if (Number.isNaN(value) || size < from || size >= 1e15) {
    return number(value);
  }
  for (const [scale, letter] of SCALES) {
    if (size >= scale) {
      const scaled = value / scale;
      const digits = Math.abs(scaled) >= 100 ? 0 : Math.abs(scaled) >= 10 ? 1 : 2;
      return `${grouped(scaled, digits)
        .replace(/(\.\d*?)0+$/, "$1")
        .replace(/\.$/, "")} ${letter}`;
    }
  }
  return number(value);
}

/**
 * A value with its unit. Milliseconds become seconds from 1,000 on; a rate keeps its letter before `/s`.
 * @param {number | null | undefined} value
 * @param {string} unit `ms`, `/s`, `%`, `B` or any other word; empty for none
 */
export function withUnit(value, unit) {
  if (value === null || value === undefined || Number.isNaN(value)) {
    return "none";
  }
  if (unit === "ms" && Math.abs(value) >= 1000) {
    return `${number(value / 1000)} s`;
  }
  if (unit === "/s") {
    const text = short(value);
    return /[a-z]$/i.test(text) && text !== "none" ? `${text}/s` : `${text} /s`;
  }
  if (unit === "B") {
    return bytes(value);
  }
  return unit ? `${short(value, 1e6)} ${unit}` : short(value, 1e6);
}

/**
 * Bytes in powers of 1,024: `184 MiB`.
 * @param {number} value
 */
export function bytes(value) {
  let scaled = value;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (Math.abs(scaled) < 1024 || unit === "GiB") {
      return `${number(unit === "B" ? Math.round(scaled) : Number(scaled.toPrecision(3)))} ${unit}`;
    }
    scaled /= 1024;
  }
  return "";
}

/**
 * A share between 0 and 1 as percent; what is not whole never reads as 100.
 * @param {number} share
 */
export function percent(share) {
  if (share >= 1) {
    return "100 %";
  }
  const shown = share * 100;
  const digits = shown > 99 ? 2 : shown >= 10 ? 1 : 2;
  const text = (Math.floor(shown * 10 ** digits + 1e-9) / 10 ** digits).toFixed(digits).replace(/\.?0+$/, "");
  return `${text === "100" ? "99.99" : text} %`;
}

/**
 * Seconds in words of at most two units: `0.4 s`, `7 s`, `3 min 25 s`, `1 h 12 min`, `19 d`.
 * @param {number} seconds
 */
export function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) {
    return seconds < 9.95 && !Number.isInteger(seconds) ? `${Number(seconds.toFixed(1))} s` : `${whole} s`;
  }
  if (whole < 3600) {
    return whole % 60 && whole < 600
      ? `${Math.floor(whole / 60)} min ${whole % 60} s`
      : `${Math.floor(whole / 60)} min`;
  }
  if (whole < 86_400) {
    const minutes = Math.floor((whole % 3600) / 60);
    return minutes ? `${Math.floor(whole / 3600)} h ${minutes} min` : `${Math.floor(whole / 3600)} h`;
  }
  return `${Math.floor(whole / 86_400)} d`;
}

/** @param {number} value */
const two = (value) => String(value).padStart(2, "0");

/**
 * The parts of a moment, in UTC or in the zone of this browser.
 * @param {number} time Unix seconds
 * @param {boolean} utc
 */
function parts(time, utc) {
  const at = new Date(time * 1000);
  return utc
    ? [
        at.getUTCFullYear(),
        at.getUTCMonth() + 1,
        at.getUTCDate(),
        at.getUTCHours(),
        at.getUTCMinutes(),
        at.getUTCSeconds(),
      ]
    : [at.getFullYear(), at.getMonth() + 1, at.getDate(), at.getHours(), at.getMinutes(), at.getSeconds()];
}

/**
 * `02:31:40`, or `02:31` without seconds.
 * @param {number} time Unix seconds
 * @param {boolean} utc
 * @param {boolean} [seconds]
 */
export function clock(time, utc, seconds = true) {
  const [, , , hour, minute, second] = parts(time, utc);
  return seconds ? `${two(hour)}:${two(minute)}:${two(second)}` : `${two(hour)}:${two(minute)}`;
}

/**
 * `2026-11-26`.
 * @param {number} time Unix seconds
 * @param {boolean} utc
 */
export function date(time, utc) {
  const [year, month, day] = parts(time, utc);
  return `${year}-${two(month)}-${two(day)}`;
}

/**
 * An interval by its two ends: `02:12:10 to 02:12:20`, with the tenth where an interval is shorter than a second.
 * @param {number} from Unix seconds
 * @param {number} to Unix seconds
 * @param {boolean} utc
 */
export function span(from, to, utc) {
  if (to - from >= 1) {
    return `${clock(from, utc)} to ${clock(to, utc)}`;
  }
  const fraction = (/** @type {number} */ time) => `${clock(time, utc)}.${Math.floor((time % 1) * 10)}`;
  return `${fraction(from)} to ${fraction(to)}`;
}

/**
 * When something was seen, as words for a table: "now", "4 min ago".
 * @param {number} seconds since then
 * @param {number} interval
 */
export function ago(seconds, interval) {
  return seconds <= interval * 1.5 ? "now" : `${duration(seconds)} ago`;
}

/**
 * What a field of a series is called next to its value.
 * @param {string} field
 */
export function fieldName(field) {
  return field === "median" ? "p50" : field;
}

/**
 * The unit of a field of a kind.
 * @param {string} kind
 * @param {string} field
 */
export function fieldUnit(kind, field) {
  if (field === "rate") {
    return "/s";
  }
  const isTime = kind === "timer" && (/^p\d/.test(field) || ["min", "max", "median", "mean", "sum"].includes(field));
  return isTime ? "ms" : "";
}

/**
 * Pieces of a text, every second of them found by one of the words.
 * @param {string} text
 * @param {string[]} words
 * @returns {string[]}
 */
export function split(text, words) {
  const lower = text.toLowerCase();
  if (lower.length !== text.length) {
    return [text];
  }
  const found = words
    .map((word) => word.toLowerCase().replace(/[*?]/g, ""))
    .filter((word) => word && lower.includes(word))
    .sort((a, b) => lower.indexOf(a) - lower.indexOf(b) || b.length - a.length)[0];
  if (!found) {
    return [text];
  }
  const at = lower.indexOf(found);
  return [text.slice(0, at), text.slice(at, at + found.length), text.slice(at + found.length)];
}
