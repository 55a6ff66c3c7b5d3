// Points of series over time: where a line breaks, what a pixel column keeps, what a line does in words. Pure.
//
// A point's time is the end of its interval. Missing is NaN here, and `null` on the wire.

/** Times and columns of numbers that grow at the end and lose their oldest, each in one array. */
export class Ring {
  /** @param {number} capacity points that are kept */
  constructor(capacity) {
    this.capacity = Math.max(1, capacity);
    this.start = 0;
    this.end = 0;
    /** @type {Map<string, Float64Array>} */
    this.columns = new Map();
    this.room = new Float64Array(this.capacity * 2);
  }

  get length() {
    return this.end - this.start;
  }

  /** Times of the points, oldest first. The view is valid until the next change. */
  get times() {
    return this.room.subarray(this.start, this.end);
  }

  /** @param {string} key */
  column(key) {
    return (this.columns.get(key) ?? new Float64Array(this.capacity * 2).fill(Number.NaN)).subarray(
      this.start,
      this.end,
    );
  }

  /**
   * A point after all others; columns without a value get NaN. One that is not later than the last is ignored.
   * @param {number} time
   * @param {Iterable<[string, number | null | undefined]>} values
   */
  push(time, values) {
    if (this.length && time <= this.room[this.end - 1]) {
      return false;
    }
    if (this.length === this.capacity) {
      this.start += 1;
    }
    if (this.end === this.room.length) {
      for (const array of [this.room, ...this.columns.values()]) {
        array.copyWithin(0, this.start, this.end);
      }
      this.end -= this.start;
      this.start = 0;
    }
    this.room[this.end] = time;
    for (const array of this.columns.values()) {
      array[this.end] = Number.NaN;
    }
    for (const [key, value] of values) {
      let array = this.columns.get(key);
      if (!array) {
        array = new Float64Array(this.capacity * 2).fill(Number.NaN);
        this.columns.set(key, array);
      }
      array[this.end] = value ?? Number.NaN;
    }
    this.end += 1;
    return true;
  }

  /** @param {number} time forget what is before it */
  forget(time) {
    while (this.start < this.end && this.room[this.start] < time) {
      this.start += 1;
    }
  }
}

/**
 * @param {(number | null)[]} values
 * @returns {Float64Array}
 */
export function numbers(values) {
  return Float64Array.from(values, (value) => value ?? Number.NaN);
}

/**
 * Index of the point whose interval holds the time, or -1.
 * @param {ArrayLike<number>} times ends of intervals, ascending
 * @param {number} step length of an interval
 * @param {number} time
 */
export function pointAt(times, step, time) {
  let low = 0;
  let high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] < time) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < times.length && times[low] - step * 1.5 < time ? low : -1;
}

/**
 * A piece of a line without a gap: indices of its first and its last point.
 * @typedef {[number, number]} Run
 */

/**
 * Pieces of a line: NaN breaks it, and so does a missing point.
 * @param {ArrayLike<number>} times
 * @param {ArrayLike<number>} values
 * @param {number} step
 * @returns {Run[]}
 */
export function runs(times, values, step) {
  /** @type {Run[]} */
  const found = [];
  let first = -1;
  for (let at = 0; at < values.length; at += 1) {
    const isMissing = Number.isNaN(values[at]);
    if (first >= 0 && (isMissing || times[at] - times[at - 1] > step * 1.5)) {
      found.push([first, at - 1]);
      first = -1;
    }
    if (first < 0 && !isMissing) {
      first = at;
    }
  }
  if (first >= 0) {
    found.push([first, values.length - 1]);
  }
  return found;
}

/**
 * What nobody looked at between two points: from the end of one to the beginning of the next.
 * @param {ArrayLike<number>} times ends of intervals, ascending
 * @param {number} step
 * @returns {[number, number][]}
 */
export function holes(times, step) {
  /** @type {[number, number][]} */
  const found = [];
  for (let at = 1; at < times.length; at += 1) {
    if (times[at] - times[at - 1] > step * 1.5) {
      found.push([times[at - 1], times[at] - step]);
    }
  }
  return found;
}

