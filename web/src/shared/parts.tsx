// Parts that every page uses.
import { useState, type ReactNode } from "react";

import { ApiProblem, type State } from "../api/client";
import { visible } from "./text";

export function StateBadge({ state }: { state: State }) {
  return <span className={`state state-${state}`}>{state}</span>;
}

/** What a request was refused with: code, message, suggested fix, places. */
export function ProblemBox({ error }: { error: unknown }) {
  if (!error) return null;
  if (!(error instanceof ApiProblem)) return <div className="box bad" role="alert">{String(error)}</div>;
  const { code, detail, title, hint, errors } = error.problem;
  return (
    <div className="box bad" role="alert">
      <p>
        <code>{code}</code> {visible(detail || title)}
      </p>
      {hint && <p className="quiet">{visible(hint)}</p>}
      {errors.length > 0 && (
        <ul>
          {errors.map((one, index) => (
            <li key={index}>
              <code>{visible(one.pointer) || "/"}</code> {visible(one.message)} <span className="quiet">{visible(one.hint)}</span>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

/** A scrolling part that the keyboard can reach. */
export function Scroll({ label, tall, children }: { label: string; tall?: boolean; children: ReactNode }) {
  return (
    <div className={tall ? "scroll tall" : "scroll"} role="region" aria-label={label} tabIndex={0}>
      {children}
    </div>
  );
}

export function CopyButton({ text, children }: { text: string | (() => string); children: ReactNode }) {
  const [done, setDone] = useState("");
  const copy = async () => {
    const value = typeof text === "string" ? text : text();
    try {
      await navigator.clipboard.writeText(value);
      setDone("copied");
    } catch {
      // Without TLS a browser lends no clipboard: the text is shown, to be marked.
      setDone(value);
    }
  };
  return (
    <span>
      <button type="button" onClick={copy}>
        {children}
      </button>{" "}
      <span role="status">{done === "copied" && "copied"}</span>
      {done && done !== "copied" && <pre tabIndex={0}>{done}</pre>}
    </span>
  );
}

export function Json({ value, label }: { value: unknown; label: string }) {
  return (
    <pre tabIndex={0} aria-label={label}>
      {visible(JSON.stringify(value, null, 2) ?? "")}
    </pre>
  );
}

/** A question before what cannot be undone, in place. */
export function Confirmed({ question, onYes, disabled, children }: { question: string; onYes: () => void; disabled?: boolean; children: ReactNode }) {
  const [asked, setAsked] = useState(false);
  if (!asked) {
    return (
      <button type="button" disabled={disabled} onClick={() => setAsked(true)}>
        {children}
      </button>
    );
  }
  return (
    <span role="group" aria-label={question}>
      {question}{" "}
      <button type="button" autoFocus onClick={() => { setAsked(false); onYes(); }}>
        Yes
      </button>{" "}
      <button type="button" onClick={() => setAsked(false)}>
        No
      </button>
    </span>
  );
}
