// Why a job failed: code, message, suggested fix, the user's source line, and the section of the documentation.
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";

import type { Schemas } from "../api/client";
import { visible } from "../shared/text";
import { section } from "./errorSections";

export function FailureBox({ failure }: { failure: Schemas["Failure"] }) {
  const [open, setOpen] = useState(false);
  const docs = useQuery({
    queryKey: ["errors.md"],
    queryFn: async () => (await import("../../../docs/errors.md?raw")).default,
    enabled: open,
    staleTime: Infinity,
  });
  const place = failure.location;
  const at = place && [place.file && `${place.file}${place.line ? `:${place.line}` : ""}`, place.component && `in ${place.component}`];
  return (
    <section className="box bad" aria-label="Failure">
      <p>
        <strong>
          <code>{failure.code}</code>
        </strong>{" "}
        {visible(failure.message)}
      </p>
      {failure.hint && <p>{visible(failure.hint)}</p>}
      {at && <p>At <code>{visible(at.filter(Boolean).join(" "))}</code></p>}
      <p className="quiet">
        {failure.phase ? `while ${visible(failure.phase)}, ` : ""}attempt {failure.attempt ?? 1}; {failure.retryable ? "another attempt may succeed" : "another attempt would fail again"}
      </p>
      {failure.traceback_tail && <Source tail={failure.traceback_tail} file={place?.file} line={place?.line} />}
      <details onToggle={(event) => setOpen(event.currentTarget.open)}>
        <summary>What {failure.code} means</summary>
        <pre>{docs.data ? section(docs.data, failure.code) : "Loading…"}</pre>
      </details>
    </section>
  );
}

/** The traceback, with the frame of the user's source marked. */
function Source({ tail, file, line }: { tail: string; file?: string | null; line?: number | null }) {
  const lines = tail.split("\n");
  const marked = lines.findIndex((one) => file && line && one.includes(file) && one.includes(`line ${line}`));
  return (
    <pre tabIndex={0} aria-label="Traceback">
      {lines.map((one, index) => {
        const text = visible(one) + "\n";
        return marked >= 0 && (index === marked || index === marked + 1) ? <mark key={index}>{text}</mark> : <span key={index}>{text}</span>;
      })}
    </pre>
  );
}
