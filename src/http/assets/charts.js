// All charts of the page: one window of time, one crosshair, few requests, and drawn in one frame, only what is seen.

import { Chart } from "./chart.js";
import { Theme } from "./draw.js";
import { ask, daemonNow, pack, Refusal } from "./history.js";
import { pointer } from "./pointer.js";
import { state, update } from "./state.js";
import { DEFAULT_RANGE, moved, windowOf } from "./url.js";

/** Least intervals that a window shows before the range is full. */
const LEAST_INTERVALS = 30;

/** How often the interval that was closed is asked for again, and the pauses between, in milliseconds. */
const LATE_TRIES = 5;
const LATE_PAUSE = 150;

/** Colours of events by what they say. */
const EVENT_STATES = /** @type {Record<string, string>} */ ({ error: "down", warning: "late", ok: "up" });

/**
 * Whether an event concerns a chart of these series: one of a service only those that it sends.
 *
 * @param {{ service?: string | null }} event
 * @param {string[] | undefined} ids
 */
function concerns({ service }, ids = []) {
  const tag = `;service=${(service ?? "").replace(/[\\;=]/g, "\\$&")}`;
  return !service || ids.some((id) => `${id};`.includes(`${tag};`));
}

export class Charts {
  constructor() {
    /** @type {Map<HTMLElement, Chart>} */
    this.all = new Map();
    /** @type {import("./history.js").Block[]} */
    this.blocks = [];
    /** @type {{ time: number, title: string, kind: string, level: string, service?: string | null }[]} */
    this.events = [];
    /** @type {{ time: number, from: number | null, chart: Chart | null, isByKey: boolean } | null} */
    this.cross = null;
    this.theme = new Theme();
    this.frame = 0;
    this.loads = 0;
    this.interval = Number(document.documentElement.dataset.interval) || 10;
    this.seen = new IntersectionObserver(
      (entries) => {
        for (const { target, isIntersecting } of entries) {
          const chart = this.#of(target);
          if (chart) {
            chart.isVisible = isIntersecting;
          }
        }
        this.paint();
      },
      { rootMargin: "200px" },
    );
    this.sized = new ResizeObserver((entries) => {
      for (const { target, contentRect } of entries) {
        const chart = this.#of(target);
        if (chart) {
          chart.size = { width: Math.floor(contentRect.width), height: Math.floor(contentRect.height) };
          chart.isStale = true;
        }
      }
      this.paint();
    });
  }

