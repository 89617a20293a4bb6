import { useQuery } from "@tanstack/react-query";

import { api, data, type Job, type JobEvent } from "../api/client";
import { ProblemBox, Scroll } from "../shared/parts";
import { number, visible } from "../shared/text";

const MARKED: Record<string, string> = { rewound: "⟲", attempt_failed: "✕", checkpoint: "▣", trace: "ƒ", epoch: "—", state: "→" };

/** The data of an event in a line: `state running, phase training`. */
function summary(event: JobEvent): string {
  return Object.entries(event.data ?? {})
    .filter(([, value]) => value !== null)
    .map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : typeof value === "number" ? number(value) : String(value)}`)
    .join(", ");
}

export function Events({ job }: { job: Job }) {
  const events = useQuery({
    queryKey: ["events", job.id, job.revision],
    queryFn: () => everyEvent(job.id),
    placeholderData: (before) => before,
  });
  const rows = events.data ?? [];
  return (
    <>
      <ProblemBox error={events.error} />
      <Scroll tall label="Events">
        <table>
          <thead>
            <tr>
              <th scope="col">time</th>
              <th scope="col" className="number">attempt</th>
              <th scope="col">event</th>
              <th scope="col">data</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((event) => (
              <tr key={event.seq}>
                <td>{new Date(event.at).toLocaleTimeString()}</td>
                <td className="number">{event.attempt}</td>
                <th scope="row">
                  <span aria-hidden="true">{MARKED[event.type] ?? "·"} </span>
                  {visible(event.type)}
                </th>
                <td>{visible(summary(event))}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </>
  );
}

const known = new Map<string, JobEvent[]>();
const MOST = 5000;

/** What is known already is not asked for again. */
async function everyEvent(jobId: string): Promise<JobEvent[]> {
  const have = known.get(jobId) ?? [];
  let more = true;
  const found = [...have];
  while (more && found.length < MOST) {
    const after = found[found.length - 1]?.seq ?? 0;
    const query = { after, limit: 1000 };
    const page = await data(api.GET("/v1/jobs/{job_id}/events", { params: { path: { job_id: jobId }, query } }));
    found.push(...page.data);
    more = page.has_more ?? false;
  }
  known.clear();
  known.set(jobId, found);
  return found;
}
