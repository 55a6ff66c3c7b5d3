// The one event stream of this tab. It is closed while the tab is hidden, because a browser has six connections to a host.

/** Longest wait between two attempts, in seconds. */
const LONGEST_WAIT = 30;

/**
 * Seconds until the next attempt: 1, 2, 4 … 30, a fifth more or less, so that not all tabs come back at once.
 * @param {number} attempt 0 for the first
 * @param {number} random 0 to 1
 */
export function wait(attempt, random) {
  return Math.min(LONGEST_WAIT, 2 ** Math.min(attempt, 10)) * (0.8 + 0.4 * random);
}

/**
 * @typedef {object} Handlers
 * @property {(message: any) => void} interval an interval was closed
 * @property {(message: any) => void} event something happened
 * @property {(message: any) => void} presence a service or an instance changed
 * @property {() => void} gap messages were dropped: ask the history
 * @property {() => void} open
 * @property {(seconds: number) => void} closed the stream broke; so many seconds until the next attempt
 */

export class Stream {
  /**
   * @param {Handlers} handlers
   * @param {number} interval seconds between two messages
   */
  constructor(handlers, interval) {
    this.handlers = handlers;
    this.interval = interval;
    /** @type {EventSource | null} */
    this.source = null;
    this.attempt = 0;
    this.timer = 0;
    this.watch = 0;
    this.isWanted = false;
    document.addEventListener("visibilitychange", () => this.#visible());
    addEventListener("pagehide", () => this.#close());
    addEventListener("pageshow", (event) => event.persisted && this.#visible());
  }

  start() {
    this.isWanted = true;
    this.#visible();
  }

  stop() {
    this.isWanted = false;
    this.#close();
  }

  #visible() {
    if (document.hidden || !this.isWanted) {
      this.#close();
    } else if (!this.source && !this.timer) {
      this.#open();
    }
  }

  #close() {
    clearTimeout(this.timer);
    clearTimeout(this.watch);
    this.timer = 0;
    this.source?.close();
    this.source = null;
  }

  #open() {
    const source = new EventSource("/api/v1/stream?topics=interval,events,presence");
    this.source = source;
    source.addEventListener("open", () => {
      this.attempt = 0;
      this.#alive();
      this.handlers.open();
    });
    for (const name of /** @type {const} */ (["interval", "event", "presence", "gap"])) {
      source.addEventListener(name, (event) => {
        this.#alive();
        try {
          this.handlers[name](JSON.parse(event.data));
        } catch {
          // One message that cannot be read is not the end; the next interval asks the history.
        }
      });
    }
    source.addEventListener("error", () => this.#broken());
  }

  /** A connection can die without a word. */
  #alive() {
    clearTimeout(this.watch);
    this.watch = window.setTimeout(() => this.#broken(), (this.interval * 2.5 + 5) * 1000);
  }

  #broken() {
    this.#close();
    if (!this.isWanted || document.hidden) {
      return;
    }
    const seconds = wait(this.attempt, Math.random());
    this.attempt += 1;
    this.timer = window.setTimeout(() => {
      this.timer = 0;
      this.#open();
    }, seconds * 1000);
    this.handlers.closed(seconds);
  }

  /** Tries at once. */
  retry() {
    this.attempt = 0;
    this.#close();
    this.#visible();
  }
}
