// Mouse, pen, fingers and arrow keys on a chart. Vertical scrolling always works.

import { pointAt } from "./points.js";

/** Shortest drag that zooms, in pixels. */
const DRAG = 6;

/**
 * @param {import("./chart.js").Chart} chart
 * @param {import("./charts.js").Charts} board
 */
export function pointer(chart, board) {
  const { plot } = chart;
  /** @type {Map<number, number>} */
  const fingers = new Map();
  /** @type {{ x: number, time: number, isPan: boolean, window: { from: number, to: number } } | null} */
  let drag = null;
  let spread = 0;
  plot.style.touchAction = "pan-y";

  const timeAt = (/** @type {number} */ clientX) => {
    const { place, model } = chart;
    if (!place || !model) {
      return null;
    }
    const x = clientX - plot.getBoundingClientRect().left;
    // Right of the last closed interval the open one can be asked for.
    const most = model.open ? Math.max(model.to, model.open.now) : model.to;
    return Math.min(most, Math.max(model.from, place.x.from(x)));
  };

  plot.addEventListener("pointermove", (event) => {
    const time = timeAt(event.clientX);
    if (time === null) {
      return;
    }
    if (fingers.has(event.pointerId)) {
      fingers.set(event.pointerId, event.clientX);
    }
    if (fingers.size === 2) {
      return;
    }
    if (drag?.isPan) {
      // The picture goes along with the pointer; it is drawn anew at the end.
      chart.base.style.transform = `translateX(${Math.round(event.clientX - drag.x)}px)`;
    }
    board.point({
      time,
      chart,
      from: drag && !drag.isPan && Math.abs(event.clientX - drag.x) >= DRAG ? drag.time : null,
    });
  });
  plot.addEventListener("pointerleave", () => {
    if (!drag && document.activeElement !== plot) {
      board.point(null);
    }
  });
  plot.addEventListener("pointerdown", (event) => {
    const time = timeAt(event.clientX);
    if (time === null || event.button !== 0) {
      return;
    }
    if (event.pointerType === "touch") {
      fingers.set(event.pointerId, event.clientX);
      if (fingers.size === 2) {
        const [a, b] = [...fingers.values()];
        spread = Math.abs(a - b);
      }
      board.point({ time, chart });
      return;
    }
    plot.setPointerCapture(event.pointerId);
    drag = { x: event.clientX, time, isPan: event.shiftKey, window: board.window };
  });
  const ended = (/** @type {PointerEvent} */ event) => {
    if (fingers.size === 2 && spread > 0) {
      const [a, b] = [...fingers.values()];
      const zoom = spread / Math.max(20, Math.abs(a - b));
      if (zoom < 0.8 || zoom > 1.25) {
        board.move({ zoom, around: timeAt((a + b) / 2) ?? undefined });
      }
    }
    fingers.delete(event.pointerId);
    const [was, time] = [drag, timeAt(event.clientX)];
    drag = null;
    chart.base.style.transform = "";
    if (!was || time === null || event.type === "pointercancel" || Math.abs(event.clientX - was.x) < DRAG) {
      return;
    }
    const { from, to } = was.window;
    if (was.isPan) {
      board.move({ shift: -((event.clientX - was.x) / Math.max(1, plot.clientWidth)) });
    } else {
      const [first, last] = [Math.min(was.time, time), Math.max(was.time, time)];
      // At least three intervals, else there is nothing to see.
      const least = Math.min(to - from, board.interval * 3);
      board.show(first, Math.max(last, first + Math.max(10, least)));
    }
    board.point(null);
  };
  plot.addEventListener("pointerup", ended);
  plot.addEventListener("pointercancel", ended);
  plot.addEventListener("dblclick", () => board.reset());
  plot.addEventListener("blur", () => board.point(null));
  plot.addEventListener("keydown", (event) => keyed(event, chart, board));
}

/**
 * @param {KeyboardEvent} event
 * @param {import("./chart.js").Chart} chart
 * @param {import("./charts.js").Charts} board
 */
function keyed(event, chart, board) {
  const { model } = chart;
  if (!model?.times.length || event.ctrlKey || event.altKey || event.metaKey) {
    return;
  }
  const { times } = model;
  const last = times.length - 1;
  const at = board.cross ? pointAt(times, model.step, board.cross.time) : last;
  const by = event.shiftKey ? 10 : 1;
  const targets = /** @type {Record<string, number>} */ ({
    ArrowLeft: at - by,
    ArrowRight: at + by,
    Home: 0,
    End: last,
  });
  if (event.key === "Escape" && board.cross) {
    board.point(null);
  } else if (event.key in targets) {
    const next = Math.max(0, Math.min(last, targets[event.key]));
    board.point({ time: times[next], chart, isByKey: true });
  } else {
    return;
  }
  event.preventDefault();
  event.stopPropagation();
}
