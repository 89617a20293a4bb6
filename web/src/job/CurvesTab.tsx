import { useMemo, useState } from "react";

import type { Job } from "../api/client";
import { Chart } from "../curves/Chart";
import { CurveOptions, PLAIN } from "../curves/CurveOptions";
import { groupOf, lineOf } from "../curves/lines";
import { useCurves } from "../curves/source";
import { ProblemBox } from "../shared/parts";

/** Steps of an epoch, where the job says enough. */
export function stepsPerEpoch(job: Job): number | null {
  const { step, total_steps, epoch, epochs } = job.progress ?? {};
  if (total_steps && epochs) return total_steps / epochs;
  return step && epoch ? step / epoch : null;
}

export function CurvesTab({ job, finished }: { job: Job; finished: boolean }) {
  const { curves, error } = useCurves(job.id, finished);
  const [view, setView] = useState(PLAIN);
  const perEpoch = stepsPerEpoch(job);
  const charts = useMemo(() => {
    const groups = new Map<string, string[]>();
    for (const name of Object.keys(curves).sort()) groups.set(groupOf(name), [...(groups.get(groupOf(name)) ?? []), name]);
    return [...groups].map(([group, names]) => ({
      group,
      lines: names.map((name) => lineOf(name, curves[name]!, view.axis, view.smoothing, perEpoch)),
    }));
  }, [curves, view, perEpoch]);
  return (
    <>
      <CurveOptions view={view} onChange={setView} epochs={perEpoch !== null} />
      <ProblemBox error={error} />
      {charts.length === 0 && <p className="quiet">No metric was reported yet.</p>}
      <div className="charts">
        {charts.map(({ group, lines }) => (
          <Chart key={group} title={group} lines={lines} axis={view.axis} log={view.log} />
        ))}
      </div>
    </>
  );
}
