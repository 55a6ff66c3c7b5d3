import assert from "node:assert/strict";
import { test } from "node:test";
import { pairs, parseId, seriesUrl } from "../../../src/http/assets/ids.js";
import { wait } from "../../../src/http/assets/stream.js";
import { carry, moved, parse, rangeSeconds, windowOf, write } from "../../../src/http/assets/url.js";

test("what is written is read again", () => {
  for (const query of [
    "",
    "?range=1h",
    "?from=1700000000&to=1700000600",
    "?live=0&tz=utc",
    "?q=latency+route%3A%2Fpay&kind=timer&sort=loudest",
    "?sel=timer%3Aa%3Bb%3Dc&pin=x&pin=y&cmp=z&y=log",
  ]) {
    assert.equal(write(parse(query), query), query, query);
  }
});

test("defaults are left out, and what is no state of ours stays", () => {
  assert.equal(write(parse("?range=30m&live=1&tz=local"), "?by=prefix&range=30m"), "?by=prefix");
  assert.equal(write({ ...parse("?q=a"), q: "" }, "?q=a&tag=b%3Ac&tag=d"), "?tag=b%3Ac&tag=d");
});

test("the kind in the address of a series is its own", () => {
  const query = "?kind=timer&name=a&tag=b%3Ac";
  assert.equal(write(parse(query), query), query);
});

test("a window that cannot be is not taken", () => {
  for (const query of ["?from=5&to=1", "?from=x&to=9", "?from=1", "?from=1&to=3", "?range=1y", "?range=-5m"]) {
    const state = parse(query);
    assert.equal(state.from, null, query);
    assert.equal(state.range, "30m", query);
  }
});

test("ranges are lengths", () => {
  assert.deepEqual(
    ["90s", "5m", "24h", "7d", "5", "", "1000d", "1s"].map((text) => rangeSeconds(text)),
    [90, 300, 86_400, 604_800, null, null, null, null],
  );
});

test("a link to another view takes the time along and nothing else", () => {
  const state = parse("?range=1h&tz=utc&live=0&q=a&sel=b");
  assert.equal(carry(state, "/series?q=c"), "/series?q=c&range=1h&live=0&tz=utc");
  assert.equal(carry(parse("?from=100&to=200"), "/"), "/?from=100&to=200");
  assert.equal(carry(state, "/?range=5m"), "/?range=5m&live=0&tz=utc");
  assert.equal(carry(parse(""), "/presence"), "/presence");
});

test("windows move, zoom around a moment, and never end in the future", () => {
  const window = { from: 1000, to: 2000 };
  assert.deepEqual(moved(window, { shift: -0.5 }, 2000), { from: 500, to: 1500 });
  assert.deepEqual(moved(window, { shift: 1 }, 2200), { from: 1200, to: 2200 });
  assert.deepEqual(moved(window, { zoom: 0.5 }, 2000), { from: 1250, to: 1750 });
  assert.deepEqual(moved(window, { zoom: 0.5, around: 1000 }, 2000), { from: 1000, to: 1500 });
  assert.deepEqual(moved(window, { zoom: 1e-9 }, 2000), { from: 1495, to: 1505 });
  assert.deepEqual(windowOf(parse("?range=5m"), 1000), { from: 700, to: 1000 });
});

test("ids give kind, name and tags, whatever they hold", () => {
  assert.deepEqual(parseId("timer:checkout.latency;env=prod;route=/pay"), {
    kind: "timer",
    name: "checkout.latency",
    tags: [
      ["env", "prod"],
      ["route", "/pay"],
    ],
  });
  assert.deepEqual(parseId("counter:a\\;b\\=c\\\\:d;k\\=1=v=w;bare"), {
    kind: "counter",
    name: "a;b=c\\:d",
    tags: [
      ["k=1", "v=w"],
      ["bare", null],
    ],
  });
});

test("the address of a series holds any name", () => {
  const url = seriesUrl("counter", "../a b&c", pairs({ k: "v/#", bare: null, many: ["1", "2"] }));
  const query = new URL(url, "http://x").searchParams;
  assert.equal(query.get("name"), "../a b&c");
  assert.deepEqual(query.getAll("tag"), ["k:v/#", "bare", "many:1", "many:2"]);
});

test("attempts wait 1, 2, 4 … 30 seconds, a fifth more or less", () => {
  assert.deepEqual(
    [0, 1, 2, 3, 4, 5, 50].map((attempt) => wait(attempt, 0.5)),
    [1, 2, 4, 8, 16, 30, 30],
  );
  assert.equal(wait(0, 0), 0.8);
  assert.ok(wait(9, 1) < 36.1);
});

test("no window is longer than the daemon shows", () => {
  const day = 86_400;
  const { from, to } = moved({ from: 0, to: 20 * day }, { zoom: 2 }, 100 * day);
  assert.equal(to - from, 31 * day);
  assert.equal(rangeSeconds("60d"), null);
  assert.equal(parse(`?from=0&to=${60 * day}`).from, null);
});
