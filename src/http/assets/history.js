// Points from `/api/v1/history`, for all charts of a page in few requests, and what came since.

import { Ring } from "./points.js";

/** Most series and most ledger paths in one request. */
const MOST_IDS = 20;
const MOST_PATHS = 40;

/**
 * What a chart shows.
 * @typedef {{ ids: string[], ledger: string[], heat: boolean }} Need
 *
 * @typedef {object} AnswerSeries
 * @property {string} id
 * @property {string} kind
 * @property {string} name
 * @property {Record<string, string | string[] | null>} tags
 * @property {Record<string, (number | null)[]>} fields
 * @property {Record<string, (number | null)[]>} [min]
 * @property {Record<string, (number | null)[]>} [max]
 * @property {(boolean | null)[]} [updated]
 * @property {import("./draw.js").Heat} [heat]
 *
 * @typedef {object} Answer
 * @property {number} interval
 * @property {number} step
 * @property {string} resolution
 * @property {number[]} times
 * @property {(number | null)[]} completeness
 * @property {number | null} given_up_before
 * @property {{ from: number, to: number, now: number } | null} open
 * @property {import("./draw.js").Mark[]} marks
 * @property {AnswerSeries[]} series
 * @property {Record<string, (number | null)[]>} [ledger]
 */

/**
 * Column of a field of a series.
 * @param {string} id
 * @param {string} field
 * @param {"" | "min" | "max" | "updated"} [part]
 */
export function columnOf(id, field, part = "") {
  return `${id}\n${field}\n${part}`;
}

/** Buckets of a doubling of the value, and most buckets of a heat map: as the daemon has them. */
const FINENESS = 4;
const MOST_BUCKETS = 64;

/** The bucket of what is not above 0. */
const BELOW = Number.NEGATIVE_INFINITY;

/**
 * One column of a heat map in the buckets of the answer it came with.
 * @typedef {{ bounds: number[], counts: number[] }} HeatRow
 */

/**
 * Columns of several answers in the same buckets. Each answer has those that its own values need; the joint ones reach from
 * the least to the largest of all, as wide as the widest.
 * @param {(HeatRow | null)[]} rows
 * @returns {import("./draw.js").Heat}
 */
export function joined(rows) {
  const known = [...new Set(rows.flatMap((row) => (row ? [row.bounds] : [])))];
  const places = new Map(
    known.map((bounds) => [
      bounds,
      bounds.map((bound) => (bound > 0 ? Math.round(Math.log2(bound) * FINENESS) : BELOW)),
    ]),
  );
  const all = [...places.values()];
  const above = all.flat().filter((place) => place !== BELOW);
  let width = Math.max(1, ...all.flatMap((own) => own.map((_, at) => gap(own, at))));
  const widened = (/** @type {number} */ place) => Math.ceil(place / width) * width;
  const [least, most] = [Math.min(...above), Math.max(...above)];
  while (above.length && (widened(most) - widened(least)) / width >= MOST_BUCKETS - 1) {
    width *= 2;
  }
  const joint = all.some((own) => own.includes(BELOW)) ? [BELOW] : [];
  for (let place = widened(least); above.length && place <= widened(most); place += width) {
    joint.push(place);
  }
  const at = new Map(joint.map((place, index) => [place, index]));
  return {
    bounds: joint.map((place) => (place === BELOW ? 0 : 2 ** (place / FINENESS))),
    counts: rows.map((row) => {
      if (!row) {
        return null;
      }
      const own = places.get(row.bounds) ?? [];
      const counts = joint.map(() => 0);
      row.counts.forEach((count, index) => {
        // What lies above the last bound is in the last bucket.
        const place = own[Math.min(index, own.length - 1)];
        counts[at.get(place === BELOW ? BELOW : widened(place)) ?? counts.length - 1] += count;
      });
      return counts;
    }),
  };
}

/**
 * How far a bucket is from the one before it.
 * @param {number[]} places
 * @param {number} at
 */
function gap(places, at) {
  return at > 0 && places[at - 1] !== BELOW ? places[at] - places[at - 1] : 1;
}

/** Points of some series and some of the ledger, on the same times. */
export class Block {
  /** @param {Need} need */
  constructor(need) {
    this.need = need;
    this.ring = new Ring(1);
    this.interval = 10;
    this.step = 10;
    this.resolution = "interval";
    /** @type {Map<string, AnswerSeries>} */
    this.series = new Map();
    /** @type {import("./draw.js").Mark[]} */
    this.marks = [];
    /** @type {Map<string, Map<number, HeatRow>>} rows of heat maps by series and time */
    this.heat = new Map();
    /** @type {{ from: number, to: number, now: number } | null} */
    this.open = null;
    /** What went wrong, in words; empty if all is well. */
    this.fault = "";
    this.isLoaded = false;
  }

  /** @param {Need} more whether it fits in beside what is here */
  takes(more) {
    const ids = new Set([...this.need.ids, ...more.ids]);
    const paths = new Set([...this.need.ledger, ...more.ledger]);
    return this.need.heat === more.heat && ids.size <= MOST_IDS && paths.size <= MOST_PATHS;
  }

  /** @param {Need} more */
  add(more) {
    this.need.ids = [...new Set([...this.need.ids, ...more.ids])];
    this.need.ledger = [...new Set([...this.need.ledger, ...more.ledger])];
  }

