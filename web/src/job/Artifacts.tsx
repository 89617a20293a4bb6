// Files that the job left. PNG, JSON and text are shown; everything else, SVG and HTML among it, only downloads.
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";

import { api, data, type Artifact, type Job } from "../api/client";
import { ProblemBox, Scroll } from "../shared/parts";
import { bytes, visible } from "../shared/text";
import { Matrix, matrixOf } from "./Matrix";
import { previewKind, type Kind } from "./previewKind";

const SHOWN_BYTES = 5 * 1024 * 1024;
const TEXT_CHARS = 100_000;
const PNG = [0x89, 0x50, 0x4e, 0x47];

async function everyArtifact(jobId: string): Promise<Artifact[]> {
  const found: Artifact[] = [];
  let after: string | undefined;
  do {
    const query = { limit: 200, ...(after ? { after } : {}) };
    const page = await data(api.GET("/v1/jobs/{job_id}/artifacts", { params: { path: { job_id: jobId }, query } }));
    found.push(...page.data);
    after = page.next ?? undefined;
  } while (after);
  return found;
}

function address(job: Job, artifact: Artifact): string {
  const path = artifact.path.split("/").map(encodeURIComponent).join("/");
  return `/v1/jobs/${encodeURIComponent(job.id)}/artifacts/${path}`;
}

export function Artifacts({ job }: { job: Job }) {
  const list = useQuery({
    queryKey: ["artifacts", job.id, job.revision],
    queryFn: () => everyArtifact(job.id),
    placeholderData: (before) => before,
  });
  const [shown, setShown] = useState<string | null>(null);
  const rows = list.data ?? [];
  const chosen = rows.find((one) => one.path === shown);
  return (
    <>
      <ProblemBox error={list.error} />
      {list.data && rows.length === 0 && <p className="quiet">No file was left yet.</p>}
      {rows.length > 0 && (
        <Scroll label="Artifacts">
          <table>
            <thead>
              <tr>
                <th scope="col">file</th>
                <th scope="col" className="number">size</th>
                <th scope="col">actions</th>
              </tr>
            </thead>
            <tbody>
              {rows.map((one) => (
                <tr key={one.path}>
                  <th scope="row" style={{ whiteSpace: "normal" }}>{visible(one.path)}</th>
                  <td className="number">{bytes(one.bytes)}</td>
                  <td>
                    <a href={address(job, one)} download>Download</a>{" "}
                    {previewKind(one.path) && one.bytes <= SHOWN_BYTES && (
                      <button type="button" onClick={() => setShown(one.path)} aria-label={`Show ${visible(one.path)}`}>Show</button>
                    )}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
      {chosen && <Preview key={chosen.sha256} job={job} artifact={chosen} kind={previewKind(chosen.path)!} />}
    </>
  );
}

async function read(job: Job, artifact: Artifact, kind: Kind): Promise<string> {
  const answer = await fetch(address(job, artifact));
  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
  const content = await answer.arrayBuffer();
  if (kind !== "png") return new TextDecoder().decode(content);
  const start = new Uint8Array(content.slice(0, 4));
  if (!PNG.every((byte, index) => start[index] === byte)) throw new Error("this file is no PNG");
  // The type is ours: whatever the bytes are, the browser reads them as an image.
  return await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(reader.error ?? new Error("not readable"));
    reader.readAsDataURL(new Blob([content], { type: "image/png" }));
  });
}

function Preview({ job, artifact, kind }: { job: Job; artifact: Artifact; kind: Kind }) {
  const file = useQuery({
    queryKey: ["artifact", artifact.sha256],
    queryFn: () => read(job, artifact, kind),
    staleTime: Infinity,
  });
  const name = visible(artifact.path);
  if (file.error) return <ProblemBox error={file.error} />;
  if (file.data === undefined) return <p role="status">Loading…</p>;
  if (kind === "png") return <img className="preview" src={file.data} alt={name} />;
  const matrix = kind === "json" ? matrixOf(file.data) : null;
  return (
    <section aria-label={name}>
      <h3>{name}</h3>
      {matrix && <Matrix {...matrix} />}
      <pre tabIndex={0} aria-label={`Content of ${name}`}>{visible(pretty(kind, file.data).slice(0, TEXT_CHARS))}</pre>
    </section>
  );
}

function pretty(kind: Kind, text: string): string {
  if (kind !== "json") return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
