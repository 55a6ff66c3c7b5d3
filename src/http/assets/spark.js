// Small lines in rows of tables, as SVG like those the daemon serves.

import { runs } from "./points.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 120;
const HEIGHT = 30;

/**
 * The scale of a small line spans at least 30 % of its maximum, so that noise looks like noise.
 * @param {(number | null)[]} values
 * @returns {[number, number] | null} bottom and top
 */
export function sparkScale(values) {
  const known = values.filter((value) => value !== null);
  if (!known.length) {
    return null;
  }
  const [least, most] = [Math.min(...known), Math.max(...known)];
  if (most === 0 && least === 0) {
    // Nothing lies at the bottom.
    return [0, 1];
  }
  const span = 0.3 * Math.max(Math.abs(most), Math.abs(least));
  const middle = (least + most) / 2;
  return most - least >= span ? [least, most] : [middle - span / 2, middle + span / 2];
}

/**
 * Paths of a small line and of the area under it, with gaps as gaps and lone values as dots.
 * @param {(number | null)[]} values
 * @returns {{ line: string, area: string }}
 */
export function sparkPaths(values) {
  const scale = sparkScale(values);
  if (!scale) {
    return { line: "", area: "" };
  }
  const [bottom, top] = scale;
  const tenth = (/** @type {number} */ value) => Math.round(value * 10) / 10;
  const x = (/** @type {number} */ at) => (values.length === 1 ? WIDTH : tenth((at / (values.length - 1)) * WIDTH));
  const y = (/** @type {number} */ value) => tenth(HEIGHT - 6 - ((value - bottom) / (top - bottom)) * (HEIGHT - 9));
  const numbers = Float64Array.from(values, (value) => value ?? Number.NaN);
  let [line, area] = ["", ""];
  for (const [first, last] of runs(
    Float64Array.from(values, (_, at) => at),
    numbers,
    1,
  )) {
    const points = [];
    for (let at = first; at <= last; at += 1) {
      points.push(`${x(at)} ${y(numbers[at])}`);
    }
    line += points.length === 1 ? `M${points[0]}h0` : `M${points.join("L")}`;
    area += `M${points.join("L")}L${x(last)} ${HEIGHT}L${x(first)} ${HEIGHT}Z`;
  }
  return { line, area };
}

/** @returns {SVGSVGElement} */
export function sparkElement() {
  const svg = /** @type {SVGSVGElement} */ (document.createElementNS(SVG, "svg"));
  svg.setAttribute("class", "spark s1");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const area = document.createElementNS(SVG, "path");
  area.setAttribute("class", "fill");
  svg.append(area, document.createElementNS(SVG, "path"));
  return svg;
}

/**
 * @param {Element} svg as `sparkElement` makes it
 * @param {(number | null)[]} values
 */
export function setSpark(svg, values) {
  const { line, area } = sparkPaths(values);
  svg.firstElementChild?.setAttribute("d", area);
  svg.lastElementChild?.setAttribute("d", line);
}
