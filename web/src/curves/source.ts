// Where curves come from: the one place that knows how the API gives them.
import { useEffect, useReducer, useRef } from "react";

import { api, data } from "../api/client";
import { Series, bucketOf, thinned, toNumber, type Bucket } from "./buckets";

export type Curves = Record<string, Bucket[]>;
const POINTS = 2000;

interface StreamedPoint {
  attempt: number;
  name: string;
  step: number;
  value: number | string;
  at: string;
}

/** The curves of a job as they are now. */
export async function readCurves(jobId: string, points = POINTS): Promise<Curves> {
  const answer = await data(
    api.GET("/v1/jobs/{job_id}/metrics", { params: { path: { job_id: jobId }, query: { points } } }),
  );
  const curves: Curves = {};
  for (const series of answer.data) {
    const points = series.points as unknown as [number, number | string, string][];
    const buckets = points.map(([step, value, at]) => bucketOf(step, toNumber(value), Date.parse(at)));
    curves[series.name] = thinned(buckets, POINTS);
  }
  return curves;
}

/**
 * Follow a job that is not finished: one stream. The browser reconnects by itself and sends the number of the last point
 * that it has, so no point is sent twice. Returns what ends it.
 */
function followCurves(jobId: string, changed: (curves: Curves) => void): () => void {
  const series = new Map<string, Series>();
  const source = new EventSource(`/v1/jobs/${encodeURIComponent(jobId)}/metrics`);
  let frame = 0;
  const draw = () => {
    frame = 0;
    changed(Object.fromEntries([...series].map(([name, one]) => [name, [...one.buckets]])));
  };
  source.onmessage = (message) => {
    const point = JSON.parse(String(message.data)) as StreamedPoint;
    let one = series.get(point.name);
    if (!one) series.set(point.name, (one = new Series(POINTS / 2)));
    one.add(point.step, toNumber(point.value), Date.parse(point.at), point.attempt);
    if (!frame) frame = window.setTimeout(draw, 200);
  };
  return () => {
    source.close();
    window.clearTimeout(frame);
  };
}

/** The curves of a job, live until it is finished. */
export function useCurves(jobId: string, finished: boolean): { curves: Curves; error: unknown } {
  const [, redraw] = useReducer((count: number) => count + 1, 0);
  const held = useRef<{ curves: Curves; error: unknown }>({ curves: {}, error: null });
  useEffect(() => {
    let ended = false;
    const show = (curves: Curves) => {
      if (ended) return;
      held.current = { curves, error: null };
      redraw();
    };
    if (!finished) {
      const stop = followCurves(jobId, show);
      return () => {
        ended = true;
        stop();
      };
    }
    readCurves(jobId).then(show, (error: unknown) => {
      if (ended) return;
      held.current = { ...held.current, error };
      redraw();
    });
    return () => {
      ended = true;
    };
  }, [jobId, finished]);
  return held.current;
}
