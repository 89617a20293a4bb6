import { useState, type FormEvent } from "react";

import { request } from "../api/client";
import { useAddress } from "../app/router";
import { ProblemBox } from "../shared/parts";

/** Where to return to: a path of this page, never another site. */
export function safeBack(back: string | null): string {
  return back && /^\/(?![/\\])/.test(back) ? back : "/jobs";
}

export default function LoginPage() {
  const url = useAddress();
  const [key, setKey] = useState("");
  const [error, setError] = useState<unknown>(null);
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    setError(null);
    try {
      await request("POST", "/v1/session", { key: key.trim() });
      // A load, not a navigation: nothing of an earlier session stays in memory.
      window.location.assign(safeBack(url.searchParams.get("back")));
    } catch (problem) {
      setError(problem);
    }
  };
  return (
    <>
      <h1>Log in</h1>
      <p>This service has keys. Give one; the browser keeps a cookie instead of it. <code>tapeworks keys create</code> makes one.</p>
      <form onSubmit={(event) => void submit(event)}>
        <div className="row">
          <label>
            key <input type="password" autoComplete="current-password" required value={key} onChange={(event) => setKey(event.target.value)} />
          </label>
          <button className="main" type="submit">Log in</button>
        </div>
      </form>
      <ProblemBox error={error} />
    </>
  );
}
