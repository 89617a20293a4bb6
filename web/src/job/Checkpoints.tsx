import { useMutation, useQuery } from "@tanstack/react-query";

import { api, data, type Checkpoint, type Job } from "../api/client";
import { navigate } from "../app/router";
import { ProblemBox, Scroll } from "../shared/parts";
import { bytes, number, visible } from "../shared/text";
import { moment } from "../shared/time";

export function Checkpoints({ job, finished }: { job: Job; finished: boolean }) {
  const path = { job_id: job.id };
  const list = useQuery({
    queryKey: ["checkpoints", job.id, job.revision],
    queryFn: () => data(api.GET("/v1/jobs/{job_id}/checkpoints", { params: { path } })),
    placeholderData: (before) => before,
  });
  const retry = useMutation({
    mutationFn: (from: string) => data(api.POST("/v1/jobs/{job_id}/retry", { params: { path }, body: { from } as never })),
    onSuccess: (made) => navigate(`/jobs/${made.id}`),
  });
  const rows: Checkpoint[] = list.data?.data ?? [];
  return (
    <>
      <ProblemBox error={list.error ?? retry.error} />
      {list.data && rows.length === 0 && <p className="quiet">No checkpoint is stored.</p>}
      {rows.length > 0 && (
        <Scroll label="Checkpoints">
          <table>
            <thead>
              <tr>
                <th scope="col" className="number">step</th>
                <th scope="col" className="number">epoch</th>
                <th scope="col">metrics</th>
                <th scope="col" className="number">size</th>
                <th scope="col">saved</th>
                <th scope="col">actions</th>
              </tr>
            </thead>
            <tbody>
              {rows.map((one) => (
                <tr key={one.id}>
                  <td className="number">{one.step}{one.best ? " (best)" : ""}</td>
                  <td className="number">{one.epoch}</td>
                  <td>{visible(Object.entries(one.metrics ?? {}).map(([name, value]) => `${name} ${number(value)}`).join(", "))}</td>
                  <td className="number">{bytes(one.bytes)}</td>
                  <td>{moment(one.created_at)}</td>
                  <td>
                    <button type="button" disabled={!finished || retry.isPending} onClick={() => retry.mutate(one.id)} aria-label={`Continue from here, step ${one.step}`}>
                      Continue from here
                    </button>{" "}
                    <a href={`/v1/jobs/${job.id}/checkpoints/${one.id}`} download>Download</a>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
      {!finished && <p className="quiet">A new job can continue from a checkpoint once this job has ended.</p>}
    </>
  );
}
