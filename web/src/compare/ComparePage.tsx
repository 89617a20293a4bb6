import { useQueries } from "@tanstack/react-query";
import { useMemo } from "react";

import { api, data, type Job } from "../api/client";
import { Link, navigate, useAddress, withParameters } from "../app/router";
import { Chart, type Axis } from "../curves/Chart";
import { CurveOptions, type CurveView } from "../curves/CurveOptions";
import { lineOf } from "../curves/lines";
import { readCurves, type Curves } from "../curves/source";
import { stepsPerEpoch } from "../job/CurvesTab";
import { ProblemBox, Scroll, StateBadge } from "../shared/parts";
import { number, visible } from "../shared/text";
import { differing, flattened, ordered } from "./differences";
import { Parallel } from "./Parallel";

const MOST = 200;
const LIVE_MS = 5000;

function viewOf(query: URLSearchParams): CurveView {
  const axis = query.get("over");
  return {
    axis: axis === "epoch" || axis === "time" ? axis : ("step" satisfies Axis),
    log: query.get("log") === "1",
    smoothing: Math.min(0.99, Math.max(0, Number(query.get("smooth")) || 0)),
  };
}

export default function ComparePage() {
  const url = useAddress();
  const ids = [...new Set(url.searchParams.getAll("job"))].slice(0, MOST);
  const points = ids.length > 20 ? 200 : 1000;
  const found = useQueries({
    queries: ids.map((id) => ({
      queryKey: ["compared", id, points],
      queryFn: async () => {
        const [job, curves] = await Promise.all([
          data(api.GET("/v1/jobs/{job_id}", { params: { path: { job_id: id } } })),
          readCurves(id, points),
        ]);
        return { job, curves };
      },
      refetchInterval: (query: { state: { data?: { job: Job } } }) =>
        ["succeeded", "failed", "cancelled"].includes(query.state.data?.job.state ?? "") ? (false as const) : LIVE_MS,
    })),
    combine: (results) => ({
      compared: results.flatMap((one) => (one.data ? [one.data] : [])),
      error: results.find((one) => one.error)?.error ?? null,
    }),
  });
  const view = viewOf(url.searchParams);
  const change = (next: CurveView) =>
    navigate(withParameters(url, { over: next.axis, log: next.log ? "1" : null, smooth: next.smoothing ? String(next.smoothing) : null }), true);
  return (
    <>
      <h1>Compare {ids.length} jobs</h1>
      {ids.length === 0 && <p>Choose jobs in <Link href="/jobs">the list</Link>.</p>}
      <ProblemBox error={found.error} />
      {found.compared.length > 0 && (
        <>
          <Table compared={found.compared.map((one) => one.job)} />
          <CurveOptions view={view} onChange={change} epochs />
          <Overlaid compared={found.compared} view={view} />
        </>
      )}
    </>
  );
}

function Overlaid({ compared, view }: { compared: { job: Job; curves: Curves }[]; view: CurveView }) {
  const { axis, log, smoothing } = view;
  const charts = useMemo(() => {
    const names = [...new Set(compared.flatMap(({ curves }) => Object.keys(curves)))].sort();
    return names.map((name) => ({
      name,
      lines: compared
        .filter(({ curves }) => curves[name])
        .map(({ job, curves }) => ({
          ...lineOf(name, curves[name]!, axis, smoothing, stepsPerEpoch(job)),
          label: job.name || job.id,
          dashed: false,
          low: undefined,
          high: undefined,
        })),
    }));
  }, [compared, axis, log, smoothing]);
  return (
    <div className="charts">
      {charts.map(({ name, lines }) => (
        <Chart key={name} title={name} lines={lines} axis={axis} log={log} />
      ))}
    </div>
  );
}

function Table({ compared }: { compared: Job[] }) {
  const url = useAddress();
  const sort = url.searchParams.get("sort") ?? "";
  const down = url.searchParams.get("down") === "1";
  const specs = new Map(compared.map((job) => [job.id, flattened(job.spec)]));
  const parameters = differing([...specs.values()]);
  const metrics = [...new Set(compared.flatMap((job) => Object.keys(job.metrics ?? {})))].sort();
  const value = (job: Job, column: string): string | number | undefined =>
    column.startsWith("m:") ? job.metrics?.[column.slice(2)] : column.startsWith("p:") ? specs.get(job.id)?.[column.slice(2)] : job.name || job.id;
  const rows = [...compared].sort((a, b) => ordered(value(a, sort), value(b, sort), down));
  const columns: [string, string][] = [
    ...metrics.map((name): [string, string] => [`m:${name}`, name]),
    ...parameters.map((name): [string, string] => [`p:${name}`, name]),
  ];
  const head = (column: string, name: string) => (
    <th scope="col" key={column} aria-sort={sort === column ? (down ? "descending" : "ascending") : "none"}>
      <button type="button" onClick={() => navigate(withParameters(url, { sort: column, down: sort === column && !down ? "1" : null }), true)}>
        {visible(name)} {sort === column ? (down ? "▼" : "▲") : ""}
      </button>
    </th>
  );
  return (
    <>
      <Scroll tall label="Metrics and differing parameters">
        <table>
          <thead>
            <tr>
              {head("", "job")}
              <th scope="col">state</th>
              {columns.map(([column, name]) => head(column, name))}
            </tr>
          </thead>
          <tbody>
            {rows.map((job) => (
              <tr key={job.id}>
                <th scope="row"><Link href={`/jobs/${job.id}`}>{visible(job.name || job.id)}</Link></th>
                <td><StateBadge state={job.state} /></td>
                {columns.map(([column]) => {
                  const one = value(job, column);
                  return <td key={column} className={column.startsWith("m:") ? "number" : undefined}>{one === undefined ? "" : visible(column.startsWith("m:") ? number(one) : String(one))}</td>;
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
      {parameters.length === 0 && compared.length > 1 && <p className="quiet">The specs do not differ.</p>}
      <Parallel rows={rows.map((job) => ({ name: job.name || job.id, values: columns.map(([column]) => value(job, column)) }))} columns={columns.map(([, name]) => name)} />
    </>
  );
}
