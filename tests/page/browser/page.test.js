// The page of a real daemon in a real browser: what somebody sees who starts it, sends a line and looks.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import axe from "axe-core";
import { Daemon } from "./daemon.js";
import { browser, faults, fromSources, until } from "./support.js";

const INTERVAL = 2;
const VIEWS = [
  "/",
  "/series",
  "/series/show?kind=timer&name=checkout.latency&tag=route:/pay",
  "/presence",
  "/senders",
  "/events",
  "/explain?line=checkout.latency%3A320%7Cms",
  "/config",
];

const daemon = new Daemon(INTERVAL);
/** @type {import("playwright-core").Browser} */
let chromium;
/** @type {import("playwright-core").Page} */
let page;
/** @type {string[]} */
let wrong;

before(async () => {
  await daemon.start();
  chromium = await browser();
  page = await opened();
  wrong = faults(page);
});

after(async () => {
  await chromium?.close();
  await daemon.end();
});

/** @param {import("playwright-core").BrowserContextOptions} [options] */
async function opened(options = {}) {
  const context = await chromium.newContext({ viewport: { width: 1440, height: 900 }, ...options });
  await fromSources(context);
  return context.newPage();
}

/** @param {string} path */
const go = (path) => page.goto(`${daemon.url}${path}`);
const text = () => page.locator("main").innerText();
/** @param {RegExp} pattern */
const shows = (pattern, seconds = 10) =>
  until(`the page shows ${pattern}`, async () => pattern.test(await text()), seconds);

/** The time of the last interval that the first chart has, as it is read out. */
const newest = () => page.locator("figure.drawn .plot").first().getAttribute("aria-valuetext");

test("with nothing configured the page says what to do, and takes little to load", async (t) => {
  const client = await page.context().newCDPSession(page);
  await client.send("Network.enable");
  let [bytes, files] = [0, 0];
  /** @type {Map<string, string>} */
  const types = new Map();
  client.on("Network.requestWillBeSent", ({ requestId, type }) => types.set(requestId, type ?? ""));
  client.on("Network.loadingFinished", ({ requestId, encodedDataLength }) => {
    bytes += encodedDataLength;
    files += /Fetch|XHR|EventSource/.test(types.get(requestId) ?? "") ? 0 : encodedDataLength;
  });
  const response = await go("/");
  await shows(/Nothing has arrived yet/);
  await until("the modules run", () => page.evaluate(() => document.documentElement.dataset.ready !== undefined));
  await page.waitForTimeout(500);
  t.diagnostic(`first load: ${files} bytes, with the first numbers ${bytes}`);
  assert.ok(files > 5_000 && files <= 100_000, `${files} bytes`);
  assert.ok(bytes <= 150_000, `${bytes} bytes with the first numbers`);
  const policy = response?.headers()["content-security-policy"] ?? "";
  assert.match(policy, /default-src 'none'/);
  assert.doesNotMatch(policy, /unsafe/);
  await client.detach();
});

test("a counter that is sent is on the page within an interval and a second", async (t) => {
  daemon.send("greeting:1|c");
  const start = Date.now();
  await shows(/\bgreeting\b/, INTERVAL + 1);
  t.diagnostic(`on the page after ${Date.now() - start} ms`);
});

test("charts move with every interval", async () => {
  await daemon.flood(busy(0));
  await until("a chart is drawn", () => page.locator("figure.drawn").count());
  const before = await newest();
  await until("it has a newer interval", async () => (await newest()) !== before, INTERVAL * 2 + 1);
});

test("searching as one types finds a series; its row opens with the keyboard alone", async () => {
  for (let n = 0; n < 3; n += 1) {
    await daemon.flood(busy(n));
    await page.waitForTimeout(INTERVAL * 350);
  }
  await page.keyboard.press("g");
  await page.keyboard.press("m");
  await page.waitForURL(/\/series/);
  await until("the modules run", () => page.evaluate(() => document.documentElement.dataset.ready !== undefined));
  await page.keyboard.press("/");
  await page.keyboard.type("latency route:/pay");
  await until("one row is left", async () => /^1 of /.test((await page.locator("[data-count]").textContent()) ?? ""));
  assert.match(page.url(), /q=latency/);
  await page.keyboard.press("Escape");
  await page.keyboard.type("latency");
  await until("both rows", async () => /^2 of /.test((await page.locator("[data-count]").textContent()) ?? ""));
  await page.keyboard.press("ArrowDown");
  await until("the first row is selected", () => page.locator("tr.sel").count());
  await page.locator("[data-search=series]").blur();
  await page.keyboard.press("j");
  await until("the second row is selected", async () =>
    /\/pay/.test((await page.locator("tr.sel").textContent()) ?? ""),
  );
  await page.keyboard.press("Enter");
  await page.waitForURL(/\/series\/show/);
  await until("its charts are drawn", async () => (await page.locator("figure.drawn").count()) >= 2);
});

