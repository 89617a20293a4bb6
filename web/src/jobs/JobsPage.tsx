import { keepPreviousData, useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";

import { api, data, type Job } from "../api/client";
import { Link, navigate, useAddress, withParameters } from "../app/router";
import { Confirmed, ProblemBox, Scroll, StateBadge } from "../shared/parts";
import { number, visible } from "../shared/text";
import { ago, eta } from "../shared/time";
import { Filters, filtersOf } from "./Filters";

const REFRESH_MS = 2000;
const FINISHED = new Set(["succeeded", "failed", "cancelled"]);

/** Progress as a share of the steps, else of the epochs; null where neither is known. */
export function share(job: Job): number | null {
  const { step = 0, total_steps, epoch = 0, epochs } = job.progress ?? {};
  if (total_steps) return Math.min(1, step / total_steps);
  return epochs ? Math.min(1, epoch / epochs) : null;
}

/** The metrics that a row has room for: the monitored one first. */
function shortMetrics(job: Job): string {
  const names = Object.keys(job.metrics ?? {}).sort();
  const first = ["loss", "val_loss"].filter((name) => names.includes(name));
  return first.map((name) => `${visible(name)} ${number(job.metrics?.[name])}`).join(", ");
}

export function JobsPage() {
  const url = useAddress();
  const filters = filtersOf(url);
  const client = useQueryClient();
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const [failed, setFailed] = useState<unknown>(null);
  const jobs = useQuery({
    queryKey: ["jobs", filters],
    queryFn: () => data(api.GET("/v1/jobs", { params: { query: filters } })),
    refetchInterval: REFRESH_MS,
    placeholderData: keepPreviousData,
  });
  const rows = jobs.data?.data ?? [];
  const marked = rows.filter((job) => chosen.has(job.id));

  const each = async (act: (id: string) => Promise<unknown>, on: Job[]) => {
    setFailed(null);
    for (const job of on) await act(job.id).catch(setFailed);
    setChosen(new Set());
    await client.invalidateQueries({ queryKey: ["jobs"] });
  };
  const cancel = (id: string) => data(api.POST("/v1/jobs/{job_id}/cancel", { params: { path: { job_id: id } } }));
  const remove = (id: string) => data(api.DELETE("/v1/jobs/{job_id}", { params: { path: { job_id: id } } }));
  const active = marked.filter((job) => !FINISHED.has(job.state));
  const ended = marked.filter((job) => FINISHED.has(job.state));
  return (
    <>
      <h1>Jobs</h1>
      <Filters />
      <div className="row" role="group" aria-label="What to do with the chosen jobs">
        <span role="status">{marked.length} chosen</span>
        <button
          type="button"
          disabled={marked.length < 2}
          onClick={() => navigate(`/compare?${marked.map((job) => `job=${encodeURIComponent(job.id)}`).join("&")}`)}
        >
          Compare
        </button>
        <Confirmed disabled={!active.length} question={`Cancel ${active.length}?`} onYes={() => void each(cancel, active)}>
          Cancel
        </Confirmed>
        <Confirmed disabled={!ended.length} question={`Delete ${ended.length} for ever?`} onYes={() => void each(remove, ended)}>
          Delete
        </Confirmed>
      </div>
      <ProblemBox error={failed ?? jobs.error} />
      {jobs.data && rows.length === 0 && (
        <p>
          No job matches. <Link href="/new">Submit one.</Link>
        </p>
      )}
      {rows.length > 0 && <JobTable rows={rows} chosen={chosen} onChoose={setChosen} />}
      <div className="row">
        {filters.after && <Link href={withParameters(url, { after: null })}>Newest jobs</Link>}
        {jobs.data?.next && <Link href={withParameters(url, { after: jobs.data.next })}>Older jobs</Link>}
      </div>
    </>
  );
}

interface TableProps {
  rows: Job[];
  chosen: ReadonlySet<string>;
  onChoose: (chosen: ReadonlySet<string>) => void;
}

function JobTable({ rows, chosen, onChoose }: TableProps) {
  const toggle = (id: string) => {
    const next = new Set(chosen);
    if (!next.delete(id)) next.add(id);
    onChoose(next);
  };
  const all = rows.every((job) => chosen.has(job.id));
  return (
    <Scroll label="Jobs">
      <table>
        <thead>
          <tr>
            <th scope="col">
              <input
                type="checkbox"
                aria-label="Choose all"
                checked={all}
                onChange={() => onChoose(all ? new Set() : new Set(rows.map((job) => job.id)))}
              />
            </th>
            {["Job", "State", "Progress", "Metrics", "Worker", "Created"].map((name) => (
              <th scope="col" key={name}>
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((job) => (
            <JobRow key={job.id} job={job} chosen={chosen.has(job.id)} onToggle={() => toggle(job.id)} />
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

function JobRow({ job, chosen, onToggle }: { job: Job; chosen: boolean; onToggle: () => void }) {
  const name = visible(job.name || job.id);
  const part = share(job);
  const live = !FINISHED.has(job.state);
  return (
    <tr>
      <td>
        <input type="checkbox" aria-label={`Choose ${name}`} checked={chosen} onChange={onToggle} />
      </td>
      <td className="name">
        <Link href={`/jobs/${encodeURIComponent(job.id)}`}>{name}</Link>
        <div className="quiet">
          {Object.entries(job.labels ?? {}).map(([key, value]) => (
            <span key={key}>{visible(`${key}=${value} `)}</span>
          ))}
        </div>
      </td>
      <td>
        <StateBadge state={job.state} />
        {job.failure && <div className="quiet">{job.failure.code}</div>}
        {job.unschedulable && <div className="quiet">no worker fits</div>}
      </td>
      <td>
        {part !== null && <progress aria-label={`Progress of ${name}`} max={1} value={part} />}
        <div className="quiet">{live ? eta(job.progress?.eta_seconds) : ""}</div>
      </td>
      <td>{shortMetrics(job)}</td>
      <td>{visible(job.worker ?? "")}</td>
      <td title={job.created_at}>{ago(job.created_at)}</td>
    </tr>
  );
}
