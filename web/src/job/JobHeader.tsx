import { useMutation, useQueryClient } from "@tanstack/react-query";

import { api, data, request, type Job, type Progress } from "../api/client";
import { Link, navigate } from "../app/router";
import { share } from "../jobs/JobsPage";
import { Confirmed, CopyButton, ProblemBox, StateBadge } from "../shared/parts";
import { bytes, number, visible } from "../shared/text";
import { ago, duration, eta, moment } from "../shared/time";
import { asCurl, asPython } from "./snippets";

type Action = "cancel" | "pause" | "resume";

export function JobHeader({ job, finished }: { job: Job; finished: boolean }) {
  const client = useQueryClient();
  const path = { params: { path: { job_id: job.id } } };
  const act = useMutation({
    mutationFn: (action: Action) => request<Job>("POST", `/v1/jobs/${encodeURIComponent(job.id)}/${action}`),
    onSuccess: (changed) => client.setQueryData(["job", job.id], changed),
  });
  const retry = useMutation({
    mutationFn: () => data(api.POST("/v1/jobs/{job_id}/retry", { ...path, body: { from: "scratch" } as never })),
    onSuccess: (made) => navigate(`/jobs/${made.id}`),
  });
  const remove = useMutation({
    mutationFn: () => data(api.DELETE("/v1/jobs/{job_id}", path)),
    onSuccess: () => navigate("/jobs"),
  });
  const part = share(job);
  const progress: Progress = job.progress ?? {};
  const trains = ["queued", "starting", "running"].includes(job.state);
  return (
    <header>
      <h1>{visible(job.name || job.id)}</h1>
      <div className="row">
        <span role="status">
          <StateBadge state={job.state} />
          {job.phase && !finished ? ` ${job.phase}` : ""}
        </span>
        {job.requested !== "none" && <span>{job.requested} requested</span>}
        {!finished && <span>{eta(progress.eta_seconds)}</span>}
        <code>{job.id}</code>
      </div>
      {part !== null && <progress aria-label="Progress" max={1} value={part} />}
      <div className="row">
        {!finished && job.state !== "paused" && trains && <button type="button" onClick={() => act.mutate("pause")}>Pause</button>}
        {(job.state === "paused" || job.requested === "pause") && <button type="button" onClick={() => act.mutate("resume")}>Resume</button>}
        {!finished && <Confirmed question="Cancel this job?" onYes={() => act.mutate("cancel")}>Cancel</Confirmed>}
        {finished && <button type="button" onClick={() => retry.mutate()}>Run again</button>}
        {finished && job.spec && <Link className="button" href={`/new?job=${job.id}`}>Change and submit</Link>}
        {finished && <Confirmed question="Delete this job and its files?" onYes={() => remove.mutate()}>Delete</Confirmed>}
        {job.model?.formats && <a className="button" href={`/v1/jobs/${job.id}/model`} download>Download the model ({bytes(job.model.bytes)})</a>}
        {job.model?.formats.map((format) => (
          <a key={format} className="button" href={`/v1/jobs/${job.id}/model?format=${format}`} download>{visible(format)}</a>
        ))}
        {job.spec && <CopyButton text={() => asPython(job.spec, window.location.origin)}>Copy as Python</CopyButton>}
        {job.spec && <CopyButton text={() => asCurl(job.spec, window.location.origin)}>Copy as curl</CopyButton>}
        {job.spec && <CopyButton text={() => JSON.stringify(job.spec, null, 2)}>Copy as JSON</CopyButton>}
      </div>
      <ProblemBox error={act.error ?? retry.error ?? remove.error} />
      {job.unschedulable && <div className="box warn">No worker can take this job: {visible(job.unschedulable.reason)}</div>}
      {(job.waiting_for ?? []).length > 0 && (
        <p>
          Waits for{" "}
          {job.waiting_for!.map((id) => (
            <Link key={id} href={`/jobs/${id}`}>{id} </Link>
          ))}
        </p>
      )}
      <Facts job={job} />
    </header>
  );
}

function Facts({ job }: { job: Job }) {
  const progress: Progress = job.progress ?? {};
  const ended = job.finished_at ? Date.parse(job.finished_at) : Date.now();
  const facts: [string, string][] = [
    ["step", `${progress.step ?? 0}${progress.total_steps ? ` of ${progress.total_steps}` : ""}`],
    ["epoch", `${progress.epoch ?? 0}${progress.epochs ? ` of ${progress.epochs}` : ""}`],
    ["created", `${moment(job.created_at)} (${ago(job.created_at)})`],
  ];
  if (progress.examples_per_second) facts.push(["examples/s", number(Math.round(progress.examples_per_second))]);
  if (job.started_at) facts.push(["duration", duration((ended - Date.parse(job.started_at)) / 1000)]);
  if (job.worker) facts.push(["worker", job.worker]);
  if ((job.attempt ?? 0) > 1) facts.push(["attempt", `${job.attempt} (${job.failed_attempts} failed of at most ${job.max_attempts})`]);
  if (Object.keys(job.labels ?? {}).length) facts.push(["labels", Object.entries(job.labels!).map((pair) => pair.join("=")).join(", ")]);
  for (const [name, value] of Object.entries(job.metrics ?? {})) facts.push([name, number(value)]);
  return (
    <dl className="facts wide">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{visible(name)}</dt>
          <dd>{visible(value)}</dd>
        </div>
      ))}
    </dl>
  );
}
