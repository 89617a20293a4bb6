import { useQuery } from "@tanstack/react-query";
import { useMemo, useState } from "react";

import type { Job } from "../api/client";
import { Chart } from "../curves/Chart";
import { CurveOptions, PLAIN, type CurveView } from "../curves/CurveOptions";
import { groupOf, lineOf } from "../curves/lines";
import { readDetail, spliced, useCurves, type Curves, type Range } from "../curves/source";
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
  const groups = useMemo(() => {
    const found = new Map<string, string[]>();
    for (const name of Object.keys(curves).sort()) found.set(groupOf(name), [...(found.get(groupOf(name)) ?? []), name]);
    return [...found];
  }, [curves]);
  return (
    <>
      <CurveOptions view={view} onChange={setView} epochs={stepsPerEpoch(job) !== null} />
      <ProblemBox error={error} />
      {groups.length === 0 && <p className="quiet">No metric was reported yet.</p>}
      <div className="charts">
        {groups.map(([group, names]) => (
          <MetricChart key={group} job={job} title={group} names={names} curves={curves} view={view} />
        ))}
      </div>
    </>
  );
}

interface MetricProps {
  job: Job;
  title: string;
  names: string[];
  curves: Curves;
  view: CurveView;
}

/** One metric of the job; a part that is zoomed into is fetched in more detail. */
function MetricChart({ job, title, names, curves, view }: MetricProps) {
  const [range, setRange] = useState<Range | null>(null);
  const perEpoch = stepsPerEpoch(job);
  const detail = useQuery({
    queryKey: ["detail", job.id, names, range],
    queryFn: () => readDetail(job.id, names, range!),
    enabled: range !== null,
    staleTime: Infinity,
  });
  const lines = useMemo(
    () => names.map((name) => lineOf(name, spliced(curves[name] ?? [], detail.data?.[name]), view.axis, view.smoothing, perEpoch)),
    [names, curves, detail.data, view, perEpoch],
  );
  const zoom = (limits: [number, number] | null) => {
    const scale = view.axis === "epoch" ? perEpoch : view.axis === "step" ? 1 : null;
    const coarse = names.some((name) => (curves[name] ?? []).some((one) => one.first !== one.step));
    setRange(limits && scale && coarse ? { from: Math.floor(limits[0] * scale), to: Math.ceil(limits[1] * scale) } : null);
  };
  return <Chart title={title} lines={lines} axis={view.axis} log={view.log} onZoom={zoom} />;
}
