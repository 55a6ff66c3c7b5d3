// Scales and ticks of charts. Pure.

/**
 * From values to pixels and back.
 * @typedef {{ to: (value: number) => number, from: (pixel: number) => number, low: number, high: number, log: boolean }} Scale
 */

/**
 * @param {number} low
 * @param {number} high
 * @param {number} start pixel of `low`
 * @param {number} end pixel of `high`
 * @returns {Scale}
 */
export function linear(low, high, start, end) {
  const per = (end - start) / (high - low || 1);
  return {
    to: (value) => start + (value - low) * per,
    from: (pixel) => low + (pixel - start) / per,
    low,
    high,
    log: false,
  };
}

/**
 * Logarithmic; what is not above zero lies at `start`.
 * @param {number} low above 0
 * @param {number} high
 * @param {number} start pixel of `low`
 * @param {number} end pixel of `high`
 * @returns {Scale}
 */
export function logarithmic(low, high, start, end) {
  const least = Math.log(low);
  const per = (end - start) / (Math.log(high) - least || 1);
  return {
    to: (value) => (value > low ? start + (Math.log(value) - least) * per : start),
    from: (pixel) => Math.exp(least + (pixel - start) / per),
    low,
    high,
    log: true,
  };
}

/**
 * The next larger of 1, 2, 2.5, 5 times a power of ten; with `whole` no fraction.
 * @param {number} rough
 * @param {boolean} whole
 */
export function niceStep(rough, whole = false) {
  const power = 10 ** Math.floor(Math.log10(rough));
  const share = rough / power;
  const eps = 1e-9;
  const step =
    (share <= 1 + eps ? 1 : share <= 2 + eps ? 2 : share <= 2.5 + eps ? 2.5 : share <= 5 + eps ? 5 : 10) * power;
  return whole ? Math.max(1, step === 2.5 ? 5 : step) : step;
}

/**
 * Range and ticks of a linear axis: 3 to 5 ticks that enclose the values.
 * @param {number} least
 * @param {number} most
 * @param {{ zero?: boolean, whole?: boolean, count?: number }} [options] `zero`: the axis begins at zero;
 *   `whole`: only whole numbers make sense; `count`: parts to aim at
 * @returns {{ low: number, high: number, ticks: number[] }}
 */
export function axis(least, most, { zero = false, whole = false, count = 4 } = {}) {
  let low = zero ? Math.min(0, least) : least;
  let high = zero ? Math.max(0, most) : most;
  if (!Number.isFinite(low) || !Number.isFinite(high)) {
    return { low: 0, high: 1, ticks: [0, 0.5, 1] };
  }
  if (high - low <= Math.abs(high) * 1e-9) {
    // A flat line lies on the floor if it is zero, in the middle else.
    const room = high === 0 ? 1 : Math.abs(high) / 2;
    high += room;
    low = zero && least >= 0 ? Math.min(low, 0) : low - (high - room === 0 ? 0 : room);
  }
  const step = niceStep((high - low) / count, whole);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  const ticks = [];
  for (let at = first; at <= last; at += 1) {
    ticks.push(Number((at * step).toPrecision(12)));
  }
  return { low: ticks[0], high: ticks[ticks.length - 1], ticks };
}

/**
 * Range and ticks of a logarithmic axis: 1 and 3 times powers of ten, or the powers alone where that is too many.
 * @param {number} least
 * @param {number} most
 * @returns {{ low: number, high: number, ticks: number[] }}
 */
export function logAxis(least, most) {
  const top = most > 0 && Number.isFinite(most) ? most : 1;
  const bottom = least > 0 && Number.isFinite(least) ? Math.min(least, top) : top / 1000;
  const low = 10 ** Math.floor(Math.log10(bottom) + 1e-9);
  let high = 10 ** Math.ceil(Math.log10(top) - 1e-9);
  if (high <= low) {
    high = low * 10;
  }
  const decades = Math.round(Math.log10(high / low));
  const every = Math.ceil(decades / 5);
  const ticks = [];
  for (let decade = 0; decade <= decades; decade += every) {
    const at = Number((low * 10 ** decade).toPrecision(6));
    ticks.push(at);
    if (decades <= 3 && at * 3 < high) {
      ticks.push(Number((at * 3).toPrecision(6)));
    }
  }
  return { low, high, ticks };
}

const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400];

/**
 * Moments to write on a time axis: round times of day, at most `most` of them.
 * @param {number} from Unix seconds
 * @param {number} to Unix seconds
 * @param {number} most
 * @param {number} shift seconds that the shown clock is ahead of UTC
 * @returns {{ step: number, ticks: number[] }}
 */
export function timeTicks(from, to, most, shift) {
  const days = Math.ceil((to - from) / Math.max(1, most) / 86_400);
  const step = TIME_STEPS.find((candidate) => (to - from) / candidate <= most) ?? days * 86_400;
  const ticks = [];
  for (let at = Math.ceil((from + shift) / step) * step - shift; at <= to; at += step) {
    ticks.push(at);
  }
  return { step, ticks };
}

/**
 * Moves labels apart so that none is nearer than `gap` to the next, inside of `top` and `bottom`; keeps their order. Of those
 * at the same place the later stands higher: percentiles and parts of a whole grow upwards.
 * @param {number[]} wanted positions
 * @param {number} gap
 * @param {number} top
 * @param {number} bottom
 */
export function spread(wanted, gap, top, bottom) {
  const order = wanted.map((_, at) => at).sort((a, b) => wanted[a] - wanted[b] || b - a);
  const placed = wanted.slice();
  let least = top;
  for (const at of order) {
    placed[at] = Math.max(least, placed[at]);
    least = placed[at] + gap;
  }
  let most = bottom;
  for (const at of order.reverse()) {
    placed[at] = Math.min(most, placed[at]);
    most = placed[at] - gap;
  }
  return placed;
}
