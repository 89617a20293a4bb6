import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";

import { ApiProblem, api, data, request, type Job } from "../api/client";
import { ProblemBox } from "../shared/parts";
import { Artifacts } from "./Artifacts";
import { Certificate } from "./CertificateTab";
import { Checkpoints } from "./Checkpoints";
import { CurvesTab } from "./CurvesTab";
import { Diagnostics } from "./Diagnostics";
import { Events } from "./Events";
import { FailureBox } from "./FailureBox";
import { JobHeader } from "./JobHeader";
import { Logs } from "./Logs";
import { SpecTab } from "./SpecTab";
import { Tabs } from "../shared/Tabs";

const FINISHED = new Set(["succeeded", "failed", "cancelled"]);
const WAIT_SECONDS = 25;
const PAUSE_MS = 2000;

/** The job, asked for again as soon as its revision has moved, until it is finished. */
function useJob(id: string) {
  const client = useQueryClient();
  const key = ["job", id];
  const job = useQuery({
    queryKey: key,
    queryFn: () => data(api.GET("/v1/jobs/{job_id}", { params: { path: { job_id: id } } })),
  });
  const [lost, setLost] = useState(false);
  const known = job.data !== undefined;
  useEffect(() => {
    if (!known) return;
    const ended = new AbortController();
    void (async () => {
      while (!ended.signal.aborted) {
        const now = client.getQueryData<Job>(key);
        if (now === undefined || FINISHED.has(now.state)) return;
        try {
          const path = `/v1/jobs/${encodeURIComponent(id)}?wait=${WAIT_SECONDS}&unless=${now.revision}`;
          const next = await request<Job>("GET", path, undefined, {}, ended.signal);
          setLost(false);
          client.setQueryData(key, next);
          // Quick changes are gathered: a page needs no more than a few a second.
          await new Promise((resolve) => setTimeout(resolve, 250));
        } catch (error) {
          if (ended.signal.aborted || (error instanceof ApiProblem && error.status === 404)) return;
          setLost(true);
          await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
        }
      }
    })();
    return () => ended.abort();
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [id, known, job.data?.state]);
  return { job, lost };
}

export default function JobPage({ id }: { id: string }) {
  const { job, lost } = useJob(id);
  if (job.error) return <ProblemBox error={job.error} />;
  if (!job.data) return <p role="status">Loading…</p>;
  const now = job.data;
  const finished = FINISHED.has(now.state);
  return (
    <>
      <JobHeader job={now} finished={finished} />
      {lost && <p role="status">The service does not answer; the page continues when it is back.</p>}
      {now.failure && <FailureBox failure={now.failure} />}
      <Tabs
        label="Parts of the job"
        tabs={[
          ["Curves", () => <CurvesTab job={now} finished={finished} />],
          ["Events", () => <Events job={now} />],
          ["Logs", () => <Logs job={now} finished={finished} />],
          ["Spec", () => <SpecTab job={now} />],
          ["Diagnostics", () => <Diagnostics job={now} />],
          ["Certificate", () => <Certificate job={now} />],
          ["Checkpoints", () => <Checkpoints job={now} finished={finished} />],
          ["Artifacts", () => <Artifacts job={now} />],
        ]}
      />
    </>
  );
}