test("the keyboard does what its list says", async () => {
  await page.keyboard.press("?");
  await until("the list", () => page.locator("dialog.keys[open]").count());
  await page.keyboard.press("Escape");
  await until("no list", async () => (await page.locator("dialog.keys[open]").count()) === 0);
  const theme = () => page.evaluate(() => document.documentElement.dataset.theme);
  const first = await theme();
  await page.keyboard.press("d");
  assert.notEqual(await theme(), first);
  await page.keyboard.press("d");
  await page.keyboard.press(".");
  await until("times are in UTC", async () => (await page.locator("[data-zone]").first().textContent()) === "UTC");
  await page.keyboard.press(".");
  await page.keyboard.press("[");
  await until("an earlier window", () => /from=/.test(page.url()));
  await page.keyboard.press("0");
  await until("the range that ends now", () => !/from=/.test(page.url()));
  await page.keyboard.press("Space");
  await until("it is paused", () => /live=0/.test(page.url()));
  await page.keyboard.press("Space");
  await page.keyboard.press("p");
  await page.keyboard.press("Escape");
  await page.waitForURL(/\/series\b(?!\/show)/);
  await until("the pinned chart is drawn", () => page.locator("[data-pins] figure.drawn").count());
});

test("a heat map grows with the intervals, whatever their values are, and loses none", async () => {
  const samples = async () =>
    Number(
      /([\d,]+) samples/
        .exec((await page.locator("figure[data-chart=heat] p.hide").allTextContents()).join(" "))?.[1]
        .replaceAll(",", "") ?? 0,
    );
  let before = 0;
  for (const value of [3, 700, 0.02, 45]) {
    await daemon.flood(Array.from({ length: 50 }, () => `spread.duration:${value}|ms`));
    if (value === 3) {
      const found = `${daemon.url}/api/v1/series?q=spread.duration`;
      await until("the series is there", async () => (await (await fetch(found)).json()).matched === 1);
      await go("/series/show?kind=timer&name=spread.duration");
      continue;
    }
    await until(`more than ${before} samples`, async () => (await samples()) > before, INTERVAL * 3);
    before = await samples();
  }
  assert.equal(before, 150);
});

test("the search of settings answers while one types", async () => {
  await go("/config");
  const rows = () => page.locator(".set tbody tr:has(td)").count();
  const all = await rows();
  await page.locator("[data-filter]").fill("receive_buffer");
  await until("few settings", async () => (await rows()) < 10 && (await rows()) > 0, 3);
  assert.match((await page.locator("form.seek").textContent()) ?? "", /\d settings?\D/);
  assert.match(page.url(), /q=receive_buffer/);
  await page.locator("[data-filter]").fill("");
  await until("all settings", async () => (await rows()) === all, 3);
});

test("the keyboard goes back, through rows without links, along menus, and from a search to its result", async () => {
  await go("/events");
  await until("an event", () => page.locator(".log li").count());
  await page.keyboard.press("j");
  await until("the first event has the focus", () =>
    page.locator(".log li.sel:focus-within, .log li.sel:focus").count(),
  );
  await page.keyboard.press("t");
  await page.keyboard.press("ArrowDown");
  assert.match((await page.evaluate(() => document.activeElement?.textContent)) ?? "", /Last 15 min/);
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("ArrowUp");
  assert.match((await page.evaluate(() => document.activeElement?.textContent)) ?? "", /Last 24 h/);
  await page.keyboard.press("Escape");
  await go("/series");
  await until("the modules run", () => page.evaluate(() => document.documentElement.dataset.ready !== undefined));
  await page.keyboard.press("/");
  await page.keyboard.type("pool.in_use");
  await page.keyboard.press("Enter");
  await page.waitForURL(/\/series\/show\?kind=gauge&name=pool\.in_use/);
  await page.keyboard.press("Escape");
  await page.waitForURL(/\/series\?q=pool/);
  await until("the modules run", () => page.evaluate(() => document.documentElement.dataset.ready !== undefined));
  await page.keyboard.press("Escape");
  await page.keyboard.press("Escape");
  await until("the whole list", () => !/q=/.test(page.url()));
});

