import assert from "node:assert/strict";
import { test } from "node:test";
import { bandsOf, fieldsOf, labelsOf, listed, unseen } from "../../../src/http/assets/chart.js";
import { endLabels, grouped } from "../../../src/http/assets/draw.js";
import { split } from "../../../src/http/assets/format.js";
import { Block, daemonNow, joined, pack, tellTime } from "../../../src/http/assets/history.js";
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

/** @param {number} from @param {number} to exponents of the bounds, four to a doubling */
const bounds = (from, to, by = 1) =>
  Array.from({ length: (to - from) / by + 1 }, (_, at) => Math.fround(2 ** ((from + at * by) / 4)));

test("a heat map keeps its columns when the next answer has other buckets", () => {
  const block = new Block({ ids: ["timer:a"], ledger: [], heat: true });
  /** @param {number[]} times @param {number[]} own @param {(number[] | null)[]} counts */
  const answer = (times, own, counts) => ({
    interval: 10,
    step: 10,
    resolution: "interval",
    times,
    completeness: times.map(() => 1),
    given_up_before: null,
    open: null,
    marks: [],
    series: [{ id: "timer:a", kind: "timer", name: "a", tags: {}, fields: {}, heat: { bounds: own, counts } }],
  });
  block.fill(answer([10, 20, 30], bounds(4, 6), [null, [1, 2, 3], [4, 5, 6]]));
  block.append(answer([40], bounds(6, 8), [[7, 0, 9]]));
  block.append(answer([50], [0, ...bounds(5, 5)], [[2, 8]]));
  const heat = block.heatOf("timer:a");
  assert.deepEqual(heat?.bounds.map(Math.fround), [0, ...bounds(4, 8)]);
  assert.deepEqual(heat?.counts, [
    null,
    [0, 1, 2, 3, 0, 0],
    [0, 4, 5, 6, 0, 0],
    [0, 0, 0, 7, 0, 9],
    [2, 0, 8, 0, 0, 0],
  ]);
  block.forget(35);
  assert.equal(block.heatOf("timer:a")?.counts.length, 2);
  assert.equal(block.heatOf("timer:b"), undefined);
});

test("columns in narrow and in wide buckets are joined in the wide ones, and none is lost", () => {
  const { bounds: joint, counts } = joined([
    { bounds: bounds(1, 4), counts: [1, 2, 3, 4] },
    { bounds: bounds(4, 8, 2), counts: [5, 6, 7] },
    null,
  ]);
  assert.deepEqual(joint.map(Math.fround), bounds(2, 8, 2));
  assert.deepEqual(counts, [[3, 7, 0, 0], [0, 5, 6, 7], null]);
  const far = joined([
    { bounds: bounds(-40, -40), counts: [1] },
    { bounds: bounds(60, 60), counts: [2] },
  ]);
  assert.ok(far.bounds.length <= 64, `${far.bounds.length} buckets`);
  assert.deepEqual(
    far.counts.map((row) => row?.reduce((sum, count) => sum + count, 0)),
    [1, 2],
  );
  assert.deepEqual(joined([null, { bounds: [], counts: [] }]), { bounds: [], counts: [null, []] });
});

test("what was not seen between two answers is marked with its length, and a restart in it is named", () => {
  const at = (/** @type {number[]} */ times) => ({ ring: { times }, step: 10, resolution: "interval" });
  const start = { from: 58, to: 58, kind: "restart", text: "the daemon was started" };
  assert.deepEqual(unseen(at([10, 20, 30, 60, 70]), [start]), [
    { from: 30, to: 58, kind: "not_seen", text: "daemon restarted, 28 s not seen" },
  ]);
  assert.equal(start.text, "", "it is said once");
  assert.deepEqual(unseen(at([10, 20, 50]), []), [{ from: 20, to: 40, kind: "not_seen", text: "20 s not seen" }]);
  assert.deepEqual(unseen(at([10, 20, 50]), [{ from: 20, to: 40, kind: "not_seen", text: "20 s not seen" }]), []);
  assert.deepEqual(unseen({ ...at([10, 20, 50]), resolution: "minute" }, []), []);
  assert.deepEqual(unseen(at([10, 20, 30]), [start]), []);
});

test("a part of a whole that is next to nothing has no name at its end", () => {
  const line = (/** @type {string} */ label, /** @type {number} */ size) => ({
    key: label,
    label,
    field: label,
    kind: "",
    unit: "/s",
    values: [size, size],
    least: null,
    most: null,
    updated: null,
  });
  const model = /** @type {import("../../../src/http/assets/draw.js").Model} */ (
    /** @type {unknown} */ ({ type: "stack", lines: [line("metrics", 1e5), line("checks", 3), line("events", 2e4)] })
  );
  assert.deepEqual(endLabels(model, 800), ["metrics", "", "events"]);
});

test("a small line spans a third of its maximum, breaks, and has dots", () => {
  assert.deepEqual(sparkScale([100, 101]), [85.35, 115.65]);
  assert.deepEqual(sparkScale([0, 10]), [0, 10]);
  assert.deepEqual(sparkScale([0, 0]), [0, 1], "nothing lies at the bottom");
  assert.equal(sparkPaths([0, 0]).line, "M0 24L120 24");
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
