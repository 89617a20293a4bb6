// Validation while typing, and by tracing before a submission.
import { useEffect, useState } from "react";

import { ApiProblem, request, type Finding, type Job } from "../api/client";

const QUIET_MS = 500;

export interface Checked {
  state: "empty" | "checking" | "valid" | "wrong" | "unreachable";
  findings: Finding[];
  message: string;
  warnings: string[];
}

const NOTHING: Checked = { state: "empty", findings: [], message: "", warnings: [] };

export function parsed(text: string): { spec: unknown } | { error: string } {
  try {
    return { spec: JSON.parse(text) as unknown };
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

/** The service's findings about a text, half a second after the last change of it. */
export function useValidation(text: string): Checked {
  const [checked, setChecked] = useState<Checked>(NOTHING);
  useEffect(() => {
    const stopped = new AbortController();
    const read = parsed(text);
    if ("error" in read) {
      setChecked({ ...NOTHING, state: "wrong", message: `This is not JSON: ${read.error}` });
      return;
    }
    setChecked((before) => ({ ...before, state: "checking" }));
    const timer = window.setTimeout(async () => {
      try {
        const answer = await request<{ warnings?: string[] }>("POST", "/v1/jobs/validate", read.spec, {}, stopped.signal);
        setChecked({ ...NOTHING, state: "valid", warnings: answer.warnings ?? [] });
      } catch (error) {
        if (stopped.signal.aborted) return;
        const problem = error instanceof ApiProblem ? error.problem : null;
        const reached = problem !== null && problem.status > 0 && problem.status < 500;
        setChecked({
          ...NOTHING,
          state: reached ? "wrong" : "unreachable",
          findings: problem?.errors ?? [],
          message: problem ? [problem.detail, problem.hint].filter(Boolean).join(" ") : String(error),
        });
      }
    }, QUIET_MS);
    return () => {
      stopped.abort();
      window.clearTimeout(timer);
    };
  }, [text]);
  return checked;
}

/** Trace a spec on a worker, and wait for what it found. Throws `ApiProblem`. */
export async function traced(spec: unknown): Promise<Job> {
  let job = await request<Job>("POST", "/v1/jobs/validate?trace=true", spec);
  while (!["succeeded", "failed", "cancelled"].includes(job.state)) {
    job = await request<Job>("GET", `/v1/jobs/${job.id}?wait=20&unless=${job.revision}`);
  }
  return job;
}
