// Where curves come from: the one place that knows how the API gives them.
import { useEffect, useReducer, useRef } from "react";

import { api, data } from "../api/client";
import { Series, toNumber, type Bucket } from "./buckets";

export type Curves = Record<string, Bucket[]>;
export interface Range {
  from: number;
  to: number;
}

const BUCKETS = 400;
const REDRAW_MS = 200;
const REOPEN_MS = 2000;

interface StreamedPoint {
  seq: number;
  attempt: number;
  name: string;
  step: number;
  value: number | string;
  at: string;
}

/** First and last step, points, min, max, last value, how many are NaN, infinite, seconds since the origin. */
export type SentBucket = [number, number, number, number | null, number | null, number | string, number, number, number];

export function received(sent: SentBucket, origin: number): Bucket {
  const [first, step, , min, max, last, nans, infinite, seconds] = sent;
  const at = origin + seconds * 1000;
  return { first, step, min: min ?? NaN, max: max ?? NaN, last: toNumber(last), bad: nans + infinite, at, attempt: 0 };
}

interface Read {
  curves: Curves;
  /** The number of the last point that is in them. */
  seq: number;
}

async function readBuckets(jobId: string, names?: string[], range?: Range, buckets = BUCKETS): Promise<Read> {
  const query = { buckets, ...(names ? { name: names } : {}), ...(range ? { from_step: range.from, to_step: range.to } : {}) };
  const answer = await data(api.GET("/v1/jobs/{job_id}/metrics", { params: { path: { job_id: jobId }, query } }));
  const origin = Date.parse(answer.origin ?? "") || 0;
  const curves: Curves = {};
  for (const series of answer.data) {
    curves[series.name] = ((series.buckets ?? []) as unknown as SentBucket[]).map((one) => received(one, origin));
  }
  return { curves, seq: answer.seq ?? 0 };
}

/** The curves of a job as they are now. */
export async function readCurves(jobId: string, buckets = BUCKETS): Promise<Curves> {
  return (await readBuckets(jobId, undefined, undefined, buckets)).curves;
}

/** Some metrics between two steps, as fine as the service has them. */
export async function readDetail(jobId: string, names: string[], range: Range): Promise<Curves> {
  return (await readBuckets(jobId, names, range)).curves;
}

/** A whole curve with a part of it in more detail. */
export function spliced(whole: Bucket[], detail: Bucket[] | undefined): Bucket[] {
  const [first] = detail ?? [];
  const last = detail?.[detail.length - 1];
  if (!detail || !first || !last) return whole;
  return [...whole.filter((one) => one.step < first.first), ...detail, ...whole.filter((one) => one.first > last.step)];
}

/**
 * Follow a job that is not finished from its curves on: one stream, which continues behind the last point that is there
 * after any interruption, so no point is sent twice. Returns what ends it.
 */
function follow(jobId: string, start: Read, changed: (curves: Curves) => void): () => void {
  const series = new Map(Object.entries(start.curves).map(([name, buckets]) => [name, new Series(BUCKETS, buckets)]));
  let { seq } = start;
  let frame = 0;
  let reopen = 0;
  let source: EventSource;
  const draw = () => {
    frame = 0;
    changed(Object.fromEntries([...series].map(([name, one]) => [name, [...one.buckets]])));
  };
  const open = () => {
    source = new EventSource(`/v1/jobs/${encodeURIComponent(jobId)}/metrics?after=${seq}`);
    source.onmessage = (message) => {
      const point = JSON.parse(String(message.data)) as StreamedPoint;
      seq = point.seq;
      let one = series.get(point.name);
      if (!one) series.set(point.name, (one = new Series(BUCKETS)));
      one.add(point.step, toNumber(point.value), Date.parse(point.at), point.attempt);
      if (!frame) frame = window.setTimeout(draw, REDRAW_MS);
    };
    // The browser reconnects by itself after a break, but not after a refusal (a service that is just starting).
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) reopen = window.setTimeout(open, REOPEN_MS);
    };
  };
  open();
  return () => {
    source.close();
    window.clearTimeout(frame);
    window.clearTimeout(reopen);
  };
}

interface Held {
  curves: Curves;
  error: unknown;
}

/** The curves of a job, live until it is finished. */
export function useCurves(jobId: string, finished: boolean): Held {
  const [, redraw] = useReducer((count: number) => count + 1, 0);
  const held = useRef<Held>({ curves: {}, error: null });
  useEffect(() => {
    let ended = false;
    let stop = () => {};
    const show = (next: Partial<Held>) => {
      if (ended) return;
      held.current = { ...held.current, ...next };
      redraw();
    };
    readBuckets(jobId).then(
      (start) => {
        show({ curves: start.curves, error: null });
        if (!ended && !finished) stop = follow(jobId, start, (curves) => show({ curves, error: null }));
      },
      (error: unknown) => show({ error }),
    );
    return () => {
      ended = true;
      stop();
    };
  }, [jobId, finished]);
  return held.current;
}
