// What the engine found out about the job: retraces, the input-bound verdict, the plan, the black box, lineage.
import type { Job } from "../api/client";
import { Link } from "../app/router";
import { Json } from "../shared/parts";
import { number, visible } from "../shared/text";

export function Diagnostics({ job }: { job: Job }) {
  const diagnostics = job.diagnostics ?? {};
  const lineage = job.lineage ?? {};
  const parents = ["retry_of", "parent"].filter((name) => typeof lineage[name] === "string");
  return (
    <>
      {Object.keys(diagnostics).length === 0 && <p className="quiet">Nothing was found out yet.</p>}
      <dl className="facts">
        {Object.entries(diagnostics).map(([name, value]) => (
          <div key={name} style={{ display: "contents" }}>
            <dt>{visible(name.replaceAll("_", " "))}</dt>
            <dd>{typeof value === "object" && value !== null ? <Json value={value} label={name} /> : visible(number(value))}</dd>
          </div>
        ))}
      </dl>
      {job.result && (
        <>
          <h2>Result</h2>
          <Json value={job.result} label="Result" />
        </>
      )}
      <h2>Lineage</h2>
      {parents.map((name) => (
        <p key={name}>
          {name.replaceAll("_", " ")} <Link href={`/jobs/${String(lineage[name])}`}>{visible(String(lineage[name]))}</Link>
        </p>
      ))}
      <Json value={lineage} label="Lineage" />
    </>
  );
}
