// Draws a chart on a canvas. What is missing is drawn as missing: a line breaks, a lone value is a dot, what nobody saw is
// hatched, and the interval that is still open is never part of a line.

import { clock, date, number, percent, short, withUnit } from "./format.js";
import { completenessOf, extent, runs, stacked, trace } from "./points.js";
import { axis, linear, logAxis, logarithmic, spread, timeTicks } from "./scale.js";

/**
 * @typedef {object} Line
 * @property {string} key
 * @property {string} label
 * @property {string} field
 * @property {string} kind of the series; empty for the ledger
 * @property {string} unit
 * @property {ArrayLike<number>} values NaN is missing
 * @property {ArrayLike<number> | null} least of a coarse point
 * @property {ArrayLike<number> | null} most of a coarse point
 * @property {ArrayLike<number> | null} updated 0 where a gauge was repeated
 *
 * @typedef {{ from: number, to: number, kind: string, text: string }} Mark
 * @typedef {{ time: number, text: string, state: string }} Flag
 * @typedef {{ bounds: number[], counts: (number[] | null)[] }} Heat
 *
 * @typedef {object} Model
 * @property {string} type `line`, `area`, `stack`, `bands` or `heat`
 * @property {number} from Unix seconds
 * @property {number} to
 * @property {number} step seconds between points
 * @property {ArrayLike<number>} times ends of intervals
 * @property {ArrayLike<number>} completeness 0 to 1, NaN for not seen
 * @property {Line[]} lines
 * @property {Heat | null} heat
 * @property {Mark[]} marks
 * @property {Flag[]} flags
 * @property {{ from: number, to: number, now: number } | null} open the interval that is not closed yet
 * @property {string} unit of the value axis
 * @property {string} color of the first line, as the style sheet calls it; empty for the usual one
 * @property {boolean} log
 * @property {boolean} small without labels at the line's end
 * @property {boolean} compare with dashes
 * @property {boolean} utc
 *
 * @typedef {object} Geometry
 * @property {number} left
 * @property {number} right
 * @property {number} top
 * @property {number} bottom
 * @property {number} width of the canvas
 * @property {import("./scale.js").Scale} x
 * @property {import("./scale.js").Scale} y
 * @property {ArrayLike<number>[]} shown values of the lines as drawn: in a stack the sums
 *
 * @typedef {{ left: number, right: number }} Room pixels beside the plot: for the axis, and for what lines end with
 *
 * @typedef {CanvasRenderingContext2D} Context
 */

/** Below this width, in pixels, lines have their names at their ends, and no values. */
const NARROW = 420;

/** Most lines of one chart. */
export const MOST_LINES = 7;

const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3], [12, 4], [4, 2], [1, 3]];

/** Colours and the font, as the style sheet has them now. */
export class Theme {
  constructor() {
    const style = getComputedStyle(document.documentElement);
    const forced = matchMedia("(forced-colors: active)").matches;
    /** @type {Map<string, string>} */
    this.colors = new Map();
    /** @param {string} name */
    this.color = (name) => {
      let color = this.colors.get(name);
      if (color === undefined) {
        color = forced ? "CanvasText" : style.getPropertyValue(`--${name}`).trim() || "#888";
        this.colors.set(name, color);
      }
      return color;
    };
    this.series = Array.from({ length: MOST_LINES }, (_, at) => this.color(`s${at + 1}`));
    const stops = style.getPropertyValue("--heat").trim().split(/\s+/);
    this.heat = stops.length > 1 ? stops : ["#e8f0fc", "#061842"];
    this.ground = forced ? "Canvas" : this.color("surface");
    this.family = getComputedStyle(document.body).fontFamily;
    /** @type {Map<string, CanvasPattern | null>} */
    this.patterns = new Map();
  }

  /**
   * @param {Context} ctx
   * @param {string} color
   */
  hatch(ctx, color) {
    if (!this.patterns.has(color)) {
      const tile = document.createElement("canvas");
      tile.width = 8;
      tile.height = 8;
      const on = /** @type {Context} */ (tile.getContext("2d"));
      on.strokeStyle = color;
      on.lineWidth = 1.6;
      on.beginPath();
      for (const shift of [-8, 0, 8]) {
        on.moveTo(shift - 1, 9);
        on.lineTo(shift + 9, -1);
      }
      on.stroke();
      this.patterns.set(color, ctx.createPattern(tile, "repeat"));
    }
    return this.patterns.get(color) ?? color;
  }
}

