// One chart: a figure of the served page, two canvases, a tooltip, a table and a sentence.

import { colorOf, crosshair, draw, endLabels, isThin, layout, MOST_LINES, mostCounted, readings } from "./draw.js";
import { clock, duration, fieldName, fieldUnit, number, percent, span, withUnit } from "./format.js";
import { columnOf } from "./history.js";
import { change, extent, holes, pointAt, stacked } from "./points.js";

/** Most rows of the table of a chart. */
const TABLE_ROWS = 40;

/**
 * @param {string} tag
 * @param {string} name
 * @param {string} [text]
 */
export function made(tag, name, text = "") {
  const element = document.createElement(tag);
  element.className = name;
  element.textContent = text;
  // What is made here is not the server's, and stays when a fragment of the page is exchanged.
  element.dataset.js = "";
  return element;
}

/**
 * Blanks separate; values that hold blanks come as a JSON array.
 * @param {string | undefined} text
 * @returns {string[]}
 */
export function listed(text) {
  const given = (text ?? "").trim();
  if (given.startsWith("[")) {
    try {
      return JSON.parse(given).map(String);
    } catch {
      return [];
    }
  }
  return given ? given.split(/\s+/) : [];
}

/**
 * What makes a series differ from the others of a chart: its tags that differ, or its name.
 * @param {import("./history.js").AnswerSeries[]} all
 * @returns {string[]}
 */
export function labelsOf(all) {
  if (new Set(all.map(({ name }) => name)).size > 1 || all.length === 1) {
    return all.map(({ name }) => name);
  }
  const keys = [...new Set(all.flatMap(({ tags }) => Object.keys(tags)))];
  const differing = keys.filter((key) => new Set(all.map(({ tags }) => String(tags[key]))).size > 1);
  return all.map(({ name, tags }) => differing.map((key) => String(tags[key] ?? "not set")).join(" ") || name);
}

/**
 * Where a field of a timer lies among the others: 0 to 100, the largest value last.
 * @param {string} field
 */
function rank(field) {
  return field === "max" ? 101 : field === "min" ? -1 : field === "median" ? 50 : Number(field.slice(1));
}

/**
 * Fields of bands from the lowest to the highest; the median stands once, and the middle ones give way where there are too
 * many.
 * @param {string[]} fields
 */
export function bandsOf(fields) {
  const known = fields.filter((field) => /^(min|max|median|p\d.*)$/.test(field));
  const once = known.filter((field) => field !== "median" || !known.includes("p50")).sort((a, b) => rank(a) - rank(b));
  return once.length > MOST_LINES ? [...once.slice(0, 2), ...once.slice(2 - MOST_LINES)] : once;
}

/**
 * Fields to draw where the figure names none.
 * @param {string} type
 * @param {import("./history.js").AnswerSeries} one
 */
export function fieldsOf(type, one) {
  const has = Object.keys(one.fields);
  if (one.kind === "counter") {
    return ["rate"];
  }
  if (!has.includes("median")) {
    return has.includes("value") ? ["value"] : has.slice(0, 1);
  }
  const bands = bandsOf(has.filter((field) => field !== "min"));
  return type === "bands" ? bands : [bands.filter((field) => field !== "max").pop() ?? "max"];
}

/**
 * Marks of what this page did not get, because the daemon was away: one that was started anew knows nothing of before. The
 * start that ends such a time says no more than its sign.
 * @param {{ ring: { times: ArrayLike<number> }, step: number, resolution: string }} block
 * @param {import("./draw.js").Mark[]} marks those that are known
 * @returns {import("./draw.js").Mark[]}
 */
export function unseen({ ring, step, resolution }, marks) {
  if (resolution !== "interval") {
    return [];
  }
  const isKnown = (/** @type {number} */ from, /** @type {number} */ to) =>
    marks.some((mark) => mark.kind === "not_seen" && mark.from < to && mark.to > from);
  return holes(ring.times, step)
    .filter(([from, to]) => !isKnown(from, to))
    .map(([from, to]) => {
      const start = marks.find((mark) => mark.kind === "restart" && mark.from > from && mark.from <= to + step);
      const end = start?.from ?? to;
      const length = `${duration(Math.round(end - from))} not seen`;
      if (start) {
        start.text = "";
      }
      return { from, to: end, kind: "not_seen", text: start ? `daemon restarted, ${length}` : length };
    });
}

