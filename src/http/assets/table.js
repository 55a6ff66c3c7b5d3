// The table of series: 40 rows that are reused, pages by cursor, search as you type.

import { made } from "./chart.js";
import { ago, fieldName, fieldUnit, number, split, withUnit } from "./format.js";
import { ask, Refusal } from "./history.js";
import { pairs, seriesUrl } from "./ids.js";
import { setSpark, sparkElement } from "./spark.js";
import { state, update } from "./state.js";
import { carry } from "./url.js";

/** Rows in the document, rows of one request, and points of a row's line. */
const ROWS = 40;
const PAGE = 50;
const SPARK = 60;

/** Rows kept above and below what is seen. */
const AROUND = 6;

/** Pause after the last key before the daemon is asked, in milliseconds. */
const TYPING = 60;

/** Tags of a row that are shown whole. */
const TAGS = 3;

/**
 * @typedef {object} Item
 * @property {string} id
 * @property {string} kind
 * @property {string} name
 * @property {Record<string, string | string[] | null>} tags
 * @property {number} last_seen
 * @property {boolean} is_current
 * @property {string} field
 * @property {number | null} value
 * @property {number | null} min
 * @property {number | null} max
 * @property {(number | null)[]} spark
 *
 * @typedef {{ total: number, matched: number, took_ms: number, next: string | null, series: Item[], near?: { text: string, matched: number }[] }} Found
 *
 * @typedef {{ row: HTMLTableRowElement, kind: HTMLElement, link: HTMLAnchorElement, tags: HTMLElement, spark: Element, value: HTMLElement, range: HTMLElement, seen: HTMLElement, shows: Item | null }} Row
 */

/**
 * @param {HTMLElement} element
 * @param {string} text
 * @param {string[]} words
 */
function marked(element, text, words) {
  const pieces = split(text, words);
  element.replaceChildren(
    ...pieces.map((piece, at) => {
      if (at % 2 === 0) {
        return document.createTextNode(piece);
      }
      const mark = document.createElement("mark");
      mark.textContent = piece;
      return mark;
    }),
  );
}

export class SeriesTable {
  /** @param {HTMLTableElement} table */
  constructor(table) {
    this.table = table;
    /** @type {Item[]} */
    this.items = [];
    /** @type {string | null} */
    this.next = null;
    /** @type {{ at: number, cursor: string | null }[]} where the pages of the list begin */
    this.pages = [];
    this.found = { total: 0, matched: 0 };
    this.question = "";
    /** @type {AbortController | null} */
    this.asking = null;
    this.isMore = false;
    this.timer = 0;
    this.settling = 0;
    this.body = table.tBodies[0] ?? table.createTBody();
    /** @type {Row[]} */
    this.rows = [];
    this.first = 0;
    this.height = 0;
    this.above = this.#pad();
    this.below = this.#pad();
    this.empty = made("p", "empty");
    this.empty.hidden = true;
    this.scroll = made("div", "scroll");
    this.scroll.tabIndex = -1;
    const home = /** @type {HTMLElement} */ (table.parentElement);
    home.dataset.kept = "";
    this.scroll.append(table);
    // Links to further pages are for those without script.
    home.replaceChildren(this.scroll, this.empty);
    this.scroll.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.body.addEventListener("click", (event) => this.#clicked(event));
  }

  #pad() {
    const row = document.createElement("tr");
    row.className = "pad";
    row.setAttribute("aria-hidden", "true");
    // One cell: one over all columns would keep those wide that a phone leaves out.
    row.append(document.createElement("td"));
    return row;
  }