  /**
   * @param {{ from: number, to: number }} window
   * @param {number} [step]
   */
  url({ from, to }, step) {
    const query = new URLSearchParams();
    for (const id of this.need.ids) {
      query.append("id", id);
    }
    for (const path of this.need.ledger) {
      query.append("ledger", path);
    }
    query.append("from", from.toFixed(3));
    query.append("to", to.toFixed(3));
    if (step !== undefined) {
      query.append("step", String(step));
    }
    if (this.need.heat) {
      query.append("heat", "1");
    }
    return `/api/v1/history?${query}`;
  }

  /**
   * Everything anew.
   * @param {Answer} answer
   */
  fill(answer) {
    this.interval = answer.interval;
    this.step = answer.step;
    this.resolution = answer.resolution;
    this.marks = [];
    this.heat.clear();
    this.series.clear();
    this.ring = new Ring(Math.max(answer.times.length + 16, 512));
    this.isLoaded = true;
    this.fault = "";
    this.append(answer);
  }

  /**
   * What came since.
   * @param {Answer} answer
   */
  append(answer) {
    this.open = answer.open;
    const known = new Set(answer.marks.map((mark) => `${mark.kind} ${mark.from}`));
    this.marks = [...this.marks.filter((mark) => !known.has(`${mark.kind} ${mark.from}`)), ...answer.marks];
    /** @type {[string, ArrayLike<number | null>][]} */
    const columns = [["completeness", answer.completeness]];
    for (const [path, values] of Object.entries(answer.ledger ?? {})) {
      columns.push([path, values]);
    }
    for (const one of answer.series) {
      this.series.set(one.id, {
        ...one,
        fields: Object.fromEntries(Object.keys(one.fields).map((field) => [field, []])),
      });
      for (const [field, values] of Object.entries(one.fields)) {
        columns.push([columnOf(one.id, field), values]);
        for (const part of /** @type {const} */ (["min", "max"])) {
          const bound = one[part]?.[field];
          bound && columns.push([columnOf(one.id, field, part), bound]);
        }
      }
      if (one.updated) {
        columns.push([
          columnOf(one.id, "value", "updated"),
          one.updated.map((is) => (is === null ? null : Number(is))),
        ]);
      }
      this.#heated(one, answer.times);
    }
    answer.times.forEach((time, at) => {
      this.ring.push(
        time,
        columns.map(([key, values]) => [key, values[at]]),
      );
    });
  }

  /**
   * @param {AnswerSeries} one
   * @param {number[]} times
   */
  #heated({ id, heat }, times) {
    if (!heat) {
      return;
    }
    /** @type {Map<number, HeatRow>} */
    const kept = this.heat.get(id) ?? new Map();
    heat.counts.forEach((counts, at) => {
      counts && kept.set(times[at], { bounds: heat.bounds, counts });
    });
    this.heat.set(id, kept);
  }

  /**
   * The heat map of a series at the times of the block; `undefined` if it has none.
   * @param {string} id
   * @returns {import("./draw.js").Heat | undefined}
   */
  heatOf(id) {
    const kept = this.heat.get(id);
    return kept && joined(Array.from(this.ring.times, (time) => kept.get(time) ?? null));
  }

  /** @param {number} time forget what is before it */
  forget(time) {
    this.ring.forget(time);
    this.marks = this.marks.filter((mark) => mark.to >= time);
    for (const kept of this.heat.values()) {
      for (const at of kept.keys()) {
        at < time && kept.delete(at);
      }
    }
  }

  /** End of the last closed interval that is known; NaN without any. */
  get last() {
    const { times } = this.ring;
    return times.length ? times[times.length - 1] : Number.NaN;
  }

  /** Beginning of the first interval that somebody saw; NaN without any. */
  get first() {
    const { times } = this.ring;
    const completeness = this.ring.column("completeness");
    const at = completeness.findIndex((share) => !Number.isNaN(share));
    return at < 0 ? Number.NaN : times[at] - this.step;
  }
}

/**
 * As few blocks as hold what the charts need.
 * @param {Need[]} needs
 * @returns {{ blocks: Block[], of: Block[] }} `of`: the block of each need
 */
export function pack(needs) {
  /** @type {Block[]} */
  const blocks = [];
  const of = needs.map((need) => {
    let block = blocks.find((candidate) => candidate.takes(need));
    if (!block) {
      block = new Block({ ids: [], ledger: [], heat: need.heat });
      blocks.push(block);
    }
    block.add(need);
    return block;
  });
  return { blocks, of };
}

/** How far the daemon's clock is ahead of the browser's, in seconds; 0 if they agree within what a header can say. */
let ahead = 0;

/** The time of the daemon, Unix seconds: windows and beats go by it, whatever the clock of the browser says. */
export function daemonNow() {
  return Date.now() / 1000 + ahead;
}

/** @param {number} time what the daemon says it is now, Unix seconds */
export function tellTime(time) {
  const by = time - Date.now() / 1000;
  if (Number.isFinite(by)) {
    ahead = Math.abs(by) > 2 ? by : 0;
  }
}

/**
 * An answer of the API, or the sentence that says why there is none.
 * @param {string} url
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export async function ask(url, signal) {
  const response = await fetch(url, { headers: { Accept: "application/json" }, signal });
  tellTime(Date.parse(response.headers.get("date") ?? "") / 1000);
  const body = await response.json().catch(() => null);
  if (!response.ok) {
    throw new Refusal(response.status, body?.error?.message ?? `The daemon answers ${response.status}.`);
  }
  return body;
}

/** The daemon answers, and says no. */
export class Refusal extends Error {
  /**
   * @param {number} status
   * @param {string} message
   */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}