test("what the preview shows is marked in the list; a phone has a way to pause, counts tags, and shows no keys", async () => {
  daemon.send("tagged:1|c|#route:/pay,status:200,zone:eu");
  await until(
    "it is there",
    async () => (await (await fetch(`${daemon.url}/api/v1/series?q=tagged`)).json()).matched === 1,
  );
  await go("/series?q=tagged");
  await until("the first row is marked", () => page.locator("tr.sel[data-id]").count());
  assert.equal(
    await page.locator("[data-preview]").getAttribute("data-of"),
    "counter:tagged;route=/pay;status=200;zone=eu",
  );
  await page.setViewportSize({ width: 390, height: 844 });
  try {
    const tags = page.locator("td.n").first().locator(".tag:visible");
    assert.deepEqual(await tags.allTextContents(), ["route:/pay", "+2"]);
    assert.equal(
      await page.locator("main button kbd:visible, main .ctl kbd:visible, main .find kbd:visible").count(),
      0,
    );
    await page.locator(".bar summary").click();
    await page.locator(".bar [data-act=live]").click();
    await until("it is paused", () => /live=0/.test(page.url()));
    assert.match((await page.locator(".bar [data-act=live]").textContent()) ?? "", /Paused/);
    await page.goBack();
  } finally {
    await page.setViewportSize({ width: 1440, height: 900 });
  }
});

test("names from the wire are text, whatever they hold", async () => {
  daemon.send('a<img/src=x/onerror=document.title="broken">"\'&b:1|c|#t<b>:v"</script>');
  await go("/series?q=onerror");
  await until(
    "the row",
    async () => {
      const isThere = (await page.locator("table [data-id]").count()) > 0;
      isThere || (await page.reload());
      return isThere;
    },
    INTERVAL * 3,
  );
  await until("it is selected and previewed", () => page.locator("[data-preview]").count());
  await page.waitForTimeout(300);
  assert.equal(await page.locator("main img").count(), 0);
  assert.doesNotMatch(await page.title(), /^broken/);
});

test("a series that nobody sent is not known, in a page", async () => {
  const response = await go("/series/show?kind=counter&name=nobody");
  assert.equal(response?.status(), 404);
  await shows(/This series is not known/);
});

test("a service that falls silent goes down before one's eyes, and silence of all is one verdict", async () => {
  await go("/presence");
  await shows(/Nobody was heard yet/);
  const alive = new Set(["checkout/web-1", "checkout/web-2", ...[1, 2, 3, 4, 5, 6, 7, 8].map((n) => `api/node-${n}`)]);
  const beat = () => {
    const lines = [...alive].map((one) => {
      const [service, instance] = one.split("/");
      return `heartbeat:1|g|#service:${service},instance:${instance},interval:1`;
    });
    void daemon.flood(lines);
  };
  beat();
  const beats = setInterval(beat, 500);
  try {
    await shows(/All is well: 2 services are up, 10 present/);
    alive.delete("checkout/web-1");
    await until("it is down", () => page.locator('[aria-label="web-1 down"]').count(), 12);
    await shows(/checkout/);
    await until("the verdict says so", async () =>
      /1 instance is down/.test((await page.locator("h1").textContent()) ?? ""),
    );
    alive.clear();
    await page.goto(`${daemon.url}/presence/checkout`);
    await until("the modules run", () => page.evaluate(() => document.documentElement.dataset.ready !== undefined));
    await page.keyboard.press("Escape");
    await page.waitForURL(/\/presence$/);
    await until("one verdict", async () => /Mass silence/.test((await page.locator("h1").textContent()) ?? ""), 12);
  } finally {
    clearInterval(beats);
  }
});

/** What is cut without a title that has all of it, and how far the page is wider than the window. */
const cut = () =>
  page.evaluate(() => {
    const found = [];
    for (const element of document.querySelectorAll("main *, header *")) {
      const { overflowX, display, position } = getComputedStyle(element);
      const isClipped = /hidden|clip/.test(overflowX) && display !== "none" && position !== "absolute";
      if (isClipped && element.scrollWidth > element.clientWidth + 1 && !element.closest("[title]")) {
        found.push(`${element.tagName}.${element.className}: ${element.textContent?.slice(0, 80)}`);
      }
    }
    const { scrollWidth, clientWidth } = document.documentElement;
    return scrollWidth > clientWidth ? [...found, `${scrollWidth} px in ${clientWidth}`] : found;
  });