/**
 * A tick of the value axis in words.
 * @param {number} value
 * @param {string} unit
 */
function tickText(value, unit) {
  return unit === "ms" || unit === "B" || unit === "%" ? withUnit(value, unit) : short(value);
}

/**
 * @param {Model} model
 * @param {ArrayLike<number>[]} shown
 */
function valueAxis(model, shown) {
  if (model.heat) {
    const used = model.heat.bounds.filter((bound, at) =>
      model.heat?.counts.some((row) => row && bound > 0 && (row[at] > 0 || row[at + 1] > 0)),
    );
    const [low, high] = [used[0] ?? 1, Math.max(used[used.length - 1] ?? 10, (used[0] ?? 1) * 2)];
    // As high as the buckets go, and no round numbers beyond.
    const ticks = logAxis(low, high).ticks.filter((tick) => tick >= low && tick <= high);
    return { low, high, ticks: ticks.length ? ticks : [low, high], log: true };
  }
  const columns = [...shown];
  for (const line of model.lines) {
    columns.push(...[line.least, line.most].filter((column) => column !== null));
  }
  const [least, most] = extent(columns);
  if (model.log && most > 0) {
    const positive = extent(columns.map((column) => Array.from(column, (value) => (value > 0 ? value : Number.NaN))));
    return { ...logAxis(positive[0], positive[1]), log: true };
  }
  const isGauge = model.lines.length > 0 && model.lines.every((line) => line.kind === "gauge");
  // A gauge may swing far from zero; that is its story. Everything else stands on the floor.
  const zero = !isGauge || model.type === "area" || model.type === "stack" || (least >= 0 && least < most * 0.5);
  const whole = model.lines.every((line) => line.kind === "set");
  return { ...axis(least, most, { zero, whole, count: model.small ? 2 : 4 }), log: false };
}

/**
 * Where everything lies.
 * @param {Context} ctx with the font set
 * @param {Model} model
 * @param {number} width
 * @param {number} height
 * @param {string[]} labels at the end of the lines
 * @param {Room} [least] what is left free beside the plot at least
 * @returns {Geometry & { ticks: number[] }}
 */
export function layout(ctx, model, width, height, labels, least = { left: 0, right: 0 }) {
  const shown =
    model.type === "stack" ? stacked(model.lines.map((line) => line.values)) : model.lines.map((line) => line.values);
  const { low, high, ticks, log } = valueAxis(model, shown);
  const { unit } = model;
  const text = (/** @type {string[]} */ of) => Math.ceil(Math.max(0, ...of.map((one) => ctx.measureText(one).width)));
  const left = Math.max(28, least.left, text(ticks.map((tick) => tickText(tick, unit))) + 8);
  const room = Math.max(12, least.right, Math.min(text(labels) + 10, Math.max(48, width * 0.25)));
  const right = Math.max(left + 20, Math.floor(width - room - 2));
  const top = model.flags.length || model.marks.length ? 20 : 8;
  const bottom = Math.max(top + 10, height - 28);
  const y = log ? logarithmic(low, high, bottom, top) : linear(low, high, bottom, top);
  return { left, right, top, bottom, width, x: linear(model.from, model.to, left, right), y, shown, ticks };
}

/** A part of a whole that is never larger than this share of the most cannot be seen: two pixels of a chart. */
const THIN = 0.01;

/**
 * Whether a part of a whole is too small to be seen.
 * @param {Model} model
 * @param {number} at
 */
export function isThin(model, at) {
  if (model.type !== "stack" || at === 0) {
    return false;
  }
  const most = extent(stacked(model.lines.map((line) => line.values)).slice(-1))[1];
  return extent([model.lines[at].values])[1] < most * THIN;
}

/**
 * What is written at the end of each line: its name and, where there is room, its last value.
 * @param {Model} model
 * @param {number} width
 */
