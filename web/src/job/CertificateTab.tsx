// The certificate in words: what was loaded again, what was compared, how close.
import type { Job } from "../api/client";
import { Json } from "../shared/parts";
import { bytes, visible } from "../shared/text";
import { open, sentences, type Open } from "./certificate";

export function Certificate({ job }: { job: Job }) {
  if (!job.model) {
    return <p className="quiet">{job.state === "succeeded" ? "This job exported no model, so nothing was certified." : "A certificate is made when the model is exported."}</p>;
  }
  const verified = job.model.verified as Open;
  const versions = open(open(verified.reload).versions);
  return (
    <>
      <div className="box good">
        <p><strong>The published model was loaded again and compared.</strong></p>
        <ul>
          {sentences(verified).map((one) => (
            <li key={one}>{visible(one)}</li>
          ))}
        </ul>
        {typeof verified.scope === "string" && <p className="quiet">{visible(verified.scope)}</p>}
      </div>
      <dl className="facts">
        <dt>bundle</dt>
        <dd>{bytes(job.model.bytes)}, sha-256 <code>{job.model.sha256}</code></dd>
        <dt>formats</dt>
        <dd>{visible(job.model.formats.join(", "))}</dd>
        <dt>versions</dt>
        <dd>{visible(Object.entries(versions).map((pair) => pair.join(" ")).join(", "))}</dd>
      </dl>
      <details>
        <summary>All numbers</summary>
        <Json value={verified} label="Certificate" />
      </details>
    </>
  );
}