export class Chart {
  /**
   * @param {HTMLElement} figure
   * @param {import("./charts.js").Charts} board
   */
  constructor(figure, board) {
    this.figure = figure;
    this.board = board;
    this.plot = /** @type {HTMLElement} */ (figure.querySelector(".plot") ?? figure.appendChild(made("div", "plot")));
    /** @type {import("./history.js").Block | null} */
    this.block = null;
    /** @type {import("./draw.js").Model | null} */
    this.model = null;
    /** @type {import("./draw.js").Geometry | null} */
    this.place = null;
    this.isVisible = false;
    this.isStale = true;
    this.size = { width: 0, height: 0 };
    /** @type {import("./draw.js").Room | undefined} */
    this.least = undefined;
    this.base = this.#canvas();
    this.over = this.#canvas();
    this.tip = made("div", "tip");
    this.tip.hidden = true;
    this.note = made("p", "chart-note");
    this.note.hidden = true;
    this.sentence = made("p", "hide");
    Chart.count += 1;
    this.sentence.id = `chart-${Chart.count}`;
    this.readout = made("span", "readout");
    this.button = /** @type {HTMLButtonElement} */ (made("button", "as-table", "Show as table"));
    this.button.type = "button";
    this.button.setAttribute("aria-expanded", "false");
    this.button.addEventListener("click", () => board.toggleTable(this));
    this.table = made("div", "chart-table");
    this.table.hidden = true;
    const caption =
      figure.querySelector("figcaption") ?? figure.insertBefore(document.createElement("figcaption"), this.plot);
    // A heading that only ears get has no button in it.
    caption.append(...(caption.matches(".hide") ? [this.readout] : [this.readout, this.button]));
    this.plot.append(this.base, this.over, this.note, this.tip);
    figure.append(this.sentence, this.table);
    this.plot.tabIndex = 0;
    this.plot.setAttribute("role", "slider");
    this.plot.setAttribute("aria-describedby", this.sentence.id);
    this.plot.setAttribute("aria-valuemin", "0");
    this.read();
  }

  static count = 0;