export function endLabels(model, width) {
  if (model.small || model.heat) {
    return [];
  }
  return model.lines.map((line, at) => {
    if (isThin(model, at)) {
      return "";
    }
    const last = line.values.length ? line.values[line.values.length - 1] : Number.NaN;
    const isName = model.type === "stack" || Number.isNaN(last) || (width < NARROW && line.label !== "");
    return isName ? line.label : `${line.label} ${withUnit(last, line.unit)}`.trim();
  });
}

/**
 * Draws everything but the crosshair.
 * @param {Context} ctx scaled to CSS pixels
 * @param {Model} model
 * @param {number} width
 * @param {number} height
 * @param {Theme} theme
 * @param {Room} [least]
 * @returns {Geometry}
 */
export function draw(ctx, model, width, height, theme, least) {
  ctx.clearRect(0, 0, width, height);
  ctx.font = `11px ${theme.family}`;
  ctx.lineJoin = "round";
  ctx.textBaseline = "alphabetic";
  const labels = endLabels(model, width);
  const place = layout(ctx, model, width, height, labels, least);
  ground(ctx, model, place, theme);
  grid(ctx, model, place, theme);
  ctx.save();
  ctx.beginPath();
  ctx.rect(place.left - 1, place.top - 2, place.right - place.left + 3, place.bottom - place.top + 4);
  ctx.clip();
  if (model.heat) {
    heat(ctx, model, model.heat, place, theme);
  } else {
    lines(ctx, model, place, theme);
  }
  ctx.restore();
  lane(ctx, model, place, theme);
  flags(ctx, model, place, theme);
  ends(ctx, model, place, theme, labels);
  return place;
}

/**
 * What is not known: hatched where nobody saw, plain where the history was given up.
 * @param {Context} ctx
 * @param {Model} model
 * @param {Geometry} place
 * @param {Theme} theme
 */
function ground(ctx, model, place, theme) {
  const taken = boxes(ctx, model, place).map(({ left, size }) => [left, left + size]);
  for (const mark of [...model.marks].sort((a, b) => a.from - b.from)) {
    const from = Math.round(Math.max(place.left, place.x.to(mark.from)));
    const to = Math.round(Math.min(place.right, place.x.to(mark.to)));
    if (to < place.left || from > place.right) {
      continue;
    }
    // A moment has no ground of its own; the lane has its sign.
    const width = mark.to > mark.from ? Math.max(2, to - from) : 0;
    ctx.fillStyle =
      mark.kind === "given_up" || mark.kind === "before"
        ? theme.color("raised")
        : theme.hatch(ctx, theme.color("hatch"));
    ctx.fillRect(from, place.top, width, place.bottom - place.top);
    if (!mark.text || model.small) {
      continue;
    }
    // Above the plot, where no line runs; to the left of what it is about if there is room.
    const size = ctx.measureText(mark.text).width;
    const isFree = (/** @type {number} */ x) =>
      x >= place.left &&
      x + size <= place.right + 20 &&
      taken.every(([left, right]) => x > right + 8 || x + size < left - 8);
    const x = (size > to - from ? [to - size, from, to + 4] : [from]).find(isFree);
    if (x !== undefined) {
      ctx.fillStyle = theme.color("muted");
      ctx.textAlign = "left";
      ctx.fillText(mark.text, x, place.top - 6);
      taken.push([x, x + size]);
    }
  }
}

/**
 * @param {Context} ctx
 * @param {Model} model
 * @param {Geometry & { ticks?: number[] }} place
 * @param {Theme} theme
 */
