// Screenshots of every view: 1440, 1024 and 390 px wide, light and dark; with data, empty, in the first minute, losing data
// and without an answer. Usage: node browser/shots.js FOLDER [PROGRAM]; about 3 minutes.
import { mkdirSync } from "node:fs";
import { Daemon } from "./daemon.js";
import { browser, fromSources, until } from "./support.js";

const folder = process.argv[2] ?? "out";
mkdirSync(folder, { recursive: true });

const SIZES = /** @type {[string, number, number][]} */ ([
  ["1440", 1440, 1000],
  ["1024", 1024, 900],
  ["390", 390, 844],
]);
const THEMES = /** @type {const} */ (["dark", "light"]);
const VIEWS = /** @type {[string, string][]} */ ([
  ["now", "/"],
  ["metrics", "/series?q=latency&sel=timer%3Acheckout.latency%3Broute%3D%2Fpay"],
  ["series", "/series/show?kind=timer&name=checkout.latency&tag=route:/pay"],
  ["presence", "/presence"],
  ["service", "/presence/checkout"],
  ["senders", "/senders"],
  ["events", "/events"],
  ["explain", "/explain?line=checkout.latency%3A320%3A12%7Cms%7C%400.5%7C%23route%3A%2Fpay"],
  ["config", "/config"],
]);

const chromium = await browser();

/** @typedef {{ page: import("playwright-core").Page, name: string, size: string, width: number, height: number, theme: string }} View */

/**
 * Opens views in every size and theme, one after the other.
 * @param {Daemon} daemon
 * @param {[string, string][]} views
 * @param {(view: View) => Promise<void>} then
 */
async function each(daemon, views, then) {
  for (const theme of THEMES) {
    for (const [size, width, height] of SIZES) {
      const context = await chromium.newContext({ viewport: { width, height }, colorScheme: theme, timezoneId: "UTC" });
      await fromSources(context);
      for (const [name, path] of views) {
        const page = await context.newPage();
        await page.goto(`${daemon.url}${path}`);
        await until("the modules run", () => page.evaluate(() => document.documentElement.dataset.ready !== undefined));
        await page.waitForTimeout(500);
        await then({ page, name, size, width, height, theme });
      }
    }
  }
}

/**
 * @param {View} view
 * @param {string} state
 */
async function shoot({ page, name, size, width, height, theme }, state) {
  // Charts are drawn where they are seen: the whole page has to be.
  const whole = await page.evaluate(() => document.documentElement.scrollHeight);
  await page.setViewportSize({ width, height: Math.min(4000, Math.max(height, whole)) });
  await page.waitForTimeout(300);
  await page.screenshot({ path: `${folder}/${name}-${state}-${size}-${theme}.png` });
  await page.close();
}

/**
 * @param {Daemon} daemon
 * @param {string} state
 * @param {[string, string][]} views
 */
const pictures = (daemon, state, views) => each(daemon, views, (view) => shoot(view, state));

/**
 * A second of a shop.
 * @param {number} second
 */
function* shop(second) {
  const wave = 1 + 0.3 * Math.sin(second / 9);
  const isSlow = second > 40;
  for (let at = 0; at < 120; at += 1) {
    const noise = ((at * 7919 + second * 104_729) % 1000) / 1000;
    for (const route of ["/pay", "/cart", "/refund"]) {
      const slow = isSlow && route === "/pay" && noise > 0.85 ? 700 : 0;
      yield `checkout.latency:${Math.round(12 + 60 * noise ** 3 + slow)}|ms|#route:${route},env:prod`;
      yield `api.latency:${Math.round(4 + 30 * noise ** 2)}|ms|#route:${route},status:200`;
    }
    yield `checkout.latency:${Math.round(20 + 80 * noise ** 3)}|ms|#route:/pay`;
  }
  for (const [name, rate] of /** @type {[string, number][]} */ ([
    ["api.requests:%|c|#route:/cart,status:200", 900],
    ["cache.hits:%|c|#shard:3", 700],
    ["cache.hits:%|c|#shard:1", 690],
    ["queue.publish:%|c|#topic:mail", 300],
    ["orders.paid:%|c|#country:de", 20],
    ["retry.latency_exceeded:%|c|#route:/pay", 2],
  ])) {
    yield name.replace("%", String(Math.round(rate * wave)));
  }
  yield `pool.in_use:${Math.round(60 + 20 * Math.sin(second / 5))}|g|#db:orders`;
  yield `checkout.latency_budget:${(0.9 - second / 300).toFixed(3)}|g|#route:/pay`;
  for (let at = 0; at < 2000; at += 1) {
    yield `users.active:${(at * 31 + second) % 500}|s`;
    yield `db.rows:${(at * 97) % 400}|h|#table:orders`;
    yield `feature.${at % 40}.seen:1|c`;
  }
  yield "api.latncy:12,5|ms";
  if (second === 30) {
    yield "_e{15,8}:deploy api 4.12|all good|#service:api";
  }
}

/** @param {number} second */
function* beats(second) {
  for (const [service, count] of /** @type {[string, number][]} */ ([
    ["api", 12],
    ["auth", 3],
    ["checkout", 3],
    ["mailer", 2],
    ["search", 6],
  ])) {
    for (let at = 1; at <= count; at += 1) {
      const isGone = service === "checkout" && at > 1 && second > 50;
      if (!isGone && !(service === "mailer" && second > 55)) {
        yield `heartbeat:1|g|#service:${service},instance:web-${at},interval:1,version:1.4.2`;
      }
    }
  }
  if (second === 53) {
    yield "maintenance.mailer:1800|g";
  }
}

const daemon = new Daemon(2);
await daemon.start();
const first = VIEWS.slice(0, 1);
await pictures(
  daemon,
  "empty",
  VIEWS.filter(([name]) => ["now", "metrics", "presence"].includes(name)),
);
await daemon.stop();
await daemon.start();
await daemon.flood(shop(0));
await pictures(daemon, "first-minute", first);
let second = 1;
const load = setInterval(() => {
  second += 1;
  void daemon.flood([...shop(second), ...beats(second)]);
}, 1000);
await until("there is something to see", () => second > 100, 130);
await pictures(daemon, "data", VIEWS);
// A daemon that does not read for a moment loses what its receive buffer does not hold.
daemon.child?.kill("SIGSTOP");
for (let at = 0; at < 2000; at += 1) {
  await daemon.flood(shop(at));
}
daemon.child?.kill("SIGCONT");
await new Promise((resolve) => setTimeout(resolve, 5000));
await pictures(daemon, "losing", [...first, ...VIEWS.filter(([name]) => name === "series")]);
/** @type {View[]} */
const open = [];
await each(daemon, first, async (view) => {
  open.push(view);
});
clearInterval(load);
await daemon.stop("SIGKILL");
for (const view of open) {
  await until(
    "it is offline",
    () => view.page.evaluate(() => document.documentElement.dataset.offline !== undefined),
    30,
  );
  await shoot(view, "disconnected");
}
await daemon.end();
await chromium.close();
