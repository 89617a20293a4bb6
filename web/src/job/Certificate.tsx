// The certificate in words: what was loaded again, what was compared, how close.
import type { Job } from "../api/client";
import { Json } from "../shared/parts";
import { bytes, number, visible } from "../shared/text";

type Open = Record<string, unknown>;

function open(value: unknown): Open {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Open) : {};
}

/** "1280 values, equal bit by bit" or "1280 values, at most 2.0e-7 apart". */
export function closeness(compared: Open): string {
  const count = number(compared.elements ?? compared.values ?? 0);
  return compared.bit_equal === true
    ? `${count} values, equal bit by bit`
    : `${count} values, at most ${number(compared.max_abs_difference)} apart`;
}

/** A sentence for each way in which the model was loaded and compared. */
export function sentences(verified: Open): string[] {
  const told: string[] = [];
  const reload = open(verified.reload);
  for (const [role, ways] of Object.entries(open(reload.models))) {
    for (const [way, result] of Object.entries(open(ways))) {
      const found = open(result);
      const weights = found.weights === undefined ? "" : `; ${number(found.weights)} weight tensors were restored`;
      told.push(`The model ${role} was loaded as ${way.replaceAll("_", " ")} in a fresh process: outputs of ${closeness(open(found.outputs))}${weights}.`);
    }
  }
  if (reload.tolerance !== undefined) told.push(`Outputs may differ by ${number(reload.tolerance)} at most.`);
  const step = open(open(verified.certify).step);
  if (Object.keys(step).length) told.push(`One more training step after the reload gave the same state as the original: ${closeness(step)}.`);
  return told;
}

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