function grid(ctx, model, place, theme) {
  const { unit } = model;
  ctx.strokeStyle = theme.color("line");
  ctx.lineWidth = 1;
  ctx.textAlign = "right";
  for (const tick of place.ticks ?? []) {
    const y = Math.round(place.y.to(tick)) + 0.5;
    ctx.beginPath();
    ctx.moveTo(place.left, y);
    ctx.lineTo(place.right, y);
    ctx.stroke();
    ctx.fillStyle = theme.color("muted");
    ctx.fillText(tickText(tick, unit), place.left - 6, y + 3.5);
  }
  const shift = model.utc ? 0 : -60 * new Date(model.to * 1000).getTimezoneOffset();
  const { step, ticks } = timeTicks(
    model.from,
    model.to,
    Math.max(2, Math.floor((place.right - place.left) / 90)),
    shift,
  );
  ctx.textAlign = "center";
  for (const tick of ticks) {
    const x = Math.round(place.x.to(tick)) + 0.5;
    ctx.globalAlpha = 0.6;
    ctx.beginPath();
    ctx.moveTo(x, place.top);
    ctx.lineTo(x, place.bottom);
    ctx.stroke();
    ctx.globalAlpha = 1;
    const text = step >= 86_400 ? date(tick, model.utc).slice(5) : clock(tick, model.utc, step < 60);
    const half = ctx.measureText(text).width / 2;
    ctx.fillStyle = theme.color("muted");
    if (x - half >= 0 && x + half <= place.width) {
      ctx.fillText(text, x, place.bottom + 25);
    }
  }
}

/**
 * @param {Model} model
 * @param {Theme} theme
 * @param {number} at
 * @returns {string}
 */
export function colorOf(model, theme, at) {
  const line = model.lines[at];
  if (at === 0 && model.color) {
    return theme.color(model.color);
  }
  if (model.type === "bands") {
    return line.field === "max" || line.field === "min" ? theme.color("faint") : theme.series[0];
  }
  return line.field === "dropped" || line.key.endsWith("kernel_drops")
    ? theme.color("down")
    : theme.series[at % theme.series.length];
}

/**
 * @param {Context} ctx
 * @param {Model} model
 * @param {Geometry} place
 * @param {Theme} theme
 */
function lines(ctx, model, place, theme) {
  if (model.type === "bands") {
    bands(ctx, model, place, theme);
  }
  model.lines.forEach((line, at) => {
    const values = place.shown[at];
    const color = colorOf(model, theme, at);
    const whole = runs(model.times, values, model.step);
    const floor = at > 0 && model.type === "stack" ? place.shown[at - 1] : null;
    // A part that is nothing for the eye has no edge: it would be that of all below it.
    const edge = floor ? above(place, floor, values) : values;
    const found = floor ? runs(model.times, edge, model.step).filter(([first, last]) => last > first) : whole;
    if (line.least && line.most) {
      between(ctx, model, place, line.least, line.most, color, 0.15);
    }
    if (model.type === "area" || model.type === "stack") {
      between(ctx, model, place, floor, values, color, model.type === "stack" ? 0.3 : 0.14);
    }
    const isMax = model.type === "bands" && (line.field === "max" || line.field === "min");
    const isMiddle = model.type === "bands" && (line.field === "median" || line.field === "p50");
    ctx.strokeStyle = color;
    ctx.fillStyle = color;
    ctx.lineWidth = isMax ? 1 : isMiddle ? 2.2 : 1.6;
    ctx.setLineDash(isMax ? [1, 2.5] : model.compare ? DASHES[at % DASHES.length] : []);
    for (const run of found) {
      if (run[0] === run[1] || place.x.to(model.times[run[1]]) - place.x.to(model.times[run[0]]) < 1) {
        dot(ctx, place, model.times[run[0]], values[run[0]]);
      } else {
        stroke(ctx, model, place, values, run, line.updated);
      }
    }
    ctx.setLineDash([]);
    if (line.kind === "gauge") {
      endings(ctx, model, place, values, found);
    }
  });
}

/**
 * A line where it is a pixel or more above another one.
 * @param {Geometry} place
 * @param {ArrayLike<number>} floor
 * @param {ArrayLike<number>} values
 */
function above(place, floor, values) {
  return Float64Array.from(values, (value, at) => (place.y.to(floor[at]) - place.y.to(value) < 1 ? Number.NaN : value));
}

/**
 * @param {Context} ctx
 * @param {Geometry} place
 * @param {number} time
 * @param {number} value
 */
function dot(ctx, place, time, value) {
  ctx.beginPath();
  ctx.arc(Math.round(place.x.to(time)), place.y.to(value), 2, 0, Math.PI * 2);
  ctx.fill();
}

