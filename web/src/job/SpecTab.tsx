import type { Job } from "../api/client";
import { Json } from "../shared/parts";

export function SpecTab({ job }: { job: Job }) {
  if (!job.spec) return <p className="quiet">This job inspects an upload: it has no spec.</p>;
  return (
    <>
      <p className="quiet">The canonical form, with every default filled in and the component versions that ran.</p>
      <Json value={job.spec} label="Spec" />
    </>
  );
}
