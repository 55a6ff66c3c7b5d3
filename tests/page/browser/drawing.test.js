// Charts are drawn as they should be: by pixels, on made-up answers of the history.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { browser, faults, until } from "./support.js";

const ASSETS = new URL("../../../src/http/assets/", import.meta.url);
const HERE = new URL("./", import.meta.url);
const START = 1_700_000_000;
const STEP = 10;
const COUNT = 180;

/** @param {(at: number) => number | null} of */
const points = (of) => Array.from({ length: COUNT }, (_, at) => of(at));
const wave = (/** @type {number} */ at, /** @type {number} */ size) =>
  size * (1 + 0.1 * Math.sin(at / 7) + (0.03 * ((at * 7919) % 13)) / 13);

/** How many times the history was asked, and from which time on it has an interval more. */
const history = { asked: 0, laterFrom: Number.POSITIVE_INFINITY };

/** Intervals 60 to 64: the daemon was away; 100: a value alone between two missing; 120: a part lost. */
const away = (/** @type {number} */ at) => at >= 60 && at < 65;
/** @param {number} size */
const line = (size) => points((at) => (away(at) || at === 99 || at === 101 ? null : wave(at, size)));

function answer(/** @type {URL} */ url) {
  const timer = { median: line(30), p90: line(200), p99: line(400), max: line(700), count: line(900), rate: line(90) };
  const bounds = Array.from({ length: 24 }, (_, at) => 2 ** (at / 2));
  const heat = {
    bounds,
    counts: points((at) => (away(at) ? null : 1)).map((is, at) =>
      is
        ? [...bounds, 0].map((_, n) =>
            Math.max(0, Math.round(1000 * Math.exp(-((n - 9 - Math.sin(at / 20)) ** 2) / 6))),
          )
        : null,
    ),
  };
  const series = url.searchParams.getAll("id").map((id) => {
    const [kind, name] = [id.slice(0, id.indexOf(":")), id.slice(id.indexOf(":") + 1)];
    const fields = /** @type {Record<string, (number | null)[]>} */ (
      kind === "timer"
        ? timer
        : kind === "counter"
          ? { value: line(1000), rate: line(100) }
          : { value: points((at) => (at < 150 ? 40 + (at % 30) : null)) }
    );
    const updated = kind === "gauge" ? { updated: points((at) => Number(at % 40 < 30)).map(Boolean) } : {};
    return {
      id,
      kind,
      name,
      tags: {},
      fields,
      ...updated,
      ...(kind === "timer" && url.searchParams.has("heat") ? { heat } : {}),
    };
  });
  const ledger = Object.fromEntries(
    url.searchParams
      .getAll("ledger")
      .map((path, at) => [
        path,
        points((n) => (away(n) ? null : wave(n, path.endsWith("empty") ? 50 : (at + 1) * 1e5))),
      ]),
  );
  const end = START + COUNT * STEP;
  return {
    from: START,
    to: end,
    interval: STEP,
    step: STEP,
    resolution: "interval",
    times: points((at) => START + (at + 1) * STEP),
    completeness: points((at) => (away(at) ? null : at === 120 ? 0.979 : 1)),
    given_up_before: null,
    open: { from: end, to: end + STEP, now: end + 6 },
    marks: [
      ...(url.searchParams.has("heat")
        ? [{ from: START, to: START + 200, kind: "given_up", text: "given up, because memory was short" }]
        : []),
      { from: START + 600, to: START + 650, kind: "restart", text: "daemon restarted, 50 s not seen" },
    ],
    series,
    ledger,
  };
}

const FIGURES = `
<figure class="card c12" id="line" data-chart="line" data-ids="counter:a"><figcaption><h2>A counter</h2></figcaption><div class="plot"></div></figure>
<figure class="card c12" id="stack" data-chart="stack" data-ledger="lines.metrics lines.malformed lines.events" data-per-sec><figcaption><h2>Throughput</h2></figcaption><div class="plot"></div></figure>
<figure class="card c12" id="bands" data-chart="bands" data-ids="timer:t"><figcaption><h2>Percentiles</h2></figcaption><div class="plot"></div></figure>
<figure class="card c12" id="heat" data-chart="heat" data-ids="timer:t"><figcaption><h2>Distribution</h2></figcaption><div class="plot"></div></figure>
<figure class="card c6" id="gauge" data-chart="area" data-ids="gauge:g" data-small><figcaption><h2>A gauge</h2></figcaption><div class="plot low"></div></figure>
<figure class="card c12" id="thin" data-chart="stack" data-ledger="lines.metrics lines.empty" data-per-sec><figcaption><h2>Thin</h2></figcaption><div class="plot"></div></figure>
<figure class="card c6" id="compare" data-chart="line" data-ids="counter:a counter:b counter:c" data-compare><figcaption><h2>Compared</h2></figcaption><div class="plot"></div></figure>`;

/** @type {import("playwright-core").Browser} */
let chromium;
/** @type {import("playwright-core").Page} */
let page;
/** @type {string[]} */
let wrong;