/**
 * @param {Context} ctx
 * @param {Model} model
 * @param {Geometry} place
 * @param {ArrayLike<number>} values
 * @param {import("./points.js").Run} run
 * @param {ArrayLike<number> | null} updated
 */
function stroke(ctx, model, place, values, run, updated) {
  const dash = ctx.getLineDash();
  /** @type {[import("./points.js").Run, boolean][]} */
  const pieces = [];
  let first = run[0];
  for (let at = run[0] + 1; at <= run[1]; at += 1) {
    const isRepeat = updated !== null && updated[at] === 0;
    if (at === run[1] || (updated !== null && (updated[at + 1] === 0) !== isRepeat)) {
      pieces.push([[first, at], isRepeat]);
      first = at;
    }
  }
  for (const [piece, isRepeat] of pieces) {
    const path = new Path2D();
    const points = trace(model.times, values, piece, place.x.to);
    for (let at = 0; at < points.length; at += 2) {
      const y = place.y.to(points[at + 1]);
      at === 0 ? path.moveTo(points[at], y) : path.lineTo(points[at], y);
    }
    ctx.setLineDash(isRepeat ? [3, 3] : dash);
    ctx.stroke(path);
  }
  ctx.setLineDash(dash);
}

/**
 * × where a gauge ends while the daemon saw on.
 * @param {Context} ctx
 * @param {Model} model
 * @param {Geometry} place
 * @param {ArrayLike<number>} values
 * @param {import("./points.js").Run[]} found
 */
function endings(ctx, model, place, values, found) {
  for (const [, last] of found) {
    const next = last + 1;
    if (next >= model.times.length || Number.isNaN(model.completeness[next]) || !Number.isNaN(values[next])) {
      continue;
    }
    const [x, y] = [Math.round(place.x.to(model.times[last])), place.y.to(values[last])];
    ctx.beginPath();
    for (const side of [-1, 1]) {
      ctx.moveTo(x - 3, y - 3 * side);
      ctx.lineTo(x + 3, y + 3 * side);
    }
    ctx.stroke();
  }
}

/**
 * Fills between two lines, or between the floor and a line.
 * @param {Context} ctx
 * @param {Model} model
 * @param {Geometry} place
 * @param {ArrayLike<number> | null} low `null` for the floor
 * @param {ArrayLike<number>} high
 * @param {string} color
 * @param {number} alpha
 */
function between(ctx, model, place, low, high, color, alpha) {
  const both = low ? Float64Array.from(high, (value, at) => (Number.isNaN(low[at]) ? Number.NaN : value)) : high;
  const floor = place.y.to(Math.max(place.y.low, place.y.log ? 0 : Math.min(0, place.y.high)));
  ctx.fillStyle = color;
  ctx.globalAlpha = alpha;
  for (const run of runs(model.times, both, model.step)) {
    if (run[0] === run[1]) {
      continue;
    }
    const path = new Path2D();
    const above = trace(model.times, both, run, place.x.to);
    for (let at = 0; at < above.length; at += 2) {
      path.lineTo(above[at], place.y.to(above[at + 1]));
    }
    if (low) {
      const below = trace(model.times, low, run, place.x.to);
      for (let at = below.length - 2; at >= 0; at -= 2) {
        path.lineTo(below[at], place.y.to(below[at + 1]));
      }
    } else {
      path.lineTo(above[above.length - 2], floor);
      path.lineTo(above[0], floor);
    }
    path.closePath();
    ctx.fill(path);
  }
  ctx.globalAlpha = 1;
}

/**
 * @param {Context} ctx
 * @param {Model} model
 * @param {Geometry} place
 * @param {Theme} theme
 */
function bands(ctx, model, place, theme) {
  const inner = model.lines.map((_, at) => at).filter((at) => !["max", "min"].includes(model.lines[at].field));
  for (let n = 1; n < inner.length; n += 1) {
    const [low, high] = [place.shown[inner[n - 1]], place.shown[inner[n]]];
    between(ctx, model, place, low, high, theme.series[0], n === 1 ? 0.3 : 0.15);
  }
}

/**
 * @param {string} hex `#rrggbb`
 */
function channels(hex) {
  return [1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16) || 0);
}