test("long names wrap or are whole in a title, at any width, and nothing scrolls sideways", async () => {
  const long = "checkout-and-payments-backend-with-a-name-that-nobody-can-say";
  let n = 0;
  const send = () => {
    const key = "a_tag_key_that_is_as_long_as_somebody_made_it_without_a_thought_of_phones";
    const lines = Array.from(
      { length: 400 },
      () => `${long}.requests.${long}:1|c|#${key}:${long}-${n++},route:/${long}`,
    );
    const beats = ["a", "b"].map(
      (one) => `heartbeat:1|g|#service:${long},instance:${long}-${one},interval:1,version:${long}`,
    );
    void daemon.flood([...lines, ...beats, "heartbeat:1|g|#service:short,instance:a,interval:1"]);
  };
  send();
  const sending = setInterval(send, 500);
  /** @type {string[]} */
  const wrong = [];
  try {
    await go("/");
    await until("the pill of the tag, or its verdict", async () =>
      /a_tag_key_that/.test((await page.locator(".verdict").textContent()) ?? ""),
    );
    for (const width of [1440, 1024, 390]) {
      await page.setViewportSize({ width, height: 900 });
      for (const view of [
        "/",
        "/series",
        "/presence",
        `/presence/${long}`,
        `/presence/${long}/${long}-a`,
        "/senders",
        "/events",
        "/config",
      ]) {
        await go(view);
        await until(`the modules run on ${view}`, () =>
          page.evaluate(() => document.documentElement.dataset.ready !== undefined),
        );
        wrong.push(...(await cut()).map((what) => `${view} at ${width}: ${what}`));
      }
    }
  } finally {
    clearInterval(sending);
    await page.setViewportSize({ width: 1440, height: 900 });
  }
  assert.deepEqual(wrong, []);
});

test("nothing serious is found by axe, on any view, in both themes and on a phone", async () => {
  const contexts = [
    await opened({ colorScheme: "dark" }),
    await opened({ colorScheme: "light", viewport: { width: 390, height: 844 } }),
  ];
  /** @type {string[]} */
  const serious = [];
  for (const other of contexts) {
    const errors = faults(other);
    for (const view of VIEWS) {
      await other.goto(`${daemon.url}${view}`);
      await until(`the modules run on ${view}`, () =>
        other.evaluate(() => document.documentElement.dataset.ready !== undefined),
      );
      await other.waitForTimeout(150);
      await other.evaluate(axe.source);
      const { violations } = await other.evaluate(() => /** @type {any} */ (window).axe.run());
      for (const { id, impact, nodes } of violations) {
        if (impact === "serious" || impact === "critical") {
          serious.push(
            `${view}: ${id}: ${nodes
              .map((/** @type {any} */ node) => `${node.html} ${node.any?.[0]?.message ?? ""}`)
              .slice(0, 3)
              .join(" | ")}`,
          );
        }
      }
      const width = await other.evaluate(
        () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
      );
      if (width > 0) {
        serious.push(`${view}: ${width} px wider than the window`);
      }
    }
    serious.push(...new Set(errors));
    await other.context().close();
  }
  assert.deepEqual(serious, []);
});

test("without script every view shows its tables and forms", async () => {
  const plain = await opened({ javaScriptEnabled: false });
  for (const view of VIEWS) {
    const response = await plain.goto(`${daemon.url}${view}`);
    assert.equal(response?.status(), 200, view);
    assert.equal(await plain.locator("h1").count(), 1, view);
  }
  await plain.goto(`${daemon.url}/series?q=latency`);
  assert.equal(await plain.locator("table [data-id]").count(), 2);
  await plain.context().close();
});