before(async () => {
  chromium = await browser();
  page = await chromium.newPage({ viewport: { width: 1000, height: 1500 }, deviceScaleFactor: 1, timezoneId: "UTC" });
  wrong = faults(page);
  await page.route("http://page.test/**", (route) => {
    const url = new URL(route.request().url());
    const name = url.pathname.split("/").pop() ?? "";
    const types = /** @type {Record<string, string>} */ ({ js: "text/javascript", css: "text/css", html: "text/html" });
    const contentType = types[name.split(".").pop() ?? ""] ?? "text/html";
    if (url.pathname === "/api/v1/history") {
      history.asked += 1;
      const given = answer(url);
      const by = history.asked > history.laterFrom ? STEP : 0;
      return route.fulfill({ json: { ...given, times: given.times.map((time) => (time ?? 0) + by) } });
    }
    if (url.pathname.startsWith("/assets/")) {
      return route.fulfill({ body: readFileSync(new URL(name, ASSETS)), contentType });
    }
    if (name === "favicon.ico") {
      return route.fulfill({ status: 204 });
    }
    const body = readFileSync(new URL(name || "drawing.html", HERE), "utf8");
    return route.fulfill({ body: body.replace('id="charts">', `id="charts">${FIGURES}`), contentType });
  });
  await page.goto(`http://page.test/?from=${START}&to=${START + COUNT * STEP}&tz=utc`);
  await until("charts are drawn", async () => {
    assert.deepEqual(wrong, []);
    return page.evaluate(() => document.querySelectorAll("figure.drawn").length >= 3);
  });
});

after(() => chromium.close());

/**
 * How many pixels of the plot between two moments differ from the ground, and how many are hatched.
 * @param {string} id
 * @param {number} from
 * @param {number} to
 */
function inked(id, from, to) {
  return page.evaluate(
    ({ id, from, to }) => {
      const { charts } = /** @type {any} */ (window);
      const chart = [...charts.all.values()].find((one) => one.figure.id === id);
      chart.render(charts.theme);
      const { x, top, bottom } = chart.place;
      const [left, right] = [Math.ceil(x.to(from)), Math.floor(x.to(to))];
      const { data, width } = chart.base
        .getContext("2d")
        .getImageData(left, top, Math.max(1, right - left), bottom - top);
      let [line, all] = [0, 0];
      for (let at = 0; at < data.length; at += 4) {
        // Lines are saturated; the grid, the hatch and text are grey.
        const [r, g, b, a] = data.slice(at, at + 4);
        line += a > 120 && Math.max(r, g, b) - Math.min(r, g, b) > 60 ? 1 : 0;
        all += a > 30 ? 1 : 0;
      }
      return { line, all, width };
    },
    { id, from, to },
  );
}

test("a line breaks where nobody saw, and the time is hatched", async () => {
  for (const id of ["line", "stack", "bands"]) {
    const gap = await inked(id, START + 612, START + 638);
    assert.equal(gap.line, 0, `${id}: nothing is drawn across the gap`);
    assert.ok(gap.all > gap.width * 20, `${id}: it is hatched`);
    assert.ok((await inked(id, START + 300, START + 500)).line > 0, `${id}: there is a line before it`);
  }
});

test("a part that is next to nothing neither paints the edge of what is below it nor has a name there", async () => {
  const colours = await page.evaluate(() => {
    const { charts } = /** @type {any} */ (window);
    const chart = [...charts.all.values()].find((one) => one.figure.id === "thin");
    chart.render(charts.theme);
    // Above the lane, whose red is of what was lost.
    const { data } = chart.base.getContext("2d").getImageData(0, 0, chart.base.width, chart.place.bottom + 4);
    const count = { first: 0, second: 0 };
    for (let at = 0; at < data.length; at += 4) {
      const [r, , b, a] = data.slice(at, at + 4);
      count.first += a > 120 && b > r + 60 ? 1 : 0;
      count.second += a > 120 && r > b + 60 ? 1 : 0;
    }
    return { ...count, says: chart.readout.textContent };
  });
  assert.ok(colours.first > 300, `${colours.first} pixels of the first`);
  assert.equal(colours.second, 0, "pixels of the second");
  assert.match(colours.says, /too few to see: empty/);
});

test("a value alone between two missing is a dot", async () => {
  const dot = await inked("line", START + 1003, START + 1017);
  assert.ok(dot.line > 3, `${dot.line} pixels`);
});

test("the crosshair is on all charts, the tooltip on one, and the data canvas stays as it is", async () => {
  const plot = page.locator("#line .plot");
  await plot.scrollIntoViewIfNeeded();
  await page.evaluate(() => {
    /** @type {any} */ (window).drawn = 0;
    for (const chart of /** @type {any} */ (window).charts.all.values()) {
      const render = chart.render.bind(chart);
      chart.render = (/** @type {any} */ theme) => {
        /** @type {any} */ (window).drawn += 1;
        render(theme);
      };
    }
  });
  const box = await plot.boundingBox();
  assert.ok(box);
  await page.mouse.move(box.x + box.width * 0.5, box.y + 60);
  await until("a tooltip", () => page.locator("#line .tip").isVisible());
  await page.mouse.move(box.x + box.width * 0.52, box.y + 60);
  assert.match(
    (await page.locator("#line .tip").textContent()) ?? "",
    /\d\d:\d\d:\d\d to \d\d:\d\d:\d\d.*complete100 %/,
  );
  await until("the other chart says its value", async () =>
    /k/.test((await page.locator("#stack .readout").textContent()) ?? ""),
  );
  assert.equal(await page.evaluate(() => /** @type {any} */ (window).drawn), 0);
});