  /** @param {Element} plot */
  #of(plot) {
    return [...this.all.values()].find((chart) => chart.plot === plot);
  }

  /** Looks for charts that are new, gone or others; whether there are any such. */
  scan() {
    let isOther = false;
    for (const [figure, chart] of this.all) {
      if (!figure.isConnected) {
        this.seen.unobserve(chart.plot);
        this.sized.unobserve(chart.plot);
        this.all.delete(figure);
        isOther = true;
      }
    }
    for (const figure of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("figure[data-chart]"))) {
      const known = this.all.get(figure);
      if (known) {
        isOther = known.read() || isOther;
        continue;
      }
      const chart = new Chart(figure, this);
      this.all.set(figure, chart);
      this.seen.observe(chart.plot);
      this.sized.observe(chart.plot);
      pointer(chart, this);
      isOther = true;
    }
    return isOther;
  }

  /** The end of what is known: of the last closed interval. */
  get now() {
    const known = Math.max(...this.blocks.map((block) => block.last).filter((time) => !Number.isNaN(time)));
    return Number.isFinite(known) ? known : Number(document.documentElement.dataset.last) || daemonNow();
  }

  /** What is shown. Until the range is full, only what there is, but enough to see a line move. */
  get window() {
    const now = state();
    const window = windowOf(now, this.now);
    if (now.from !== null || now.range !== DEFAULT_RANGE || new URLSearchParams(location.search).has("range")) {
      return window;
    }
    const first = Math.min(...this.blocks.map((block) => block.first).filter((time) => !Number.isNaN(time)));
    const least = window.to - LEAST_INTERVALS * this.interval;
    return { from: Math.max(window.from, Math.min(first, least)), to: window.to };
  }

  get isFixed() {
    return state().from !== null;
  }

  /** Everything anew; the old picture stays until the new one is there. */
  async load() {
    const charts = [...this.all.values()].filter(({ need }) => need.ids.length || need.ledger.length);
    const { blocks, of } = pack(charts.map((chart) => chart.need));
    const window = windowOf(state(), daemonNow());
    this.loads += 1;
    const mine = this.loads;
    await Promise.all(
      blocks.map(async (block) => {
        try {
          block.fill(await ask(block.url(window)));
        } catch (error) {
          block.fault = error instanceof Refusal ? error.message : "No answer.";
          if (!(error instanceof Refusal)) {
            throw error;
          }
        }
      }),
    );
    if (mine !== this.loads) {
      return;
    }
    this.blocks = blocks;
    this.interval = blocks[0]?.interval ?? this.interval;
    charts.forEach((chart, at) => {
      chart.block = of[at];
    });
    this.rebuild();
  }

  /**
   * What came since, after each interval.
   * @param {number} [end] of the interval that was closed just now; the history may have it a moment later
   * @param {number} [tries]
   */
  async tail(end = 0, tries = LATE_TRIES) {
    if (this.isFixed || !state().live) {
      return;
    }
    const { blocks } = this;
    await Promise.all(
      blocks.map(async (block) => {
        if (!block.isLoaded || Number.isNaN(block.last)) {
          const window = windowOf(state(), daemonNow());
          block.fill(await ask(block.url(window)));
          return;
        }
        const to = daemonNow() + 1;
        const isCoarse = block.resolution !== "interval";
        if (isCoarse && to - block.last < block.step) {
          return;
        }
        // The last of coarse points grows; and whoever was away for long begins anew.
        if (isCoarse || to - block.last > block.step * 300) {
          block.fill(await ask(block.url(windowOf(state(), to))));
        } else {
          block.append(await ask(block.url({ from: block.last - block.step * 0.5, to }, block.step)));
        }
      }),
    );
    const { from } = this.window;
    for (const block of blocks) {
      block.forget(from - block.step);
    }
    this.rebuild();
    const isLate = blocks.some(
      (block) => block.resolution === "interval" && block.isLoaded && !(block.last > end - block.step / 2),
    );
    if (isLate && tries > 0) {
      setTimeout(() => void this.tail(end, tries - 1).catch(() => undefined), LATE_PAUSE);
    }
  }

  /** @param {{ time: number, title: string, kind: string, level: string }[]} events */
  addEvents(events) {
    const known = new Set(this.events.map((event) => `${event.time} ${event.title}`));
    this.events = [...this.events, ...events.filter((event) => !known.has(`${event.time} ${event.title}`))]
      .sort((a, b) => a.time - b.time)
      .slice(-1000);
    this.rebuild();
  }

  rebuild() {
    const { window } = this;
    for (const chart of this.all.values()) {
      const kinds = chart.spec?.events ?? [];
      const flags = this.events
        .filter((event) => kinds.includes(event.kind) && event.time >= window.from && concerns(event, chart.spec?.ids))
        .map(({ time, title, level, kind }) => ({
          time,
          text: title,
          state: kind === "event" ? "accent" : (EVENT_STATES[level] ?? "accent"),
        }));
      chart.build(window, flags, state());
      chart.isStale = true;
    }
    this.paint();
  }

  /** The style sheet has other colours now. */
  restyle() {
    this.theme = new Theme();
    for (const chart of this.all.values()) {
      chart.isStale = true;
    }
    this.paint();
  }

  /** What charts of a width leave free beside their plots: as much as the one that needs most, so that their times line up. */
  #rooms() {
    /** @type {Map<number, import("./draw.js").Room>} */
    const rooms = new Map();
    for (const chart of this.all.values()) {
      const room = chart.room(this.theme);
      const { width } = chart.size;
      const most = rooms.get(width) ?? room;
      if (room && most) {
        rooms.set(width, { left: Math.max(room.left, most.left), right: Math.max(room.right, most.right) });
      }
    }
    return rooms;
  }

  paint() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      const rooms = this.#rooms();
      for (const chart of this.all.values()) {
        if (chart.isVisible && (chart.isStale || chart.takes(rooms.get(chart.size.width)))) {
          chart.render(this.theme, rooms.get(chart.size.width));
          this.cross && chart.point(this.cross, this.theme);
        }
      }
    });
  }

  /**
   * @param {{ time: number, from?: number | null, chart: Chart | null, isByKey?: boolean } | null} cross
   */
  point(cross) {
    const before = this.cross;
    this.cross = cross && { from: null, isByKey: false, ...cross };
    if (before === null && cross === null) {
      return;
    }
    this.pointing ||= requestAnimationFrame(() => {
      this.pointing = 0;
      for (const chart of this.all.values()) {
        chart.isVisible && chart.point(this.cross, this.theme);
      }
    });
  }

  /** @type {number} */
  pointing = 0;

  /**
   * @param {number} from Unix seconds
   * @param {number} to
   */
  show(from, to) {
    update({ from, to }, { push: true });
  }

  /** @param {{ shift?: number, zoom?: number, around?: number }} by */
  move(by) {
    const { from, to } = moved(this.window, by, Math.max(this.now, daemonNow()));
    this.show(from, to);
  }

  /** Back to the range that ends now. */
  reset() {
    update({ from: null, to: null }, { push: state().from !== null });
  }

  /** @param {Chart} chart one table at a time, so that the page stays small */
  toggleTable(chart) {
    const isOpen = chart.table.hidden !== false;
    for (const other of this.all.values()) {
      other.table.hidden || other.showTable(false);
    }
    chart.showTable(isOpen);
  }
}
