import assert from "node:assert/strict";
import { test } from "node:test";
import { axis, linear, logAxis, logarithmic, niceStep, spread, timeTicks } from "../../../src/http/assets/scale.js";

test("scales go to pixels and back", () => {
  for (const scale of [linear(0, 200, 300, 100), logarithmic(1, 1000, 300, 100)]) {
    for (const value of [1, 10, 150]) {
      assert.ok(Math.abs(scale.from(scale.to(value)) - value) < 1e-9);
    }
  }
  assert.equal(linear(0, 0, 10, 90).to(0), 10);
  assert.equal(logarithmic(1, 100, 50, 0).to(0), 50);
});

test("steps are 1, 2, 2.5 or 5 times a power of ten", () => {
  assert.deepEqual(
    [0.7, 1, 1.1, 2.3, 30, 60, 4e6].map((rough) => niceStep(rough)),
    [1, 1, 2, 2.5, 50, 100, 5e6],
  );
  assert.equal(niceStep(0.3, true), 1);
  assert.equal(niceStep(2.1, true), 5);
});

test("an axis encloses its values with few ticks", () => {
  assert.deepEqual(axis(10, 234, { zero: true }).ticks, [0, 100, 200, 300]);
  assert.deepEqual(axis(0.2, 0.9).ticks, [0.2, 0.4, 0.6, 0.8, 1]);
  for (const [least, most] of [
    [-5, 17],
    [1e9, 1.001e9],
    [3, 3.0001],
    [1e-9, 2e-9],
    [0, 3.4e38],
  ]) {
    const { low, high, ticks } = axis(least, most);
    assert.ok(low <= least && high >= most, `${least} to ${most}: ${low} to ${high}`);
    assert.ok(ticks.length >= 3 && ticks.length <= 7, `${least} to ${most}: ${ticks}`);
  }
});

test("a flat line and no line at all still have an axis", () => {
  assert.deepEqual(axis(0, 0, { zero: true }), { low: 0, high: 1, ticks: [0, 0.25, 0.5, 0.75, 1] });
  const flat = axis(7, 7);
  assert.ok(flat.low < 7 && flat.high > 7);
  const floor = axis(5, 5, { zero: true });
  assert.ok(floor.low === 0 && floor.high >= 5);
  assert.deepEqual(axis(Number.NaN, Number.NaN).ticks, [0, 0.5, 1]);
});

test("a logarithmic axis begins and ends at a power of ten", () => {
  assert.deepEqual(logAxis(3, 2500), { low: 1, high: 10_000, ticks: [1, 10, 100, 1000, 10_000] });
  assert.deepEqual(logAxis(2, 80).ticks, [1, 3, 10, 30, 100]);
  assert.deepEqual(logAxis(5, 5).high, 10);
  assert.ok(logAxis(0, 0).low > 0);
});

test("time ticks are round moments of the shown clock", () => {
  assert.deepEqual(timeTicks(1000, 2800, 6, 0), { step: 300, ticks: [1200, 1500, 1800, 2100, 2400, 2700] });
  const india = timeTicks(0, 86_400, 5, 19_800);
  assert.equal(india.step, 21_600);
  assert.equal((india.ticks[0] + 19_800) % 21_600, 0);
  assert.ok(timeTicks(0, 40 * 86_400, 6, 0).ticks.length <= 7);
});

test("labels move apart, keep their order, and stay inside", () => {
  assert.deepEqual(spread([50, 52, 51], 13, 0, 200), [50, 76, 63]);
  assert.deepEqual(spread([199, 198], 13, 0, 200), [200, 187]);
  assert.deepEqual(spread([], 13, 0, 200), []);
});
