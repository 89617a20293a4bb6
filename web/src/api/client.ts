// The public HTTP API: typed by the service's own OpenAPI document.
import createClient from "openapi-fetch";

import type { components, paths } from "./schema";

export type Schemas = components["schemas"];
export type Job = Schemas["Job"];
export type Progress = Partial<Schemas["Progress"]>;
export type State = Schemas["State"];
export type Checkpoint = Schemas["Checkpoint"];
export type Artifact = Schemas["Artifact"];
export type JobEvent = Schemas["Event"];
export type LogLine = Schemas["LogLine"];
export type ComponentInfo = Schemas["ComponentInfo"];
export type WorkerInfo = Schemas["WorkerInfo"];

/** Where the document that was sent is wrong, by JSON pointer. */
export interface Finding {
  pointer: string;
  code: string;
  message: string;
  hint: string;
}

/** RFC 9457, as the service answers. */
export interface Problem {
  title: string;
  status: number;
  detail: string;
  code: string;
  hint: string;
  errors: Finding[];
}

export class ApiProblem extends Error {
  readonly status: number;
  readonly problem: Problem;
  constructor(problem: Problem) {
    super(problem.detail || problem.title);
    this.status = problem.status;
    this.problem = problem;
  }
}

/** Requests that change something by the session's cookie need it: another site cannot send it. */
export const PAGE_HEADER = { "X-Tapeworks-Page": "1" };

export const api = createClient<paths>({ baseUrl: globalThis.location?.origin ?? "", headers: PAGE_HEADER });

function problemOf(body: unknown, status: number): Problem {
  const known = typeof body === "object" && body !== null ? (body as Partial<Problem>) : {};
  return {
    title: known.title ?? `HTTP ${status}`,
    status,
    detail: known.detail ?? (status === 0 ? "the service does not answer" : ""),
    code: known.code ?? "unknown",
    hint: known.hint ?? "",
    errors: known.errors ?? [],
  };
}

/** The data of an answer. Throws `ApiProblem`; 401 leads to the log-in. */
export async function data<T>(call: Promise<{ data?: T; error?: unknown; response: Response }>): Promise<Exclude<T, string>> {
  let answer;
  try {
    answer = await call;
  } catch {
    throw new ApiProblem(problemOf(null, 0));
  }
  if (answer.response.status === 401) toLogin();
  if (!answer.response.ok) throw new ApiProblem(problemOf(answer.error, answer.response.status));
  return answer.data as Exclude<T, string>;
}

/** A call that the document does not describe in types. Throws `ApiProblem`. */
export async function request<T>(method: string, path: string, body?: unknown, headers: Record<string, string> = {}, signal?: AbortSignal) {
  const sent = fetch(path, {
    method,
    headers: { ...PAGE_HEADER, ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...headers },
    body: body === undefined ? undefined : JSON.stringify(body),
    signal,
  }).catch(() => {
    throw new ApiProblem(problemOf(null, 0));
  });
  const response = await sent;
  const text = await response.text();
  let parsed: unknown = null;
  try {
    parsed = text ? JSON.parse(text) : null;
  } catch {
    parsed = { detail: text.slice(0, 200) };
  }
  if (response.status === 401 && !path.startsWith("/v1/session")) toLogin();
  if (!response.ok) throw new ApiProblem(problemOf(parsed, response.status));
  return parsed as T;
}

function toLogin(): void {
  if (window.location.pathname === "/login") return;
  const back = window.location.pathname + window.location.search;
  window.location.assign(`/login?back=${encodeURIComponent(back)}`);
}
