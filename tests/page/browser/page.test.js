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
  let bytes = 0;
  client.on("Network.loadingFinished", ({ encodedDataLength }) => {
    bytes += encodedDataLength;
  });
  const response = await go("/");
  await shows(/Nothing has arrived yet/);
  await until("the modules run", () => page.evaluate(() => document.documentElement.dataset.ready !== undefined));
  await page.waitForTimeout(500);
  t.diagnostic(`first load: ${bytes} bytes`);
  assert.ok(bytes > 5_000 && bytes <= 150_000, `${bytes} bytes`);
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
    await until("one verdict", async () => /Mass silence/.test((await page.locator("h1").textContent()) ?? ""), 12);
  } finally {
    clearInterval(beats);
  }
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
  await until("it is live", async () => (await page.locator("[data-live-text]").textContent()) === "Live");
  await daemon.stop("SIGKILL");
  await shows(/No answer for/, INTERVAL * 2 + 8);
  assert.equal(await page.locator("[data-live-text]").textContent(), "Offline");
  await daemon.start();
  await until("it is live again", async () => (await page.locator("[data-live-text]").textContent()) === "Live", 20);
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
