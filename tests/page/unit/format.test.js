import assert from "node:assert/strict";
import { test } from "node:test";
import * as format from "../../../src/http/assets/format.js";

/** @type {(cases: [any, string][], of: (value: any) => string) => void} */
const table = (cases, of) => {
  for (const [given, expected] of cases) {
    assert.equal(of(given), expected, String(given));
  }
};

test("numbers have three significant digits below 1,000 and are whole above", () => {
  table(
    [
      [0, "0"],
      [184_232.4, "184,232"],
      [921.4, "921"],
      [61.24, "61.2"],
      [0.38, "0.38"],
      [0.05, "0.05"],
      [-1.5, "−1.5"],
      [2, "2"],
      [0.00012345, "0.000123"],
      [1e15, "1.00e+15"],
      [3.4028235e38, "≥ 3.4e38"],
      [-3.4028235e38, "≤ −3.4e38"],
      [null, "none"],
      [Number.NaN, "none"],
    ],
    format.number,
  );
});

test("axes shorten from 10,000 on", () => {
  table(
    [
      [9999, "9,999"],
      [10_000, "10 k"],
      [184_000, "184 k"],
      [1_250_000, "1.25 M"],
      [2e9, "2 G"],
      [-60_000, "−60 k"],
    ],
    (value) => format.short(value),
  );
});

test("values carry their unit", () => {
  assert.equal(format.withUnit(842, "ms"), "842 ms");
  assert.equal(format.withUnit(1155, "ms"), "1.16 s");
  assert.equal(format.withUnit(61_200, "/s"), "61.2 k/s");
  assert.equal(format.withUnit(12.1, "/s"), "12.1 /s");
  assert.equal(format.withUnit(74, ""), "74");
  assert.equal(format.withUnit(null, "ms"), "none");
  assert.equal(format.withUnit(184 * 1024 * 1024, "B"), "184 MiB");
});

test("a share that is not whole never reads as 100 %", () => {
  table(
    [
      [1, "100 %"],
      [0.99999999, "99.99 %"],
      [0.979, "97.9 %"],
      [0.0005, "0.05 %"],
      [0, "0 %"],
    ],
    format.percent,
  );
});

test("durations have at most two units", () => {
  table(
    [
      [0.4, "0.4 s"],
      [7, "7 s"],
      [205, "3 min 25 s"],
      [3540, "59 min"],
      [4320, "1 h 12 min"],
      [7200, "2 h"],
      [86_400 * 19, "19 d"],
    ],
    format.duration,
  );
});

test("times of day are written in UTC if that is asked for", () => {
  assert.equal(format.clock(9100, true), "02:31:40");
  assert.equal(format.clock(9100, true, false), "02:31");
  assert.equal(format.span(7930, 7940, true), "02:12:10 to 02:12:20");
  assert.equal(format.span(7930, 7930.5, true), "02:12:10.0 to 02:12:10.5");
  assert.equal(format.date(0, true), "1970-01-01");
});

test("units follow kind and field", () => {
  assert.equal(format.fieldUnit("timer", "p99"), "ms");
  assert.equal(format.fieldUnit("timer", "rate"), "/s");
  assert.equal(format.fieldUnit("timer", "count"), "");
  assert.equal(format.fieldUnit("histogram", "p99"), "");
  assert.equal(format.fieldUnit("counter", "rate"), "/s");
  assert.equal(format.fieldName("median"), "p50");
});
