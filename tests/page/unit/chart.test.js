import assert from "node:assert/strict";
import { test } from "node:test";
import { bandsOf, fieldsOf, labelsOf, listed } from "../../../src/http/assets/chart.js";
import { grouped } from "../../../src/http/assets/draw.js";
import { split } from "../../../src/http/assets/format.js";
import { Block, daemonNow, pack, tellTime } from "../../../src/http/assets/history.js";
import { sparkPaths, sparkScale } from "../../../src/http/assets/spark.js";

/**
 * @param {string} name
 * @param {Record<string, string>} tags
 */
const one = (name, tags, kind = "timer", fields = {}) => ({ id: `${kind}:${name}`, kind, name, tags, fields });

test("lists of an attribute are separated by blanks, or JSON", () => {
  assert.deepEqual(listed("a  b\nc"), ["a", "b", "c"]);
  assert.deepEqual(listed('["a b","c"]'), ["a b", "c"]);
  assert.deepEqual([listed(undefined), listed(""), listed("[broken")], [[], [], []]);
});

test("labels are what tells series apart", () => {
  assert.deepEqual(labelsOf([one("a", { x: "1" }), one("b", { x: "1" })]), ["a", "b"]);
  assert.deepEqual(labelsOf([one("a", { x: "1", y: "2" }), one("a", { x: "1", y: "3" }), one("a", { x: "1" })]), [
    "2",
    "3",
    "not set",
  ]);
});

test("bands go from the median up, and the median stands once", () => {
  assert.deepEqual(bandsOf(["max", "median", "p50", "p90", "p99", "p99.9"]), ["p50", "p90", "p99", "p99.9", "max"]);
  assert.deepEqual(bandsOf(["count", "max", "median", "p90"]), ["median", "p90", "max"]);
  assert.equal(bandsOf(["median", "p60", "p70", "p80", "p90", "p95", "p99", "p99.9", "max"]).length, 7);
  assert.deepEqual(fieldsOf("line", one("a", {}, "timer", { median: [], p90: [], p99: [], max: [], min: [] })), [
    "p99",
  ]);
  assert.deepEqual(fieldsOf("line", one("a", {}, "counter", { value: [], rate: [] })), ["rate"]);
  assert.deepEqual(fieldsOf("line", one("a", {}, "set", { value: [] })), ["value"]);
});

test("flags that would overlap become one, in the state of the worst", () => {
  const flags = [10, 12, 300].map((time, at) => ({ time, text: "deploy", state: at === 1 ? "down" : "accent" }));
  const found = grouped(
    flags,
    (time) => time,
    () => 40,
  );
  assert.deepEqual(
    found.map(({ text, state }) => [text, state]),
    [
      ["2 events", "down"],
      ["deploy", "accent"],
    ],
  );
});

test("needs are packed into as few requests as the limits allow", () => {
  const ids = (/** @type {number} */ from, /** @type {number} */ count) =>
    Array.from({ length: count }, (_, at) => `counter:${from + at}`);
  const { blocks, of } = pack([
    { ids: ids(0, 7), ledger: [], heat: false },
    { ids: ids(0, 7), ledger: ["lines.read"], heat: false },
    { ids: ids(7, 7), ledger: [], heat: false },
    { ids: ids(14, 7), ledger: [], heat: false },
    { ids: ids(0, 1), ledger: [], heat: true },
  ]);
  assert.equal(blocks.length, 3);
  assert.equal(of[0], of[1]);
  assert.equal(blocks[0].need.ids.length, 14);
});

test("a block takes an answer and what came since", () => {
  const block = new Block({ ids: ["gauge:a"], ledger: ["lines.read"], heat: false });
  /** @param {number[]} times @param {(number | null)[]} values */
  const answer = (times, values) => ({
    interval: 10,
    step: 10,
    resolution: "interval",
    times,
    completeness: values.map((value) => (value === null ? null : 1)),
    given_up_before: null,
    open: null,
    marks: [{ from: times[0], to: times[0] + 5, kind: "not_seen", text: "" }],
    series: [
      {
        id: "gauge:a",
        kind: "gauge",
        name: "a",
        tags: {},
        fields: { value: values },
        updated: values.map((value) => (value === null ? null : true)),
      },
    ],
    ledger: { "lines.read": values },
  });
  block.fill(answer([10, 20, 30], [null, 2, 3]));
  assert.deepEqual([block.first, block.last], [10, 30]);
  block.append(answer([30, 40], [9, 4]));
  assert.deepEqual([...block.ring.times], [10, 20, 30, 40]);
  assert.deepEqual([...block.ring.column("lines.read")], [Number.NaN, 2, 3, 4]);
  assert.equal(block.marks.length, 2);
  assert.equal(new URL(block.url({ from: 1, to: 2 }, 10), "http://x").searchParams.get("step"), "10");
});

test("a small line spans a third of its maximum, breaks, and has dots", () => {
  assert.deepEqual(sparkScale([100, 101]), [85.35, 115.65]);
  assert.deepEqual(sparkScale([0, 10]), [0, 10]);
  assert.equal(sparkScale([null]), null);
  assert.doesNotMatch(sparkPaths([0, 0]).line, /NaN/);
  assert.match(sparkPaths([1, 2, null, 3]).line, /^M0 [\d.]+L40 [\d.]+M120 [\d.]+h0$/);
  assert.deepEqual(sparkPaths([null]), { line: "", area: "" });
});

test("what was searched for is found in a text", () => {
  assert.deepEqual(split("checkout.Latency", ["latency"]), ["checkout.", "Latency", ""]);
  assert.deepEqual(split("route:/pay", ["x", "route:/pay"]), ["", "route:/pay", ""]);
  assert.deepEqual(split("İa", ["a"]), ["İa"]);
  assert.deepEqual(split("abc", []), ["abc"]);
});

test("windows go by the daemon's clock where the browser's is wrong", () => {
  const now = Date.now() / 1000;
  tellTime(now + 3600);
  assert.ok(Math.abs(daemonNow() - now - 3600) < 1);
  // Less than a header can say is no difference; a time that is none is no news.
  tellTime(Number.NaN);
  assert.ok(Math.abs(daemonNow() - now - 3600) < 1);
  tellTime(now + 0.9);
  assert.ok(Math.abs(daemonNow() - now) < 0.5);
});
