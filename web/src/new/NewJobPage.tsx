import { useMutation, useQuery } from "@tanstack/react-query";
import { Suspense, lazy, useEffect, useState } from "react";

import { request, type Job } from "../api/client";
import { navigate, useAddress } from "../app/router";
import { readCatalogue } from "../components/catalogue";
import { ProblemBox } from "../shared/parts";
import { visible } from "../shared/text";
import { EXAMPLES, FIRST, readExample } from "./examples";
import { Fields } from "./Fields";
import { Quote } from "./Quote";
import { editorSchema, readSchema } from "./schema";
import { parsed, traced, useValidation, type Checked } from "./validation";

const Editor = lazy(() => import("./Editor"));

export default function NewJobPage() {
  const url = useAddress();
  const from = url.searchParams.get("job");
  const [text, setText] = useState(FIRST);
  const checked = useValidation(text);
  const editor = useQuery({
    queryKey: ["editor"],
    queryFn: async () => {
      const [document, catalogue] = await Promise.all([readSchema(), readCatalogue()]);
      return { schema: editorSchema(document, catalogue), catalogue };
    },
    staleTime: Infinity,
  });
  const old = useQuery({
    queryKey: ["job", from],
    queryFn: () => request<Job>("GET", `/v1/jobs/${encodeURIComponent(from!)}`),
    enabled: from !== null,
  });
  useEffect(() => {
    if (old.data?.spec) setText(`${JSON.stringify(old.data.spec, null, 2)}\n`);
  }, [old.data?.spec]);

  const spec = () => {
    const read = parsed(text);
    if ("error" in read) throw new Error(`This is not JSON: ${read.error}`);
    return read.spec;
  };
  const submit = useMutation({
    // Another press of the button after an answer was lost is the same submission.
    mutationFn: async () => request<Job>("POST", "/v1/jobs", spec(), { "Idempotency-Key": await keyOf(text) }),
    onSuccess: (made) => navigate(`/jobs/${made.id}`),
  });
  const trace = useMutation({ mutationFn: async () => traced(spec()) });
  return (
    <>
      <h1>New job</h1>
      <div className="row">
        <label>
          start from{" "}
          <select value="" onChange={(event) => event.target.value && void readExample(event.target.value).then(setText)}>
            <option value="">an example …</option>
            {EXAMPLES.map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </label>
        <Fields text={text} onChange={setText} />
      </div>
      <ProblemBox error={editor.error ?? old.error} />
      {editor.data && (
        <Suspense fallback={<p role="status">Loading the editor…</p>}>
          <Editor text={text} onChange={setText} schema={editor.data.schema} catalogue={editor.data.catalogue} findings={checked.findings} />
        </Suspense>
      )}
      <p className="quiet">Ctrl+Space completes; Tab leaves the editor.</p>
      <Verdict checked={checked} />
      <div className="row">
        <button className="main" type="button" disabled={checked.state !== "valid" || submit.isPending} onClick={() => submit.mutate()}>
          Submit
        </button>
        <button type="button" disabled={checked.state !== "valid" || trace.isPending} onClick={() => trace.mutate()}>
          Trace and estimate
        </button>
        {trace.isPending && <span role="status">A worker traces the spec…</span>}
      </div>
      <ProblemBox error={submit.error ?? trace.error} />
      {trace.data && <Quote job={trace.data} />}
    </>
  );
}

let visits = 0;
const visit = `${Date.now()}-${(visits += 1)}`;

async function keyOf(text: string): Promise<string> {
  const minute = Math.floor(Date.now() / 60_000);
  let sum = 0;
  for (const one of text) sum = (Math.imul(sum, 31) + one.codePointAt(0)!) | 0;
  return `page-${visit}-${minute}-${(sum >>> 0).toString(16)}`;
}

function Verdict({ checked }: { checked: Checked }) {
  const words = { empty: "", checking: "Checking…", valid: "The service accepts this spec.", wrong: "The service would refuse this spec.", unreachable: "The service does not answer." };
  return (
    <div className={`box ${checked.state === "valid" ? "good" : checked.state === "checking" ? "" : "warn"}`} role="status" aria-live="polite">
      <p>{words[checked.state]}</p>
      {checked.findings.length === 0 && checked.message && <p>{visible(checked.message)}</p>}
      <ul>
        {checked.findings.map((one, index) => (
          <li key={index}>
            <code>{visible(one.pointer)}</code> {visible(one.message)} <span className="quiet">{visible(one.hint)}</span>
          </li>
        ))}
      </ul>
      {checked.warnings.map((one) => (
        <p key={one}>{visible(one)}</p>
      ))}
    </div>
  );
}
