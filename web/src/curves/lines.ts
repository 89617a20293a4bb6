// From buckets to the lines of charts.
import { smoothed, type Bucket } from "./buckets";
import type { Axis, Line } from "./Chart";

const PREFIX = /^(val|test)_/;

/** `loss` and `val_loss` share a chart. */
export function groupOf(metric: string): string {
  return metric.replace(PREFIX, "");
}

export function lineOf(label: string, buckets: Bucket[], axis: Axis, smoothing: number, stepsPerEpoch: number | null): Line {
  const place = (one: Bucket) =>
    axis === "time" ? one.at / 1000 : axis === "epoch" && stepsPerEpoch ? one.step / stepsPerEpoch : one.step;
  const x = buckets.map(place);
  const y = smoothed(buckets.map((one) => (Number.isFinite(one.last) ? one.last : null)), smoothing);
  const spread = buckets.some((one) => one.min !== one.max && one.first !== one.step);
  const finite = (value: number) => (Number.isFinite(value) ? value : null);
  return {
    label,
    dashed: PREFIX.test(label),
    x,
    y,
    ...(spread ? { low: buckets.map((one) => finite(one.min)), high: buckets.map((one) => finite(one.max)) } : {}),
    bad: buckets.filter((one) => one.bad > 0).map(place),
  };
}
