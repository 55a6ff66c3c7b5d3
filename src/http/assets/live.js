// Exchanges the live fragments of the page for those of the same URL as it is served now. Nodes stay where they are and
// only differences are written: focus, selection, open details, fields and canvases survive.

/**
 * What makes a node the same in two versions.
 * @param {Node} node
 */
function keyOf(node) {
  if (!(node instanceof Element)) {
    return "";
  }
  const { id } = node;
  const data = node instanceof HTMLElement || node instanceof SVGElement ? node.dataset : {};
  return id || data.id || data.key || data.live || "";
}

/**
 * Attributes that belong to the browser or to the modules once the page is there.
 * @param {Element} element
 * @param {string} name
 */
function isOurs(element, name) {
  return (
    name === "style" ||
    name === "aria-selected" ||
    name === "data-shown" ||
    name === "data-kept" ||
    (/^(value|checked)$/.test(name) && isField(element) && element.getAttribute("type") !== "hidden") ||
    (name === "open" && (element instanceof HTMLDetailsElement || element instanceof HTMLDialogElement)) ||
    (name === "class" && element.matches("figure[data-chart]")) ||
    (name === "tabindex" && /^(TR|LI)$/.test(element.nodeName)) ||
    (element.matches(".plot") && /^(role|tabindex|aria-)/.test(name))
  );
}

/**
 * @param {Element} old
 * @param {Element} next
 */
function attributes(old, next) {
  for (const { name, value } of [...next.attributes]) {
    if (!isOurs(old, name) && old.getAttribute(name) !== value) {
      old.setAttribute(name, value);
    }
  }
  for (const { name } of [...old.attributes]) {
    if (!next.hasAttribute(name) && !isOurs(old, name) && name !== "data-js") {
      old.removeAttribute(name);
    }
  }
}

/** @param {Element} element whether what somebody types there is kept */
function isField(element) {
  return (
    element instanceof HTMLInputElement ||
    element instanceof HTMLTextAreaElement ||
    element instanceof HTMLSelectElement
  );
}

/**
 * @param {Element} old
 * @param {Element} next
 */
export function morph(old, next) {
  attributes(old, next);
  const isTime = next.hasAttribute("data-t") || next.hasAttribute("data-ago");
  if (isField(old) || (isTime && old.getAttribute("data-shown") === next.getAttribute("data-t"))) {
    return;
  }
  // What a module keeps itself: a canvas, the table of series.
  if (old.hasAttribute("data-kept") || (old.matches(".plot") && old.querySelector("canvas"))) {
    return;
  }
  /** @type {Map<string, Element>} */
  const keyed = new Map();
  for (const child of old.children) {
    const key = keyOf(child);
    key && keyed.set(key, child);
  }
  let at = old.firstChild;
  const skip = () => {
    while (at instanceof HTMLElement && at.dataset.js !== undefined) {
      at = at.nextSibling;
    }
  };
  for (const child of [...next.childNodes]) {
    skip();
    const key = keyOf(child);
    const same = key ? keyed.get(key) : undefined;
    if (same && same.nodeName === child.nodeName) {
      if (same === at) {
        at = at.nextSibling;
      } else {
        old.insertBefore(same, at);
      }
      keyed.delete(key);
      morph(same, /** @type {Element} */ (child));
    } else if (at && !key && !keyOf(at) && at.nodeName === child.nodeName) {
      const here = at;
      at = at.nextSibling;
      if (here instanceof Element) {
        morph(here, /** @type {Element} */ (child));
      } else if (here.nodeValue !== child.nodeValue) {
        here.nodeValue = child.nodeValue;
      }
    } else {
      old.insertBefore(document.importNode(child, true), at);
    }
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    if (!(gone instanceof HTMLElement && gone.dataset.js !== undefined)) {
      gone.remove();
    }
  }
}

/** @param {Element} fragment whether text in it is selected now */
function isSelected(fragment) {
  const selection = getSelection();
  return selection !== null && !selection.isCollapsed && selection.containsNode(fragment, true);
}

/**
 * Remembers where in its fragment the focus is.
 * @returns {() => void} puts it to what stands there now, if what had it is gone
 */
export function focused() {
  const had = document.activeElement;
  const key = had?.closest("[data-live]")?.getAttribute("data-live");
  const links = () => [
    .../** @type {NodeListOf<HTMLElement>} */ (
      document.querySelectorAll(`[data-live="${CSS.escape(key ?? "")}"] :is(a[href], button, summary, [tabindex])`)
    ),
  ];
  const at = key ? links().indexOf(/** @type {HTMLElement} */ (had)) : -1;
  return () => {
    if (at >= 0 && !had?.isConnected) {
      const left = links();
      left[Math.min(at, left.length - 1)]?.focus({ preventScroll: true });
    }
  };
}

export class Live {
  /** @param {() => void} swapped called after fragments were exchanged */
  constructor(swapped) {
    this.swapped = swapped;
    /** @type {Promise<boolean> | null} */
    this.asking = null;
    this.isAgain = false;
    this.timer = 0;
  }

  /**
   * Fetches this page and exchanges its fragments; a second call while one is under way has its answer, and makes one more
   * after it.
   * @returns {Promise<boolean>} whether there was an answer
   */
  refresh() {
    if (!document.querySelector("[data-live]")) {
      return Promise.resolve(true);
    }
    this.isAgain = this.asking !== null;
    this.asking ??= this.#ask();
    return this.asking;
  }

  async #ask() {
    const url = location.href;
    try {
      const response = await fetch(url, { headers: { Accept: "text/html" } });
      const text = await response.text();
      if (response.status === 401) {
        location.reload();
      } else if (response.ok && url === location.href) {
        this.#exchange(new DOMParser().parseFromString(text, "text/html"));
      }
      return true;
    } catch {
      return false;
    } finally {
      this.asking = null;
      if (this.isAgain) {
        this.isAgain = false;
        this.soon(50);
      }
    }
  }

  /**
   * Once, in so many milliseconds, however often it is asked for.
   * @param {number} ms
   */
  soon(ms) {
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => void this.refresh(), ms);
  }

  /** @param {Document} page */
  #exchange(page) {
    const script = (/** @type {Document} */ of) => of.querySelector("script[type=module]")?.getAttribute("src");
    if (script(page) !== script(document) && !document.querySelector("form:focus-within")) {
      // Another version of the daemon: its page comes with its own modules.
      location.reload();
      return;
    }
    for (const name of ["last", "interval"]) {
      const value = page.documentElement.dataset[name];
      if (value !== undefined) {
        document.documentElement.dataset[name] = value;
      }
    }
    document.title = page.title;
    const focus = focused();
    const keys = (/** @type {Document} */ of) =>
      [...of.querySelectorAll("main [data-live]")].map((fragment) => fragment.getAttribute("data-live")).join("\n");
    const [main, nextMain] = [document.querySelector("main"), page.querySelector("main")];
    if (main && nextMain && keys(document) !== keys(page)) {
      // Parts came or went, such as the first steps of an empty page.
      morph(main, nextMain);
    }
    for (const old of document.querySelectorAll("[data-live]")) {
      const key = old.getAttribute("data-live");
      const next = page.querySelector(`[data-live="${CSS.escape(key ?? "")}"]`);
      if (next && !isSelected(old) && !old.parentElement?.closest("[data-live]")) {
        morph(old, next);
      }
    }
    focus();
    this.swapped();
  }
}
