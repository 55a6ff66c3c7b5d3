// Fragments are exchanged without a trace for whoever works with the page: focus, fields, open menus and canvases stay.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { browser, faults } from "./support.js";

/** @type {import("playwright-core").Browser} */
let chromium;
/** @type {import("playwright-core").Page} */
let page;
/** @type {string[]} */
let wrong;

before(async () => {
  chromium = await browser();
  page = await chromium.newPage();
  wrong = faults(page);
  await page.route("http://page.test/**", (route) => {
    const { pathname } = new URL(route.request().url());
    return pathname.endsWith(".js")
      ? route.fulfill({
          body: readFileSync(new URL(`../../../src/http/assets/${pathname.split("/").pop()}`, import.meta.url)),
          contentType: "text/javascript",
        })
      : route.fulfill({
          body: '<!doctype html><link rel="icon" href="data:,"><main id="main"></main>',
          contentType: "text/html",
        });
  });
  await page.goto("http://page.test/");
});

after(() => chromium.close());

/**
 * Shows `old`, does `act` with it, exchanges it for `next`, and returns what it has become.
 * @param {string} old
 * @param {string} next
 * @param {string} [act] selector of what gets the focus
 */
async function exchanged(old, next, act = "") {
  await page.evaluate(
    ({ old, act }) => {
      const main = /** @type {HTMLElement} */ (document.querySelector("main"));
      main.innerHTML = old;
      for (const element of main.querySelectorAll("*")) {
        /** @type {any} */ (element).was = true;
      }
      act && /** @type {HTMLElement} */ (main.querySelector(act)).focus();
    },
    { old, act },
  );
  return page.evaluate(async (next) => {
    const { morph } = await import(String("/live.js"));
    const main = /** @type {HTMLElement} */ (document.querySelector("main"));
    const other = document.createElement("main");
    other.id = "main";
    other.innerHTML = next;
    morph(main, other);
    return {
      html: main.innerHTML,
      focus: document.activeElement?.outerHTML ?? "",
      kept: [...main.querySelectorAll("*")]
        .filter((element) => /** @type {any} */ (element).was)
        .map(({ id, tagName }) => id || tagName),
    };
  }, next);
}

test("texts and attributes change, nodes stay", async () => {
  const { html, kept } = await exchanged(
    '<p class="a" id="x">1 <b>2</b></p>',
    '<p class="b" id="x" title="t">1 <b>3</b></p>',
  );
  assert.equal(html, '<p class="b" id="x" title="t">1 <b>3</b></p>');
  assert.deepEqual(kept, ["x", "B"]);
});

test("rows keep their identity when others come, go and move", async () => {
  const row = (/** @type {string} */ id, value = "1") => `<li data-id="${id}" id="${id}">${value}</li>`;
  const { html, kept } = await exchanged(
    `<ul>${row("a")}${row("b")}${row("c")}</ul>`,
    `<ul>${row("n")}${row("c", "2")}${row("a")}</ul>`,
  );
  assert.equal(html, `<ul>${row("n")}${row("c", "2")}${row("a")}</ul>`);
  assert.deepEqual(kept, ["UL", "c", "a"]);
});

test("focus, what was typed, and open details stay", async () => {
  await exchanged('<input id="i" value="a"><details id="d"><summary>s</summary>x</details>', "", "");
  const { html, focus } = await exchanged(
    '<p>1</p><input id="i"><details id="d" open><summary>s</summary>x</details><a href="#" id="l">l</a>',
    '<p>2</p><p>new</p><input id="i" value="other"><details id="d"><summary>s</summary>y</details><a href="#" id="l">m</a>',
    "#i",
  );
  assert.match(focus, /id="i"/);
  assert.match(html, /<details id="d" open=""><summary>s<\/summary>y<\/details>/);
  assert.equal(await page.locator("#i").inputValue(), "");
});

test("what modules made stays where it is", async () => {
  const { html } = await exchanged(
    '<figure data-chart="line" class="card drawn"><figcaption>T<span data-js="">r</span></figcaption><div class="plot" role="slider"><canvas data-js=""></canvas></div><p data-js="">s</p></figure><div class="card" data-kept=""><p>mine</p></div>',
    '<figure data-chart="line" class="card"><figcaption>U</figcaption><div class="plot"><svg></svg></div></figure><div class="card"><table></table></div>',
  );
  assert.equal(
    html,
    '<figure data-chart="line" class="card drawn"><figcaption>U<span data-js="">r</span></figcaption><div class="plot" role="slider"><canvas data-js=""></canvas></div><p data-js="">s</p></figure><div class="card" data-kept=""><p>mine</p></div>',
  );
});

test("a time that is shown in the zone of the reader is not put back", async () => {
  const { html } = await exchanged(
    '<time data-t="9100" data-shown="9100">03:31:40</time><time data-t="1" data-shown="1">x</time>',
    '<time data-t="9100">02:31:40</time><time data-t="9200">02:33:20</time>',
  );
  assert.equal(
    html,
    '<time data-t="9100" data-shown="9100">03:31:40</time><time data-t="9200" data-shown="1">02:33:20</time>',
  );
});

test("where the focused row is gone, the focus goes to what stands there now", async () => {
  const focus = await page.evaluate(async () => {
    const { focused, morph } = await import(String("/live.js"));
    const main = /** @type {HTMLElement} */ (document.querySelector("main"));
    const rows = (/** @type {string[]} */ ids) =>
      `<section data-live="loudest">${ids.map((id) => `<p data-id="${id}"><a href="#${id}">${id}</a></p>`).join("")}</section>`;
    main.innerHTML = rows(["a", "b", "c"]);
    /** @type {string[]} */
    const seen = [];
    for (const [had, next] of /** @type {[string, string[]][]} */ ([
      ["b", ["a", "c", "d"]],
      ["d", ["a"]],
      ["a", ["n", "a"]],
    ])) {
      /** @type {HTMLElement} */ (main.querySelector(`[data-id=${had}] a`)).focus();
      const restore = focused();
      const other = document.createElement("main");
      other.id = "main";
      other.innerHTML = rows(next);
      morph(main, other);
      restore();
      seen.push(document.activeElement?.textContent ?? "");
    }
    return seen;
  });
  assert.deepEqual(focus, ["c", "a", "a"]);
});

test("a refresh while one is under way has its answer, and is not answered before it", async () => {
  const isThere = await page.evaluate(async () => {
    const { Live } = await import(String("/live.js"));
    /** @type {HTMLElement} */ (document.querySelector("main")).innerHTML = '<p data-live="x"></p>';
    const { fetch } = window;
    window.fetch = () => new Promise((_, reject) => setTimeout(() => reject(new TypeError("gone")), 50));
    const live = new Live(() => undefined);
    const both = await Promise.all([live.refresh(), live.refresh()]);
    clearTimeout(live.timer);
    window.fetch = fetch;
    return both;
  });
  assert.deepEqual(isThere, [false, false]);
});

test("nothing is wrong in the console", () => {
  assert.deepEqual(wrong, []);
});