/**
 * The colour of a share of the largest count.
 * @param {string[]} stops
 * @param {number} share 0 to 1
 */
export function heatColor(stops, share) {
  const at = Math.min(0.999, share ** 0.55) * (stops.length - 1);
  const [from, to] = [channels(stops[Math.floor(at)]), channels(stops[Math.floor(at) + 1])];
  const mixed = from.map((value, n) => Math.round(value + (to[n] - value) * (at % 1)));
  return `rgb(${mixed.join(",")})`;
}

/** @param {Heat} of */
export function mostCounted(of) {
  return of.counts.reduce((most, row) => (row ? Math.max(most, ...row) : most), 0);
}

/**
 * @param {Context} ctx
 * @param {Model} model
 * @param {Heat} of
 * @param {Geometry} place
 * @param {Theme} theme
 */
function heat(ctx, model, of, place, theme) {
  const most = mostCounted(of);
  of.counts.forEach((row, at) => {
    if (!row) {
      return;
    }
    const from = Math.round(place.x.to(model.times[at] - model.step));
    const width = Math.max(1, Math.round(place.x.to(model.times[at])) - from);
    row.forEach((count, bucket) => {
      if (count > 0) {
        // Bucket n lies between the bounds n-1 and n; the last one is open.
        const top = bucket < of.bounds.length ? Math.round(place.y.to(of.bounds[bucket])) : place.top;
        const bottom = bucket > 0 ? Math.round(place.y.to(of.bounds[bucket - 1])) : place.bottom;
        ctx.fillStyle = heatColor(theme.heat, count / most);
        ctx.fillRect(from, top, width, Math.max(1, bottom - top));
      }
    });
  });
}

/**
 * The lane under a chart: thin green where all data arrived, a red block where a part is lost, hatch where nobody saw,
 * nothing where there was no sample.
 * @param {Context} ctx
 * @param {Model} model
 * @param {Geometry} place
 * @param {Theme} theme
 */
function lane(ctx, model, place, theme) {
  const top = place.bottom + 6;
  const hasSample = (/** @type {number} */ at) =>
    model.heat ? model.heat.counts[at] !== null : model.lines.some((line) => !Number.isNaN(line.values[at]));
  /** @type {{ from: number, to: number, what: string } | null} */
  let open = null;
  const put = () => {
    if (open) {
      const { from, to, what } = open;
      ctx.fillStyle =
        what === "unseen" ? theme.hatch(ctx, theme.color("muted")) : theme.color(what === "partial" ? "down" : "up");
      // A lost part is at least 2 px wide, so that it cannot vanish between two others.
      const width = Math.max(what === "partial" ? 2 : 1, to - from);
      what === "complete" ? ctx.fillRect(from, top + 1, width, 2) : ctx.fillRect(from, top, width, 4);
    }
    open = null;
  };
  for (let at = 0; at < model.times.length; at += 1) {
    const from = Math.round(Math.max(place.left, place.x.to(model.times[at] - model.step)));
    const to = Math.round(Math.min(place.right, place.x.to(model.times[at])));
    const what = completenessOf(model.completeness[at]);
    const isBlank = to < place.left || from > place.right || (what === "complete" && !hasSample(at));
    if (open && !isBlank && open.what === what && from - open.to <= 1) {
      open.to = to;
      continue;
    }
    put();
    open = isBlank ? null : { from, to, what };
  }
  put();
  for (const mark of model.marks.filter(({ kind }) => kind !== "given_up" && kind !== "before")) {
    const from = Math.round(Math.max(place.left, place.x.to(mark.from)));
    const to = Math.round(Math.min(place.right, place.x.to(mark.to)));
    if (to >= place.left && from <= place.right) {
      ctx.fillStyle = theme.hatch(ctx, theme.color("muted"));
      ctx.fillRect(from, top, Math.max(2, to - from), 4);
      if (mark.kind === "restart") {
        ctx.fillStyle = theme.ground;
        ctx.fillRect((from + to) / 2 - 6, top - 2, 12, 9);
        ctx.fillStyle = theme.color("text");
        ctx.textAlign = "center";
        ctx.fillText("↺", (from + to) / 2, top + 6);
      }
    }
  }
  if (model.open && model.open.now >= model.from && model.open.from <= model.to) {
    // Not closed yet: it has no value, and none is shown.
    ctx.strokeStyle = theme.color("muted");
    ctx.lineWidth = 1.4;
    ctx.beginPath();
    ctx.arc(Math.min(place.right, place.x.to(model.open.now)) + 5, top + 2, 3, 0, Math.PI * 2);
    ctx.stroke();
  }
}