test("100,000 series come and go: few rows, no long task, search answers", async (t) => {
  const other = await opened();
  const errors = faults(other);
  await chromium.startTracing(other, { categories: ["toplevel", "disabled-by-default-devtools.timeline"] });
  await other.goto(`${daemon.url}/series`);
  const most = { rows: 0, tasks: 0 };
  for (let round = 0; round < 3; round += 1) {
    await daemon.flood(many(round, 50_000));
    await other.locator("[data-search=series]").fill(round === 1 ? "shard:7" : "");
    await other.mouse.move(700, 500);
    await other.mouse.wheel(0, 4000);
    await other.waitForTimeout(INTERVAL * 1000);
    most.rows = Math.max(most.rows, await other.locator("tr").count());
  }
  const count = async () => (await other.locator("[data-count]").textContent()) ?? "";
  const total = async () => Number(/([\d,]+) series/.exec(await count())?.[1].replaceAll(",", ""));
  await until("all are known", async () => (await total()) >= 150_000, 30).catch(async (error) => {
    throw new Error(`${error.message}: ${await count()}`);
  });
  await other.locator("[data-search=series]").fill("burst.2.49999");
  await until("the one is found", async () => /^1 of /.test((await other.locator("[data-count]").textContent()) ?? ""));
  t.diagnostic(`search: ${await other.locator("[data-count]").textContent()}`);
  most.tasks = longest((await chromium.stopTracing()).toString());
  t.diagnostic(`rows at most: ${most.rows}; longest task: ${most.tasks} ms`);
  assert.ok(most.rows <= 300, `${most.rows} rows`);
  assert.ok(most.tasks <= 200, `${most.tasks} ms`);
  assert.deepEqual(errors, []);
  await other.context().close();
});

test("nothing is wrong in the console", () => {
  // The browser complains of the status of the series that is not known.
  assert.deepEqual(
    wrong.filter((fault) => !fault.includes("404") || !fault.includes("name=nobody")),
    [],
  );
});

test("a daemon that is gone is said to be gone; when it is back the page goes on by itself", async () => {
  await go("/");
  await until("it is live", async () => (await page.locator(".live [data-live-text]").textContent()) === "Live");
  /** @param {string} selector */
  const colour = (selector) =>
    page
      .locator(selector)
      .first()
      .evaluate((one) => getComputedStyle(one).color);
  const bright = await colour(".tile .big");
  await daemon.stop("SIGKILL");
  await shows(/No answer for/, INTERVAL * 2 + 8);
  assert.match(await page.title(), /^✕ no answer · /);
  const muted = await colour(".offline + section .sub, .tile .sub");
  for (const part of [".tile .big", ".verdict h1", ".tile .sub"]) {
    assert.deepEqual([await colour(part), muted === bright], [muted, false], part);
  }
  assert.equal(await page.locator(".live [data-live-text]").textContent(), "Offline");
  await daemon.start();
  await until(
    "it is live again",
    async () => (await page.locator(".live [data-live-text]").textContent()) === "Live",
    20,
  );
  await until("the title is of the page again", async () => !(await page.title()).includes("no answer"));
  daemon.send("back:1|c");
  await shows(/\bback\b/);
});

/** A busy interval. @param {number} n */
function* busy(n) {
  for (let at = 0; at < 200; at += 1) {
    yield `checkout.latency:${20 + ((at * 37 + n) % 100)}|ms|#route:/pay`;
    yield `checkout.latency:${10 + ((at * 17) % 40)}|ms|#route:/cart`;
    yield "api.requests:1|c|#route:/cart,status:200";
    yield `pool.in_use:${at % 90}|g|#db:orders`;
    yield `users:${at % 40}|s`;
  }
}

/**
 * The longest task of a page's main threads in a trace, in milliseconds of processor time: how busy the machine is with other
 * things must not count.
 * @param {string} trace
 */
function longest(trace) {
  const events = /** @type {any[]} */ (JSON.parse(trace).traceEvents);
  const main = new Set(
    events
      .filter(({ name, args }) => name === "thread_name" && args.name === "CrRendererMain")
      .map(({ tid, pid }) => `${pid} ${tid}`),
  );
  const tasks = events.filter(({ ph, pid, tid, tdur }) => ph === "X" && tdur > 0 && main.has(`${pid} ${tid}`));
  assert.ok(tasks.length > 100, "the trace has tasks");
  return Math.round(Math.max(...tasks.map(({ tdur }) => tdur)) / 1000);
}

/**
 * @param {number} round
 * @param {number} count
 */
function* many(round, count) {
  for (let at = 0; at < count; at += 1) {
    yield `burst.${round}.${at}:1|c|#shard:${at % 16}`;
  }
}