  #canvas() {
    const canvas = /** @type {HTMLCanvasElement} */ (made("canvas", ""));
    canvas.setAttribute("aria-hidden", "true");
    return canvas;
  }

  /** Reads what the figure asks for; whether that is something else than before. */
  read() {
    const { dataset } = this.figure;
    const spec = {
      type: dataset.chart ?? "line",
      ids: listed(dataset.ids),
      ledger: listed(dataset.ledger),
      fields: listed(dataset.fields),
      labels: listed(dataset.labels ?? dataset.names),
      isSum: dataset.sum !== undefined,
      perSec: dataset.perSec !== undefined,
      unit: dataset.unit,
      isCompare: dataset.compare !== undefined,
      isSmall: dataset.small !== undefined,
      isLog: dataset.log !== undefined,
      estimated: dataset.estimated ?? "",
      color: dataset.class ?? "",
      events: listed(dataset.events ?? "event loss limit"),
    };
    const text = JSON.stringify(spec);
    const isOther = this.specText !== text;
    this.specText = text;
    this.spec = spec;
    const title = (
      this.figure.querySelector("figcaption b, figcaption strong, figcaption h2, figcaption h3") ??
      this.figure.querySelector("figcaption")
    )?.firstChild?.textContent?.trim();
    this.plot.setAttribute("aria-label", title || "Chart");
    return isOther;
  }

  /** @returns {import("./history.js").Need} */
  get need() {
    const { type, ids, ledger } = /** @type {NonNullable<typeof this.spec>} */ (this.spec);
    return { ids: ids.slice(0, MOST_LINES), ledger, heat: type === "heat" };
  }

  /** @param {import("./history.js").Block} block */
  #lines(block) {
    const spec = /** @type {NonNullable<typeof this.spec>} */ (this.spec);
    const { ring } = block;
    /** @type {import("./draw.js").Line[]} */
    const lines = [];
    const unit = spec.unit ?? (spec.perSec ? "/s" : "");
    const columns = spec.ledger.map((path) => ring.column(path));
    const paths = spec.isSum ? spec.ledger.slice(0, 1) : spec.ledger;
    paths.forEach((path, at) => {
      const values = spec.isSum ? (stacked(columns).pop() ?? columns[at]) : columns[at];
      const name = spec.isSum ? "" : (path.split(".").pop() ?? path).replaceAll("_", " ");
      lines.push({
        key: path,
        field: path.split(".").pop() ?? path,
        label: spec.labels[at] ?? name,
        kind: "",
        unit,
        values: spec.perSec ? values.map((value) => value / block.interval) : values,
        least: null,
        most: null,
        updated: null,
      });
    });
    const known = spec.ids.map((id) => block.series.get(id)).filter((one) => one !== undefined);
    const names = labelsOf(known);
    known.forEach((one, at) => {
      const named = spec.fields.filter((field) => field in one.fields);
      const fields =
        spec.type === "bands" && named.length ? bandsOf(named) : spec.fields.length ? named : fieldsOf(spec.type, one);
      for (const field of fields) {
        const has = (/** @type {"min" | "max"} */ part) =>
          ring.columns.has(columnOf(one.id, field, part)) ? ring.column(columnOf(one.id, field, part)) : null;
        const name = spec.labels[at] ?? names[at];
        const updated = columnOf(one.id, "value", "updated");
        lines.push({
          key: columnOf(one.id, field),
          field,
          label: known.length === 1 ? (field === "value" || field === "rate" ? "" : fieldName(field)) : name,
          kind: one.kind,
          unit: spec.unit && field !== "rate" && field !== "count" ? spec.unit : fieldUnit(one.kind, field),
          values: ring.column(columnOf(one.id, field)),
          least: has("min"),
          most: has("max"),
          updated: ring.columns.has(updated) ? ring.column(updated) : null,
        });
      }
    });
    return lines;
  }

  /**
   * What is to be drawn.
   * @param {{ from: number, to: number }} window
   * @param {import("./draw.js").Flag[]} flags
   * @param {{ utc: boolean, log: boolean }} state
   */
  build(window, flags, { utc, log }) {
    const { block } = this;
    const spec = /** @type {NonNullable<typeof this.spec>} */ (this.spec);
    if (!block?.isLoaded) {
      this.#fault();
      return;
    }
    const all = this.#lines(block);
    // Of a whole, parts that were never there are not named.
    const parts = spec.type === "stack" ? all.filter((line) => extent([line.values])[1] > 0) : all;
    const lines = (parts.length ? parts : all.slice(0, 1)).slice(0, MOST_LINES);
    const times = block.ring.times;
    const heat = (spec.type === "heat" && block.heatOf(spec.ids[0])) || null;
    const marks = block.marks.map((mark) => ({
      ...mark,
      text: mark.kind === "given_up" ? `given up before ${clock(mark.to, utc, false)}` : mark.text,
    }));
    marks.push(...unseen(block, marks));
    const isGivenUp = marks.some(({ kind, to }) => kind === "given_up" && to > window.from);
    if (!isGivenUp && block.first > window.from + block.step) {
      const start = marks.find(({ kind, from }) => kind === "restart" && Math.abs(from - block.first) < block.step * 2);
      if (start) {
        start.text = "";
      }
      const text = `${start ? "daemon started" : "no history before"} ${clock(block.first, utc)}`;
      marks.push({ from: window.from, to: block.first, kind: "before", text });
    }
    const firstRow = heat?.counts.findIndex((row) => row !== null) ?? -1;
    if (firstRow > 0 && times[firstRow] - block.step * 2 > window.from) {
      // Distributions are kept from the first time on that somebody looks.
      const to = times[firstRow] - block.step;
      marks.push({
        from: Math.max(window.from, block.first || 0),
        to,
        kind: "before",
        text: `distribution kept since ${clock(to, utc)}`,
      });
    }
    this.model = {
      type: spec.type,
      from: window.from,
      to: window.to,
      step: block.step,
      times,
      completeness: block.ring.column("completeness"),
      lines: heat ? [] : lines,
      unit: spec.unit ?? lines[0]?.unit ?? "",
      color: spec.color,
      heat,
      marks,
      flags,
      open: block.open,
      log: spec.isLog || log,
      small: spec.isSmall,
      compare: spec.isCompare,
      utc,
    };
    this.more = Math.max(0, parts.length - MOST_LINES) + Math.max(0, spec.ids.length - MOST_LINES);
    this.#fault();
    this.sentence.textContent = this.#sentence();
    this.plot.setAttribute("aria-valuemax", String(Math.max(0, times.length - 1)));
    this.idle();
  }

  /** What went wrong, in place of a picture or over the last one. */
  #fault() {
    const fault = this.block?.fault ?? "";
    this.note.hidden = !fault;
    this.note.textContent = fault;
  }

  /** The sentence of the chart, for who cannot see it. */
  #sentence() {
    const model = /** @type {import("./draw.js").Model} */ (this.model);
    if (model.heat) {
      const total = model.heat.counts.reduce((sum, row) => sum + (row?.reduce((all, count) => all + count, 0) ?? 0), 0);
      return `${number(total)} samples, by interval and value.`;
    }
    const main = model.lines.find(({ values }) => !Number.isNaN(extent([values])[0]));
    if (!main) {
      return "No sample in this time.";
    }
    const name = main.label || fieldName(main.field);
    const [least, most] = extent([main.values]);
    const found = change(model.times, main.values);
    const last = main.values[main.values.length - 1];
    const now = Number.isNaN(last) ? "has none now" : `is ${withUnit(last, main.unit)}`;
    if (found) {
      const [before, after] = [withUnit(found.before, main.unit), withUnit(found.after, main.unit)];
      const way = found.after > found.before ? "rose" : "fell";
      return `${name} ${way} from ${before} to ${after} at ${clock(found.at, model.utc)}; it ${now}.`;
    }
    return `${name} ${now}, between ${withUnit(least, main.unit)} and ${withUnit(most, main.unit)}.`;
  }

  /** The heading without a crosshair. */
  idle() {
    const { model, block } = this;
    const words = [];
    if (this.more && this.more > 0) {
      words.push(`${this.more} more`);
    }
    if (block && block.resolution !== "interval") {
      words.push(block.step >= 60 ? `each point ${number(block.step / 60)} min` : `each point ${number(block.step)} s`);
    }
    const thin = model ? model.lines.filter((_, at) => isThin(model, at)).map(({ label }) => label) : [];
    if (thin.length) {
      words.push(`too few to see: ${thin.join(", ")}`);
    }
    if (model?.heat) {
      const most = mostCounted(model.heat);
      words.push(most ? `up to ${number(most)} samples` : "gathered from now on, while this page is open");
    } else if (model?.type === "heat") {
      words.push("gathered from now on, while this page is open");
    }
    this.readout.textContent = words.join(" · ");
    this.readout.title = this.readout.textContent;
    this.tip.hidden = true;
    const last = Math.max(0, (model?.times.length ?? 1) - 1);
    this.#value(last);
  }

  /** @param {number} point */
  #value(point) {
    const { model } = this;
    this.plot.setAttribute("aria-valuenow", String(Math.max(0, point)));
    if (model && point >= 0 && point < model.times.length) {
      const rows = readings(model, point, this.spec?.estimated ?? "").map(([label, value]) =>
        `${label} ${value}`.trim(),
      );
      this.plot.setAttribute("aria-valuetext", `${this.#when(point)}: ${rows.join(", ")}`);
    }
  }

  /** @param {number} point */
  #when(point) {
    const model = /** @type {import("./draw.js").Model} */ (this.model);
    return span(model.times[point] - model.step, model.times[point], model.utc);
  }

  /**
   * What it needs beside its plot; nothing while it is not drawn.
   * @param {import("./draw.js").Theme} theme
   * @returns {import("./draw.js").Room | undefined}
   */
  room(theme) {
    const { width, height } = this.size;
    if (!this.model || width < 40 || height < 40) {
      return undefined;
    }
    const ctx = /** @type {CanvasRenderingContext2D} */ (this.base.getContext("2d"));
    ctx.font = `11px ${theme.family}`;
    const { left, right } = layout(ctx, this.model, width, height, endLabels(this.model, width));
    return { left, right: width - right - 2 };
  }

  /** @param {import("./draw.js").Room | undefined} room whether it is another one than it is drawn with */
  takes(room) {
    return room !== undefined && (room.left !== this.least?.left || room.right !== this.least?.right);
  }

  /**
   * @param {import("./draw.js").Theme} theme
   * @param {import("./draw.js").Room} [least] what is left free beside the plot
   */
  render(theme, least) {
    const { width, height } = this.size;
    if (!this.model || width < 40 || height < 40) {
      return;
    }
    const ratio = Math.min(2, devicePixelRatio || 1);
    for (const canvas of [this.base, this.over]) {
      if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(height * ratio);
        canvas.style.width = `${width}px`;
        canvas.style.height = `${height}px`;
      }
    }
    const ctx = /** @type {CanvasRenderingContext2D} */ (this.base.getContext("2d"));
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.least = least;
    this.place = draw(ctx, this.model, width, height, theme, least);
    this.figure.classList.add("drawn");
    this.isStale = false;
    if (!this.table.hidden) {
      this.fillTable();
    }
  }

  /**
   * Shows the crosshair, or takes it away.
   * @param {{ time: number, from: number | null, chart: Chart | null, isByKey: boolean } | null} cross
   * @param {import("./draw.js").Theme} theme
   */
  point(cross, theme) {
    const ctx = /** @type {CanvasRenderingContext2D} */ (this.over.getContext("2d"));
    const ratio = Math.min(2, devicePixelRatio || 1);
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.clearRect(0, 0, this.size.width, this.size.height);
    if (!cross || !this.model || !this.place) {
      this.idle();
      return;
    }
    const point = pointAt(this.model.times, this.model.step, cross.time);
    ctx.font = `11px ${theme.family}`;
    crosshair(ctx, this.model, this.place, theme, { time: cross.time, point, from: cross.from });
    if (cross.chart === this) {
      this.#tooltip(cross.time, point, theme);
      this.#value(point);
      this.readout.textContent = "";
    } else {
      this.tip.hidden = true;
      const rows = point < 0 ? [] : readings(this.model, point, "").filter(([, , line]) => line >= 0);
      this.readout.textContent = rows
        .slice(0, 4)
        .map(([label, value]) => `${label} ${value}`.trim())
        .join(" · ");
    }
  }

  /**
   * @param {number} time
   * @param {number} point
   * @param {import("./draw.js").Theme} theme
   */
  #tooltip(time, point, theme) {
    const model = /** @type {import("./draw.js").Model} */ (this.model);
    const place = /** @type {import("./draw.js").Geometry} */ (this.place);
    const { open } = model;
    const isOpen = open !== null && time > open.from;
    const mark = model.marks.find(({ from, to }) => time > from && time <= to);
    const shown = [
      made(
        "b",
        "",
        isOpen && open ? span(open.from, open.to, model.utc) : point < 0 ? clock(time, model.utc) : this.#when(point),
      ),
    ];
    if (!model.utc) {
      const end = point < 0 ? time : model.times[point];
      shown.push(made("small", "", `${clock(end, true)} UTC`));
    }
    if (isOpen && open) {
      shown.push(
        made("div", "", `${number(Math.floor(open.now - open.from))} of ${number(open.to - open.from)} s, still open`),
      );
    } else if (point < 0) {
      shown.push(made("div", "", mark?.text || "nothing is known of this time"));
    } else {
      for (const [label, value, line] of readings(model, point, this.spec?.estimated ?? "")) {
        const row = made("div", "row");
        const sign = made("i", "");
        if (line >= 0) {
          sign.style.background = colorOf(model, theme, line);
        }
        row.append(sign, made("span", "", label), made("b", "", value));
        shown.push(row);
      }
      for (const flag of model.flags
        .filter((one) => pointAt(model.times, model.step, one.time) === point)
        .slice(0, 3)) {
        shown.push(made("div", "flag", flag.text));
      }
    }
    this.tip.replaceChildren(...shown);
    this.tip.hidden = false;
    const x = place.x.to(time);
    const width = this.tip.offsetWidth;
    const left = x + 14 + width > this.size.width ? x - 14 - width : x + 14;
    this.tip.style.transform = `translate(${Math.round(Math.max(0, Math.min(left, this.size.width - width)))}px, ${Math.round(place.top + 6)}px)`;
  }

  /** The last points as a table. */
  fillTable() {
    const { model } = this;
    if (!model) {
      return;
    }
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    for (const text of ["Interval", ...model.lines.map((line) => line.label || fieldName(line.field)), "Complete"]) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = text;
      head.append(cell);
    }
    const body = table.createTBody();
    for (let at = model.times.length - 1; at >= Math.max(0, model.times.length - TABLE_ROWS); at -= 1) {
      const row = body.insertRow();
      const share = model.completeness[at];
      const texts = [
        this.#when(at),
        ...model.lines.map((line) => withUnit(line.values[at], line.unit)),
        Number.isNaN(share) ? "not seen" : percent(share),
      ];
      for (const text of texts) {
        row.insertCell().textContent = text;
      }
    }
    this.table.replaceChildren(table);
  }

  /** @param {boolean} isOpen */
  showTable(isOpen) {
    this.table.hidden = !isOpen;
    this.button.textContent = isOpen ? "Hide the table" : "Show as table";
    this.button.setAttribute("aria-expanded", String(isOpen));
    isOpen ? this.fillTable() : this.table.replaceChildren();
  }
}
