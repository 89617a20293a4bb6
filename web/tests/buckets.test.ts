import { describe, expect, it } from "vitest";

import { Series, bucketOf, merged, smoothed, thinned } from "../src/curves/buckets";
import { received, spliced } from "../src/curves/source";

describe("buckets", () => {
  it("keep the smallest, the largest, the last, and count what is not finite", () => {
    const whole = [3, NaN, -1, Infinity, 2].map((value, step) => bucketOf(step, value, step)).reduce(merged);
    expect(whole).toMatchObject({ first: 0, step: 4, min: -1, max: 3, last: 2, bad: 2 });
  });

  it("of nothing finite have no smallest and largest", () => {
    const both = merged(bucketOf(0, NaN, 0), bucketOf(1, -Infinity, 1));
    expect(both).toMatchObject({ min: NaN, max: NaN, last: -Infinity, bad: 2 });
  });

  it("lose no spike of one step, however many points there are", () => {
    const points = Array.from({ length: 100_000 }, (_, step) => bucketOf(step, step === 54_321 ? 1e6 : step === 7 ? NaN : 1, step));
    const few = thinned(points, 500);
    expect(few.length).toBeLessThanOrEqual(500);
    expect(few.filter((one) => one.max === 1e6)).toHaveLength(1);
    expect(few.reduce((sum, one) => sum + one.bad, 0)).toBe(1);
    expect(few[0]!.first).toBe(0);
    expect(few[few.length - 1]!.step).toBe(99_999);
  });
});

describe("a series that grows", () => {
  it("stays within twice its size and keeps the newest point", () => {
    const series = new Series(100);
    for (let step = 0; step < 12_345; step += 1) series.add(step, step === 17 ? -5 : step, step, 1);
    expect(series.buckets.length).toBeLessThanOrEqual(200);
    expect(Math.min(...series.buckets.map((one) => one.min))).toBe(-5);
    expect(series.buckets[series.buckets.length - 1]).toMatchObject({ last: 12_344, step: 12_344 });
  });

  it("takes a newer attempt's values from its first step on, and no late ones of an older", () => {
    const series = new Series();
    for (let step = 1; step <= 10; step += 1) series.add(step, 1, step, 1);
    series.add(6, 2, 20, 2);
    series.add(6, 1, 21, 1);
    expect(series.buckets.map((one) => [one.step, one.last])).toEqual([[1, 1], [2, 1], [3, 1], [4, 1], [5, 1], [6, 2]]);
  });
});

describe("what the service sends", () => {
  it("is a bucket; one without a finite value has no smallest and largest", () => {
    const origin = Date.parse("2026-01-01T00:00:00Z");
    expect(received([8, 15, 8, 0.5, 9, "NaN", 2, 1, 1.5], origin)).toEqual({
      first: 8, step: 15, min: 0.5, max: 9, last: NaN, bad: 3, at: origin + 1500, attempt: 0,
    });
    expect(received([0, 0, 1, null, null, "Infinity", 0, 1, 0], 0)).toMatchObject({ min: NaN, max: NaN, last: Infinity });
  });

  it("in detail takes the place of the coarse part, and nothing is lost beside it", () => {
    const wide = [0, 10, 20, 30].map((first) => ({ ...bucketOf(first, 1, 0), step: first + 9 }));
    const fine = [10, 11, 12, 13, 14, 15, 16, 17, 18, 19].map((step) => bucketOf(step, 2, 0));
    expect(spliced(wide, fine).map((one) => one.first)).toEqual([0, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 30]);
    expect(spliced(wide, [])).toEqual(wide);
  });
});

describe("smoothing", () => {
  it("begins at the first value and leaves gaps", () => {
    expect(smoothed([4, null, 4, 0], 0.5)).toEqual([4, null, 4, expect.closeTo(1.714, 2)]);
    expect(smoothed([1, 2], 0)).toEqual([1, 2]);
  });
});
