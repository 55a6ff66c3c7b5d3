// Lines as they arrive, in a list. The daemon samples them; nothing is asked for while nobody looks.

import { made } from "./chart.js";
import { clock } from "./format.js";
import { state } from "./state.js";

/** Most lines in the list. */
const MOST = 40;

/** Least time between two changes of the list, in milliseconds: faster nobody reads. */
const PACE = 250;

export class Tail {
  /** @param {HTMLElement} home with `data-match` and `data-from`, both may be empty */
  constructor(home) {
    this.home = home;
    this.note = made("p", "muted");
    this.list = made("ol", "lines");
    home.append(this.list, this.note);
    /** @type {EventSource | null} */
    this.source = null;
    /** @type {HTMLElement[]} */
    this.waiting = [];
    this.skipped = 0;
    this.url = "";
    this.timer = 0;
    this.isPaused = false;
    this.isVisible = false;
    new IntersectionObserver(([entry]) => {
      this.isVisible = entry.isIntersecting;
      this.check();
    }).observe(home);
    document.addEventListener("visibilitychange", () => this.check());
    addEventListener("pagehide", () => this.#close());
  }

  /** Opens or closes the stream, whatever the page looks like now. */
  check() {
    const wanted = this.isVisible && !this.isPaused && !document.hidden && this.home.isConnected;
    const { match = "" } = this.home.dataset;
    const sender = new URLSearchParams(location.search).get("sender") ?? "";
    // Those of the selected sender, if that is an address.
    const from = this.home.dataset.from ?? (/^[0-9a-f.:]+$/i.test(sender) ? sender : "");
    const query = new URLSearchParams();
    match && query.append("match", match);
    from && query.append("from", from);
    const url = `/api/v1/tail${query.size ? `?${query}` : ""}`;
    if (!wanted || url !== this.url) {
      this.#close();
    }
    if (wanted && !this.source) {
      this.url = url;
      this.source = new EventSource(url);
      this.source.addEventListener("line", (event) => this.#line(JSON.parse(event.data)));
      this.source.addEventListener("skipped", (event) => this.#skip(JSON.parse(event.data)));
      this.source.addEventListener("error", () => this.#close());
    }
  }

  #close() {
    this.source?.close();
    this.source = null;
  }

  /** @param {{ skipped?: number }} message */
  #skip({ skipped = 0 }) {
    this.skipped += skipped;
    if (this.skipped) {
      this.note.textContent = `${this.skipped.toLocaleString("en-US")} more were not shown.`;
    }
  }

  /** @param {{ time: number, from: string, line: string, verdict: string, reason: string | null, skipped?: number }} message */
  #line(message) {
    if (message.skipped !== undefined) {
      this.#skip(message);
      return;
    }
    const row = document.createElement("li");
    row.dataset.js = "";
    const isBad = message.verdict !== "ok";
    const time = document.createElement("span");
    time.className = "faint";
    time.textContent = clock(message.time, state().utc);
    const text = document.createElement("span");
    text.textContent = `${isBad ? "✕ " : ""}${message.line}`;
    text.classList.toggle("error", isBad);
    const source = document.createElement("span");
    source.textContent = isBad ? (message.reason ?? "malformed") : message.from;
    row.append(time, text, source);
    this.waiting.push(row);
    if (this.waiting.length > MOST) {
      this.waiting.shift();
    }
    this.timer ||= window.setTimeout(() => this.#show(), PACE);
  }

  #show() {
    this.timer = 0;
    this.list.append(...this.waiting);
    this.waiting = [];
    while (this.list.children.length > MOST) {
      this.list.firstElementChild?.remove();
    }
  }

  /** @param {boolean} isPaused */
  pause(isPaused) {
    this.isPaused = isPaused;
    this.check();
  }
}