/**
 * Flags that would overlap become one: "3 events".
 * @param {Flag[]} all in order of time
 * @param {(time: number) => number} toX
 * @param {(text: string) => number} width
 * @returns {{ x: number, text: string, state: string, count: number }[]}
 */
export function grouped(all, toX, width) {
  /** @type {{ x: number, text: string, state: string, count: number, last: number }[]} */
  const groups = [];
  const rank = ["accent", "left", "up", "maintenance", "unknown", "late", "down"];
  for (const flag of all) {
    const x = Math.round(toX(flag.time));
    const before = groups[groups.length - 1];
    if (before && x < before.x + width(before.text) + 14) {
      before.count += 1;
      before.last = x;
      before.text = `${before.count} events`;
      before.state = rank.indexOf(flag.state) > rank.indexOf(before.state) ? flag.state : before.state;
    } else {
      groups.push({ x, text: flag.text, state: flag.state, count: 1, last: x });
    }
  }
  return groups;
}

/**
 * Where flags are written.
 * @param {Context} ctx
 * @param {Model} model
 * @param {Geometry} place
 */
function boxes(ctx, model, place) {
  const inside = model.flags.filter(({ time }) => time >= model.from && time <= model.to);
  const width = (/** @type {string} */ text) => ctx.measureText(text).width;
  const cut = (/** @type {string} */ text) => (text.length > 34 ? `${text.slice(0, 32)}…` : text);
  const groups = grouped(
    inside.map((flag) => ({ ...flag, text: cut(flag.text) })),
    place.x.to,
    width,
  );
  const placed = groups.map((group) => {
    const size = Math.ceil(width(group.text)) + 10;
    return { ...group, size, left: Math.min(group.x, place.right - size) };
  });
  // The last ones were moved away from the edge; those before them make room.
  for (let at = placed.length - 2; at >= 0; at -= 1) {
    const [box, next] = [placed[at], placed[at + 1]];
    box.left = Math.max(0, Math.min(box.left, next.left - box.size - 2));
  }
  return placed;
}

/**
 * @param {Context} ctx
 * @param {Model} model
 * @param {Geometry} place
 * @param {Theme} theme
 */
function flags(ctx, model, place, theme) {
  for (const { x, text, state, size, left } of boxes(ctx, model, place)) {
    const color = theme.color(state);
    ctx.strokeStyle = color;
    ctx.lineWidth = 1;
    ctx.setLineDash([3, 3]);
    ctx.beginPath();
    ctx.moveTo(x + 0.5, place.top - 4);
    ctx.lineTo(x + 0.5, place.bottom);
    ctx.stroke();
    ctx.setLineDash([]);
    if (model.small) {
      continue;
    }
    ctx.fillStyle = theme.ground;
    ctx.fillRect(left, place.top - 18, size, 16);
    ctx.strokeRect(left + 0.5, place.top - 17.5, size, 15);
    ctx.fillStyle = color;
    ctx.textAlign = "left";
    ctx.fillText(text, left + 5, place.top - 6);
  }
}

/**
 * As much of a text as there is room for; the tooltip has all of it.
 * @param {Context} ctx
 * @param {string} text
 * @param {number} room pixels
 */
function fitted(ctx, text, room) {
  if (ctx.measureText(text).width <= room) {
    return text;
  }
  let length = text.length - 1;
  while (length > 1 && ctx.measureText(`${text.slice(0, length)}…`).width > room) {
    length -= 1;
  }
  return `${text.slice(0, length)}…`;
}

/**
 * Names at the end of the lines.
 * @param {Context} ctx
 * @param {Model} model
 * @param {Geometry} place
 * @param {Theme} theme
 * @param {string[]} labels
 */
