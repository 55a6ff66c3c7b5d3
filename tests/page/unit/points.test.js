import assert from "node:assert/strict";
import { test } from "node:test";
import { change, extent, pointAt, Ring, runs, stacked, trace } from "../../../src/http/assets/points.js";

const N = Number.NaN;

test("a line breaks at NaN and at a point that is missing", () => {
  assert.deepEqual(runs([10, 20, 30, 40, 50], [1, 2, N, 3, 4], 10), [
    [0, 1],
    [3, 4],
  ]);
  assert.deepEqual(runs([10, 20, 60, 70], [1, 2, 3, 4], 10), [
    [0, 1],
    [2, 3],
  ]);
});

test("a lone value is a run of one point", () => {
  assert.deepEqual(runs([10, 20, 30], [N, 7, N], 10), [[1, 1]]);
  assert.deepEqual(runs([10, 20, 30], [7, N, 8], 10), [
    [0, 0],
    [2, 2],
  ]);
  assert.deepEqual(runs([10, 20], [N, N], 10), []);
  assert.deepEqual(runs([], [], 10), []);
});

test("of a pixel column the first, least, largest and last value stay, in their order", () => {
  const values = [5, 9, 1, 4, 7, 8];
  const times = [0, 1, 2, 3, 10, 20];
  assert.deepEqual(
    trace(times, values, [0, 5], (time) => time / 10),
    [0, 5, 0, 9, 0, 1, 0, 4, 1, 7, 2, 8],
  );
});

test("a spike between pixels survives", () => {
  const times = Array.from({ length: 10_000 }, (_, at) => at);
  const values = times.map((at) => (at === 5003 ? 1000 : 1));
  const drawn = trace(times, values, [0, 9999], (time) => time / 100);
  assert.ok(drawn.includes(1000));
  assert.ok(drawn.length <= 101 * 8);
});

test("the point of a moment is the one whose interval holds it", () => {
  const times = [10, 20, 40];
  assert.deepEqual(
    [1, 10, 10.1, 20, 31, 40, 41].map((time) => pointAt(times, 10, time)),
    [0, 0, 1, 1, 2, 2, -1],
  );
  assert.equal(pointAt([100], 10, 20), -1);
});

test("parts of a whole are not known above one that is missing", () => {
  const [low, high] = stacked([
    [1, N, 3],
    [10, 20, 30],
  ]);
  assert.deepEqual([...low], [1, N, 3]);
  assert.deepEqual([...high], [11, N, 33]);
});

test("the extent leaves out what is missing", () => {
  assert.deepEqual(extent([[N, 3, 1], [2]]), [1, 3]);
  assert.deepEqual(extent([[N]]), [N, N]);
});

test("a ring keeps the newest points, and late columns start with nothing", () => {
  const ring = new Ring(3);
  for (let time = 1; time <= 9; time += 1) {
    ring.push(time, time < 8 ? [["a", time * 10]] : [["b", time]]);
  }
  assert.deepEqual([...ring.times], [7, 8, 9]);
  assert.deepEqual([...ring.column("a")], [70, N, N]);
  assert.deepEqual([...ring.column("b")], [N, 8, 9]);
  assert.deepEqual([...ring.column("none")], [N, N, N]);
  assert.equal(ring.push(9, []), false);
  ring.forget(9);
  assert.deepEqual([...ring.times], [9]);
});

test("a change that lasts is found, with its moment; noise is none", () => {
  const times = Array.from({ length: 100 }, (_, at) => at * 10);
  const step = times.map((_, at) => (at < 60 ? 180 : 842) + (at % 7));
  const found = change(times, step);
  assert.ok(found && found.at === 600 && Math.abs(found.before - 183) < 1 && Math.abs(found.after - 845) < 1);
  assert.equal(
    change(
      times,
      times.map((_, at) => 100 + ((at * 7919) % 13)),
    ),
    null,
  );
  assert.equal(
    change(
      times,
      times.map(() => N),
    ),
    null,
  );
});
