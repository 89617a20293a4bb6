import { useEffect, useMemo, useRef, useState } from "react";

import { api, data, type Job, type LogLine } from "../api/client";
import { ProblemBox } from "../shared/parts";
import { logText } from "../shared/text";

const EVERY_MS = 1500;
const KEPT = 20_000;

/** Lines as they come in; while the job runs, those after the last one that is known. */
function useLogs(jobId: string, finished: boolean) {
  const [lines, setLines] = useState<LogLine[]>([]);
  const [error, setError] = useState<unknown>(null);
  const last = useRef(0);
  useEffect(() => {
    let stopped = false;
    let timer = 0;
    const read = async () => {
      try {
        let more = true;
        while (more && !stopped) {
          const query = { after: last.current, limit: 1000 };
          const page = await data(api.GET("/v1/jobs/{job_id}/logs", { params: { path: { job_id: jobId }, query } }));
          if (stopped) return;
          const after = last.current;
          const fresh = page.data.filter((one) => one.seq > after);
          last.current = fresh[fresh.length - 1]?.seq ?? after;
          if (fresh.length) setLines((before) => [...before, ...fresh].slice(-KEPT));
          more = page.has_more ?? false;
        }
        setError(null);
      } catch (problem) {
        setError(problem);
      }
      if (!stopped && !finished) timer = window.setTimeout(() => void read(), EVERY_MS);
    };
    void read();
    return () => {
      stopped = true;
      window.clearTimeout(timer);
    };
  }, [jobId, finished]);
  return { lines, error };
}

export function Logs({ job, finished }: { job: Job; finished: boolean }) {
  const { lines, error } = useLogs(job.id, finished);
  const [search, setSearch] = useState("");
  const [follow, setFollow] = useState(true);
  const box = useRef<HTMLDivElement>(null);
  const shown = useMemo(() => {
    const texts = lines.map((line) => ({ line, text: logText(line.text) }));
    const wanted = search.toLowerCase();
    return wanted ? texts.filter(({ text }) => text.toLowerCase().includes(wanted)) : texts;
  }, [lines, search]);
  useEffect(() => {
    if (follow && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [shown, follow]);
  const download = () => {
    const text = lines.map((line) => logText(line.text)).join("\n");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    link.download = `${job.id}.log`;
    link.click();
    URL.revokeObjectURL(link.href);
  };
  return (
    <>
      <div className="row">
        <label>
          search <input type="search" value={search} onChange={(event) => setSearch(event.target.value)} />
        </label>
        <label>
          <input type="checkbox" checked={follow} onChange={(event) => setFollow(event.target.checked)} /> follow
        </label>
        <span role="status">{shown.length} of {lines.length} lines</span>
        <button type="button" disabled={!lines.length} onClick={download}>Download</button>
      </div>
      <ProblemBox error={error} />
      <div ref={box} className="logs" role="region" aria-label="Log lines" tabIndex={0}>
        {lines.length === 0 && <span className="quiet">The job printed nothing.</span>}
        {shown.map(({ line, text }) => (
          <div key={line.seq} className={line.stream}>
            <Found text={text} search={search} />
          </div>
        ))}
      </div>
    </>
  );
}

function Found({ text, search }: { text: string; search: string }) {
  const at = search ? text.toLowerCase().indexOf(search.toLowerCase()) : -1;
  if (at < 0) return <>{text || "\u00a0"}</>;
  const end = at + search.length;
  return (
    <>
      {text.slice(0, at)}
      <mark>{text.slice(at, end)}</mark>
      {text.slice(end)}
    </>
  );
}