  /** @returns {Row} */
  #row() {
    const row = document.createElement("tr");
    const cell = (/** @type {string} */ name) => {
      const made = document.createElement("td");
      made.className = name;
      row.append(made);
      return made;
    };
    const kind = made("span", "kind");
    cell("k").append(kind);
    const named = cell("n");
    const link = /** @type {HTMLAnchorElement} */ (made("a", "name"));
    const tags = made("span", "tags");
    named.append(link, tags);
    const spark = sparkElement();
    cell("s").append(spark);
    return {
      row,
      kind,
      link,
      tags,
      spark,
      value: cell("v num"),
      range: cell("r num"),
      seen: cell("a num"),
      shows: null,
    };
  }

  /**
   * @param {string | null} cursor
   * @param {number} limit
   */
  #url(cursor, limit) {
    const now = state();
    const given = new URLSearchParams(location.search);
    const query = new URLSearchParams();
    const put = (/** @type {string} */ key, /** @type {string | null} */ value) => value && query.append(key, value);
    put("q", now.q.trim());
    put("kind", now.kind);
    for (const tag of given.getAll("tag")) {
      put("tag", tag);
    }
    put("prefix", given.get("prefix"));
    put("sort", ["loudest", "changed", "newest"].includes(now.sort) ? now.sort : "");
    query.append("limit", String(limit));
    query.append("spark", String(SPARK));
    put("cursor", cursor);
    return `/api/v1/series?${query}`;
  }

  /** Asks after a short pause; an answer that is overtaken by another question is dropped. */
  typed() {
    clearTimeout(this.timer);
    if (this.#url(null, PAGE) === this.question) {
      return;
    }
    this.timer = window.setTimeout(() => void this.search(), TYPING);
  }

  /** The first page anew. */
  async search() {
    this.asking?.abort();
    const asking = new AbortController();
    this.asking = asking;
    this.question = this.#url(null, PAGE);
    try {
      /** @type {Found} */
      const found = await ask(this.question, asking.signal);
      this.isMore = false;
      this.#take(found);
      this.scroll.scrollTop = 0;
      this.#render(true);
    } catch (error) {
      if (error instanceof Refusal) {
        this.#say([error.message]);
        // What is there stays.
        this.scroll.hidden = false;
      } else if (!asking.signal.aborted) {
        throw error;
      }
    }
  }

  /** @param {Found} found */
  #count(found) {
    const count = document.querySelector("[data-count]");
    if (count) {
      const took = found.took_ms < 10 ? number(Math.ceil(found.took_ms * 10) / 10) : number(Math.round(found.took_ms));
      count.textContent = `${number(found.matched)} of ${number(found.total)} series, ${took} ms`;
    }
  }

  /** @param {Found} found */
  #take(found) {
    this.items = found.series;
    this.next = found.next;
    this.pages = [{ at: 0, cursor: null }];
    this.found = found;
    this.#count(found);
    const near = (found.near ?? []).map(({ text, matched }) => `${text} (${number(matched)})`).join(", ");
    const q = state().q.trim();
    this.#say(
      found.series.length
        ? []
        : [
            q ? `No series matches ${q}.` : "No series yet.",
            near ? `Nearest: ${near}.` : "",
            q ? `${number(found.total)} searched.` : "",
          ],
    );
  }

  /** @param {string[]} sentences */
  #say(sentences) {
    const text = sentences.filter(Boolean).join(" ");
    this.empty.textContent = text;
    this.empty.hidden = !text;
    this.scroll.hidden = text !== "";
  }

  /** After each interval: the numbers of the rows that are seen; no row moves while somebody is below the top. */
  async refresh() {
    if (this.asking && this.items.length === 0 && !this.empty.textContent) {
      return;
    }
    const asked = this.asking;
    const isTop = this.items.length <= PAGE;
    const cursors = isTop ? [null] : this.#seen();
    /** @type {Found[]} */
    const found = await Promise.all(cursors.map((cursor) => ask(this.#url(cursor, PAGE))));
    if (asked !== this.asking) {
      return;
    }
    if (isTop && this.items.length <= PAGE) {
      this.#take(found[0]);
    } else {
      this.#count(found[0]);
      const fresh = new Map(found.flatMap(({ series }) => series).map((item) => [item.id, item]));
      this.items = this.items.map((item) => fresh.get(item.id) ?? item);
    }
    this.#render(true);
  }

  /** Cursors of the pages that the rows in the document are of. */
  #seen() {
    const end = (/** @type {number} */ page) => this.pages[page + 1]?.at ?? this.items.length;
    const seen = this.pages.filter(({ at }, page) => at < this.first + ROWS && end(page) > this.first);
    return seen.map(({ cursor }) => cursor);
  }

  async #loadMore() {
    if (this.isMore || this.next === null) {
      return;
    }
    this.isMore = true;
    const asked = this.asking;
    try {
      /** @type {Found} */
      const found = await ask(this.#url(this.next, PAGE));
      if (asked === this.asking) {
        this.pages.push({ at: this.items.length, cursor: this.next });
        const known = new Set(this.items.map(({ id }) => id));
        this.items = [...this.items, ...found.series.filter(({ id }) => !known.has(id))];
        this.next = found.next;
        this.#render(false);
      }
    } catch (error) {
      if (error instanceof Refusal) {
        // The cursor is of an answer that is gone; what is shown stays.
        this.next = null;
      }
    } finally {
      this.isMore = false;
    }
  }

  #scrolled() {
    const before = this.first;
    this.#render(false);
    if (Math.abs(this.first - before) >= ROWS / 2) {
      // Rows that were out of sight for long have the numbers of then.
      clearTimeout(this.settling);
      this.settling = window.setTimeout(() => void this.refresh().catch(() => undefined), 300);
    }
    const end = this.first + ROWS >= this.items.length - 10;
    if (end) {
      void this.#loadMore();
    }
  }

  /** @param {boolean} isFresh whether the numbers changed */
  #render(isFresh) {
    if (!this.rows.length) {
      this.rows = Array.from({ length: ROWS }, () => this.#row());
      this.body.replaceChildren(this.above, ...this.rows.map(({ row }) => row), this.below);
    }
    this.height = this.rows[0].row.offsetHeight || this.height || 28;
    const most = Math.max(0, this.items.length - ROWS);
    this.first = Math.max(0, Math.min(most, Math.floor(this.scroll.scrollTop / this.height) - AROUND));
    const words = state().q.split(/\s+/).filter(Boolean);
    // What is shown beside the list is marked in it, chosen or not.
    const sel = state().sel || /** @type {HTMLElement | null} */ (document.querySelector("[data-preview]"))?.dataset.of;
    this.rows.forEach((row, at) => {
      const item = this.items[this.first + at];
      row.row.hidden = !item;
      if (item && (isFresh || row.shows !== item)) {
        this.#show(row, item, words);
      }
      const isSelected = item !== undefined && item.id === sel;
      row.row.classList.toggle("sel", isSelected);
      row.row.setAttribute("aria-selected", String(isSelected));
    });
    const pad = (/** @type {HTMLTableRowElement} */ row, /** @type {number} */ count) => {
      row.hidden = count <= 0;
      row.cells[0].style.height = `${Math.max(0, count) * this.height}px`;
    };
    pad(this.above, this.first);
    pad(this.below, this.items.length - this.first - ROWS);
  }

  /**
   * @param {Row} row
   * @param {Item} item
   * @param {string[]} words
   */
  #show(row, item, words) {
    row.shows = item;
    row.row.dataset.id = item.id;
    row.kind.textContent = item.kind.charAt(0).toUpperCase();
    row.kind.title = item.kind;
    row.kind.setAttribute("aria-label", item.kind);
    const tags = pairs(item.tags);
    row.link.href = carry(state(), seriesUrl(item.kind, item.name, tags));
    marked(row.link, item.name, words);
    const texts = tags.map(([key, value]) => (value === null ? key : `${key}:${value}`));
    const isHit = (/** @type {string} */ text) => split(text, words).length > 1;
    texts.sort((a, b) => Number(isHit(b)) - Number(isHit(a)));
    const shown = texts.slice(0, TAGS).map((text) => {
      const tag = document.createElement("span");
      tag.className = isHit(text) ? "tag hit" : "tag";
      marked(tag, text, words);
      return tag;
    });
    if (texts.length > TAGS) {
      const more = document.createElement("span");
      more.className = "tag";
      more.textContent = `+${texts.length - TAGS}`;
      more.title = texts.slice(TAGS).join(" ");
      shown.push(more);
    }
    if (texts.length > 1) {
      // Where there is room for one only.
      const rest = document.createElement("span");
      rest.className = "tag rest";
      rest.textContent = `+${texts.length - 1}`;
      shown.push(rest);
    }
    /** @type {HTMLElement} */ (row.link.parentElement).title = [item.name, ...texts].join(" ");
    row.tags.replaceChildren(...shown);
    setSpark(row.spark, item.spark);
    const unit = fieldUnit(item.kind, item.field);
    const isPlain = item.field === "value" || item.field === "rate";
    row.value.textContent =
      item.value === null ? "none" : `${isPlain ? "" : `${fieldName(item.field)} `}${withUnit(item.value, unit)}`;
    row.value.classList.toggle("muted", item.value === null);
    row.range.textContent = item.min === null || item.max === null ? "" : `${number(item.min)} to ${number(item.max)}`;
    const interval = Number(document.documentElement.dataset.interval) || 10;
    const now = Number(document.documentElement.dataset.last) || Date.now() / 1000;
    row.seen.textContent = item.is_current ? "now" : ago(Math.max(interval * 2, now - item.last_seen), interval);
    row.seen.classList.toggle("late", !item.is_current);
  }

  /** @param {MouseEvent} event */
  #clicked(event) {
    const target = /** @type {Element} */ (event.target);
    const row = /** @type {HTMLElement | null} */ (target.closest("tr[data-id]"));
    if (!row || event.ctrlKey || event.metaKey || event.shiftKey) {
      return;
    }
    // A click on the name opens the series; one elsewhere in the row selects it.
    if (!target.closest("a")) {
      this.select(row.dataset.id ?? "");
    }
  }

  /** @param {string} id */
  select(id) {
    update({ sel: id });
    this.#render(false);
  }

  /** @param {number} by rows down, or up if it is negative */
  move(by) {
    const at = this.items.findIndex(({ id }) => id === state().sel);
    const next = Math.max(0, Math.min(this.items.length - 1, at < 0 ? 0 : at + by));
    const item = this.items[next];
    if (!item) {
      return;
    }
    const top = next * this.height;
    const head = this.table.tHead?.offsetHeight ?? 0;
    const room = this.scroll.clientHeight - head;
    if (top < this.scroll.scrollTop) {
      this.scroll.scrollTop = top;
    } else if (top + this.height > this.scroll.scrollTop + room) {
      this.scroll.scrollTop = top + this.height - room;
    }
    this.select(item.id);
    this.rows.find(({ shows }) => shows === item)?.row.scrollIntoView({ block: "nearest" });
    if (next >= this.items.length - 10) {
      void this.#loadMore();
    }
  }

  /** Address of the selected series. */
  get selected() {
    const item = this.items.find(({ id }) => id === state().sel);
    return item ? carry(state(), seriesUrl(item.kind, item.name, pairs(item.tags))) : null;
  }

  /**
   * Address of the only series that is found, or of the selected one; without either the first is selected.
   * @returns {Promise<string | null>}
   */
  async enter() {
    if (this.#url(null, PAGE) !== this.question) {
      clearTimeout(this.timer);
      await this.search().catch(() => undefined);
    }
    const only = this.items.length === 1 ? this.items[0].id : "";
    if (only && only !== state().sel) {
      this.select(only);
    }
    const { selected } = this;
    if (!selected) {
      this.move(0);
    }
    return selected;
  }

  /** What stands in the rows is as the page's state says. */
  restyle() {
    this.rows.length && this.#render(true);
  }
}