function ends(ctx, model, place, theme, labels) {
  if (!labels.length) {
    return;
  }
  const named = labels.map((_, at) => at).filter((at) => labels[at] !== "");
  const wanted = named.map((at) => {
    const [values, below] = [place.shown[at], at > 0 && model.type === "stack" ? place.shown[at - 1] : null];
    const last = values.length - 1;
    const value = Number.isNaN(values[last]) ? 0 : values[last];
    const floor = below ? below[last] || 0 : model.type === "stack" ? 0 : value;
    return place.y.to((value + floor) / 2) + 4;
  });
  const placed = spread(wanted, 13, place.top + 8, place.bottom + 2);
  ctx.textAlign = "left";
  const room = place.width - place.right - 8;
  named.forEach((at, n) => {
    ctx.fillStyle = colorOf(model, theme, at);
    ctx.fillText(fitted(ctx, labels[at], room), place.right + 8, placed[n]);
  });
}

/**
 * Draws the crosshair on its own canvas.
 * @param {Context} ctx
 * @param {Model} model
 * @param {Geometry} place
 * @param {Theme} theme
 * @param {{ time: number, point: number, from: number | null }} at `from`: where a drag began
 */
export function crosshair(ctx, model, place, theme, { time, point, from }) {
  if (from !== null) {
    const [a, b] = [place.x.to(from), place.x.to(time)];
    ctx.fillStyle = theme.color("accent");
    ctx.globalAlpha = 0.2;
    ctx.fillRect(Math.min(a, b), place.top, Math.abs(b - a), place.bottom - place.top);
    ctx.globalAlpha = 1;
  }
  const shownAt = point >= 0 ? model.times[point] : time;
  const x = Math.round(Math.min(place.right, Math.max(place.left, place.x.to(shownAt)))) + 0.5;
  ctx.strokeStyle = theme.color("muted");
  ctx.lineWidth = 1;
  ctx.beginPath();
  ctx.moveTo(x, place.top);
  ctx.lineTo(x, place.bottom);
  ctx.stroke();
  if (point < 0 || model.heat) {
    return;
  }
  place.shown.forEach((values, at) => {
    if (!Number.isNaN(values[point])) {
      ctx.fillStyle = colorOf(model, theme, at);
      ctx.strokeStyle = theme.ground;
      ctx.lineWidth = 2;
      ctx.beginPath();
      ctx.arc(x - 0.5, place.y.to(values[point]), 4, 0, Math.PI * 2);
      ctx.fill();
      ctx.stroke();
    }
  });
}

/**
 * Rows of a tooltip: what each line says at a point.
 * @param {Model} model
 * @param {number} point
 * @param {string} estimated how exact values are, such as `±1 %`; empty if they are exact
 * @returns {[string, string, number][]} label, value, and the line it belongs to or -1
 */
export function readings(model, point, estimated) {
  /** @type {[string, string, number][]} */
  const rows = [];
  const order = model.lines.map((_, at) => at);
  if (model.type === "bands" || model.type === "stack") {
    order.reverse();
  }
  for (const at of order) {
    const line = model.lines[at];
    const text = withUnit(line.values[point], line.unit);
    const repeat = line.updated?.[point] === 0 ? ", repeated" : "";
    rows.push([line.label || line.field, estimated && text !== "none" ? `≈ ${text} ${estimated}` : text + repeat, at]);
    if (line.least && line.most && !Number.isNaN(line.least[point])) {
      rows.push([
        "from, to",
        `${withUnit(line.least[point], line.unit)}, ${withUnit(line.most[point], line.unit)}`,
        -1,
      ]);
    }
  }
  const row = model.heat?.counts[point];
  if (model.heat && row) {
    rows.push(["samples", number(row.reduce((sum, count) => sum + count, 0)), -1]);
  }
  const completeness = model.completeness[point];
  const what = completenessOf(completeness);
  if (what === "unseen") {
    rows.push(["not seen", "", -1]);
  } else if (what === "partial") {
    rows.push([`${percent(completeness)} complete`, "reads low", -1]);
  } else {
    rows.push(["complete", "100 %", -1]);
  }
  return rows;
}