/**
 * The points to draw of one run: at whole pixels, and of all points in one pixel column only the first, the least, the
 * largest and the last, in their order.
 * @param {ArrayLike<number>} times
 * @param {ArrayLike<number>} values
 * @param {Run} run
 * @param {(time: number) => number} toX
 * @returns {number[]} x, value, x, value …
 */
export function trace(times, values, [first, last], toX) {
  /** @type {number[]} */
  const out = [];
  let at = first;
  let next = Math.round(toX(times[first]));
  while (at <= last) {
    const x = next;
    let [least, most, leave] = [at, at, at];
    for (let to = at + 1; to <= last; to += 1) {
      next = Math.round(toX(times[to]));
      if (next !== x) {
        break;
      }
      least = values[to] < values[least] ? to : least;
      most = values[to] > values[most] ? to : most;
      leave = to;
    }
    let before = -1;
    for (const kept of [at, Math.min(least, most), Math.max(least, most), leave]) {
      if (kept !== before) {
        out.push(x, values[kept]);
      }
      before = kept;
    }
    at = leave + 1;
  }
  return out;
}

/**
 * Least and largest of several columns, NaN if there is nothing.
 * @param {ArrayLike<number>[]} columns
 * @returns {[number, number]}
 */
export function extent(columns) {
  let [least, most] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const column of columns) {
    for (let at = 0; at < column.length; at += 1) {
      const value = column[at];
      least = value < least ? value : least;
      most = value > most ? value : most;
    }
  }
  return least > most ? [Number.NaN, Number.NaN] : [least, most];
}

/**
 * Sums from the first column up: parts of a whole. Where one is missing the whole is not known from there up.
 * @param {ArrayLike<number>[]} columns
 * @returns {Float64Array[]}
 */
export function stacked(columns) {
  /** @type {Float64Array[]} */
  const sums = [];
  for (const column of columns) {
    const below = sums[sums.length - 1];
    sums.push(Float64Array.from(column, (value, at) => value + (below ? below[at] : 0)));
  }
  return sums;
}

/**
 * The largest lasting change of a line.
 * @param {ArrayLike<number>} times
 * @param {ArrayLike<number>} values
 * @returns {{ at: number, before: number, after: number } | null} means before and after it; `null` if nothing stands out
 */
export function change(times, values) {
  /** @type {number[]} */
  const known = [];
  for (let at = 0; at < values.length; at += 1) {
    if (!Number.isNaN(values[at])) {
      known.push(at);
    }
  }
  const count = known.length;
  if (count < 10) {
    return null;
  }
  const total = known.reduce((sum, at) => sum + values[at], 0);
  let [sum, best, split] = [0, 0, 0];
  for (let n = 1; n < count; n += 1) {
    sum += values[known[n - 1]];
    // Between two steady halves this is largest; it is the statistic of a t-test without its noise.
    const score = Math.abs(sum / n - (total - sum) / (count - n)) * Math.sqrt((n * (count - n)) / count);
    if (n >= 3 && count - n >= 3 && score > best) {
      [best, split] = [score, n];
    }
  }
  const mean = (/** @type {number[]} */ of) => of.reduce((all, at) => all + values[at], 0) / of.length;
  const [left, right] = [known.slice(0, split), known.slice(split)];
  const [before, after] = [mean(left), mean(right)];
  const noise = (/** @type {number[]} */ of, /** @type {number} */ middle) =>
    of.reduce((all, at) => all + (values[at] - middle) ** 2, 0);
  const spread = Math.sqrt((noise(left, before) + noise(right, after)) / count);
  const size = Math.abs(after - before);
  if (split === 0 || size < 3 * spread || size < 0.2 * Math.max(Math.abs(before), Math.abs(after))) {
    return null;
  }
  return { at: times[known[split]], before, after };
}

/**
 * What a chart knows about one moment's completeness.
 * @param {number} completeness 0 to 1, NaN if nobody looked
 */
export function completenessOf(completeness) {
  return Number.isNaN(completeness) ? "unseen" : completeness < 1 ? "partial" : "complete";
}
