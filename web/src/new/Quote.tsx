// What tracing found: the quote, the models, warnings; or why training would fail.
import type { Job } from "../api/client";
import { FailureBox } from "../job/FailureBox";
import { Json } from "../shared/parts";
import { bytes, number, visible } from "../shared/text";
import { duration } from "../shared/time";

type Open = Record<string, unknown>;

/** "20 s to 40 s": a range of the quote. */
export function range(value: unknown, word: (one: number) => string): string {
  if (!Array.isArray(value) || value.length !== 2) return "unknown";
  const [low, high] = value.map((one) => word(Number(one)));
  return low === high ? low! : `${low} to ${high}`;
}

export function Quote({ job }: { job: Job }) {
  if (job.failure) return <FailureBox failure={job.failure} />;
  const result = (job.result ?? {}) as Open;
  const quote = (result.quote ?? {}) as Open;
  const warnings = (Array.isArray(result.warnings) ? result.warnings : []) as Open[];
  return (
    <section className="box good" aria-label="Quote">
      <p>A worker traced this spec: it would train.</p>
      <dl className="facts">
        <dt>takes</dt>
        <dd>{range(quote.seconds, duration)}</dd>
        <dt>memory</dt>
        <dd>{range(quote.memory_bytes, bytes)}</dd>
        <dt>steps</dt>
        <dd>{number(quote.steps ?? "unknown")}</dd>
        <dt>parameters</dt>
        <dd>{number(result.parameters ?? "unknown")}</dd>
      </dl>
      {warnings.map((one, index) => (
        <p key={index}>
          <code>{visible(String(one.code ?? ""))}</code> {visible(String(one.message ?? ""))} <span className="quiet">{visible(String(one.hint ?? ""))}</span>
        </p>
      ))}
      <details>
        <summary>All that was found</summary>
        <Json value={result} label="Result of tracing" />
      </details>
    </section>
  );
}