test("arrow keys move the crosshair by an interval", async () => {
  await page.locator("#line .plot").focus();
  await page.keyboard.press("Home");
  const text = () => page.locator("#line .plot").getAttribute("aria-valuetext");
  await until("the first interval is read", async () => (await text())?.startsWith("22:13:20 to 22:13:30"));
  await page.keyboard.press("ArrowRight");
  await until("the next", async () => (await text())?.startsWith("22:13:30 to 22:13:40"));
  await page.keyboard.press("Shift+ArrowRight");
  await until("ten on", async () => (await text())?.startsWith("22:15:10 to 22:15:20"));
  await page.keyboard.press("Escape");
});

test("a part that is lost reads low, and says how low", async () => {
  await page.locator("#line .plot").focus();
  await page.keyboard.press("Home");
  for (let n = 0; n < 12; n += 1) {
    await page.keyboard.press("Shift+ArrowRight");
  }
  await until("the tooltip", async () =>
    /97.9 % complete.*reads low/.test((await page.locator("#line .tip").textContent()) ?? ""),
  );
  await page.keyboard.press("Escape");
});

test("the table of a chart has its points, one table at a time", async () => {
  await page.locator("#line").getByRole("button", { name: "Show as table" }).click();
  assert.equal(await page.locator("#line table tbody tr").count(), 40);
  await page.locator("#stack").getByRole("button", { name: "Show as table" }).click();
  assert.equal(await page.locator(".chart-table tbody tr").count(), 40);
  await page.locator("#stack").getByRole("button", { name: "Hide the table" }).click();
});

test("a drag zooms, Back goes back", async () => {
  const plot = page.locator("#line .plot");
  await plot.scrollIntoViewIfNeeded();
  const box = await plot.boundingBox();
  assert.ok(box);
  await page.mouse.move(box.x + box.width * 0.3, box.y + 60);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.5, box.y + 60, { steps: 4 });
  await page.mouse.up();
  const from = () => Number(new URL(page.url()).searchParams.get("from"));
  await until("the window is smaller", () => from() > START + 200);
  await page.goBack();
  await until("the window is as before", () => from() === START);
});

test("a hundred thousand points are drawn quickly", async () => {
  const ms = await page.evaluate(async () => {
    const { draw, Theme } = await import(String("/assets/draw.js"));
    const count = 100_000;
    const times = Float64Array.from({ length: count }, (_, at) => at);
    const values = Float64Array.from(times, (at) =>
      at % 997 === 0 ? Number.NaN : Math.sin(at / 50) * 100 + (at % 17),
    );
    const one = {
      key: "a",
      field: "value",
      label: "a",
      kind: "counter",
      unit: "",
      values,
      least: null,
      most: null,
      updated: null,
    };
    const model = {
      type: "area",
      from: 0,
      to: count,
      step: 1,
      times,
      completeness: new Float64Array(count).fill(1),
      lines: [one],
      heat: null,
      marks: [],
      flags: [],
      open: null,
      log: false,
      small: false,
      compare: false,
      utc: true,
    };
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [1000, 240];
    const ctx = canvas.getContext("2d");
    const start = performance.now();
    draw(ctx, model, 1000, 240, new Theme());
    return performance.now() - start;
  });
  assert.ok(ms < 200, `${ms} ms`);
});

test("an interval that the history has a moment later is asked for again", async () => {
  await page.goto("http://page.test/?tz=utc");
  await until("charts are drawn", () => page.evaluate(() => document.querySelectorAll("figure.drawn").length >= 3));
  const end = START + (COUNT + 1) * STEP;
  history.laterFrom = history.asked + 4;
  const before = history.asked;
  await page.evaluate((end) => /** @type {any} */ (window).charts.tail(end), end);
  await until("all charts have it", () =>
    page.evaluate(
      (end) => /** @type {any} */ (window).charts.blocks.every((/** @type {any} */ one) => one.last === end),
      end,
    ),
  );
  await page.waitForTimeout(400);
  assert.ok(history.asked - before <= 8, `${history.asked - before} requests`);
  history.laterFrom = Number.POSITIVE_INFINITY;
});

test("nothing is wrong in the console", () => {
  assert.deepEqual(wrong, []);
});

test("screenshots, if they are asked for", async () => {
  const folder = process.env.SYSTOLE_SCREENSHOTS;
  if (folder) {
    for (const theme of ["light", "dark"]) {
      await page.evaluate((theme) => {
        document.documentElement.dataset.theme = theme;
        /** @type {any} */ (window).charts.restyle();
      }, theme);
      await page.screenshot({ path: `${folder}/drawing-${theme}.png`, fullPage: true });
    }
  }
});
