// Points of a metric, merged into buckets that lose no spike and no NaN.

export interface Bucket {
  /** Step of the first and of the last point. */
  first: number;
  step: number;
  /** Of the finite values; NaN where there is none. */
  min: number;
  max: number;
  /** The newest value, finite or not. */
  last: number;
  /** Values that are NaN or infinite. */
  bad: number;
  /** When the last was reported, in ms since 1970. */
  at: number;
  attempt: number;
}

export function bucketOf(step: number, value: number, at: number, attempt = 0): Bucket {
  const finite = Number.isFinite(value);
  return { first: step, step, min: finite ? value : NaN, max: finite ? value : NaN, last: value, bad: finite ? 0 : 1, at, attempt };
}

function extreme(pick: (a: number, b: number) => number, a: number, b: number): number {
  return Number.isNaN(a) ? b : Number.isNaN(b) ? a : pick(a, b);
}

/** Two neighbours as one. */
export function merged(a: Bucket, b: Bucket): Bucket {
  return {
    first: a.first,
    step: b.step,
    min: extreme(Math.min, a.min, b.min),
    max: extreme(Math.max, a.max, b.max),
    last: b.last,
    bad: a.bad + b.bad,
    at: b.at,
    attempt: b.attempt,
  };
}

/** At most `most` of them, neighbours merged. */
export function thinned(buckets: Bucket[], most: number): Bucket[] {
  while (buckets.length > most) {
    const half: Bucket[] = [];
    for (let i = 0; i < buckets.length; i += 2) {
      const b = buckets[i + 1];
      half.push(b ? merged(buckets[i]!, b) : buckets[i]!);
    }
    buckets = half;
  }
  return buckets;
}

/** One metric as it grows: between `most` and twice as many buckets, whatever the number of points. */
export class Series {
  buckets: Bucket[];
  private readonly most: number;

  constructor(most = 1000, start: Bucket[] = []) {
    this.most = most;
    this.buckets = start;
  }

  /** A new point; one of a newer attempt replaces what the earlier attempt reported from its step on. */
  add(step: number, value: number, at: number, attempt: number): void {
    const last = this.buckets[this.buckets.length - 1];
    if (last && step <= last.step) {
      if (attempt < last.attempt) return;
      this.buckets = this.buckets.filter((one) => one.step < step);
    }
    this.buckets.push(bucketOf(step, value, at, attempt));
    if (this.buckets.length > 2 * this.most) this.buckets = thinned(this.buckets, this.most);
  }
}

/** Exponential moving average without the bias of its start; what is not finite is passed over. `weight`: 0 … 0.99. */
export function smoothed(values: (number | null)[], weight: number): (number | null)[] {
  if (weight <= 0) return values;
  let mean = 0;
  let mass = 0;
  return values.map((value) => {
    if (value === null || !Number.isFinite(value)) return value;
    mean = weight * mean + (1 - weight) * value;
    mass = weight * mass + (1 - weight);
    return mean / mass;
  });
}

export function toNumber(value: number | string | null): number {
  return value === null ? NaN : Number(value);
}
