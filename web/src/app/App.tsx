import { Suspense, lazy, useEffect, useRef } from "react";

import { Link, useAddress } from "./router";
import { JobsPage } from "../jobs/JobsPage";

const JobPage = lazy(() => import("../job/JobPage"));
const ComparePage = lazy(() => import("../compare/ComparePage"));
const NewJobPage = lazy(() => import("../new/NewJobPage"));
const ComponentsPage = lazy(() => import("../components/ComponentsPage"));
const DataPage = lazy(() => import("../data/DataPage"));
const WorkersPage = lazy(() => import("../workers/WorkersPage"));
const SettingsPage = lazy(() => import("../settings/SettingsPage"));
const LoginPage = lazy(() => import("../login/LoginPage"));

const PLACES = [
  ["/jobs", "Jobs"],
  ["/new", "New job"],
  ["/components", "Components"],
  ["/data", "Data"],
  ["/workers", "Workers"],
  ["/settings", "Settings"],
] as const;

function view(first: string, rest: string) {
  switch (first) {
    case "":
    case "jobs":
      return rest ? <JobPage key={rest} id={rest} /> : <JobsPage />;
    case "compare":
      return <ComparePage />;
    case "new":
      return <NewJobPage />;
    case "components":
      return <ComponentsPage />;
    case "data":
      return <DataPage />;
    case "workers":
      return <WorkersPage />;
    case "settings":
      return <SettingsPage />;
    case "login":
      return <LoginPage />;
    default:
      return <p role="alert">There is no page at this address.</p>;
  }
}

export function App() {
  const url = useAddress();
  const [, first = "", rest = ""] = url.pathname.split("/");
  const main = useRef<HTMLElement>(null);
  const before = useRef(url.pathname);
  useEffect(() => {
    // A reader of the page by ear starts at the new content, as after a load.
    if (before.current !== url.pathname) main.current?.focus();
    before.current = url.pathname;
  }, [url.pathname]);
  return (
    <>
      <a className="skip" href="#main">
        Skip to content
      </a>
      <header className="top">
        <Link className="brand" href="/jobs">
          Tapeworks
        </Link>
        <nav aria-label="Pages">
          {PLACES.map(([path, name]) => (
            <Link key={path} href={path} aria-current={`/${first || "jobs"}` === path ? "page" : undefined}>
              {name}
            </Link>
          ))}
        </nav>
      </header>
      <main id="main" ref={main} tabIndex={-1}>
        <Suspense fallback={<p role="status">Loading…</p>}>{view(first, decodeURIComponent(rest))}</Suspense>
      </main>
    </>
  );
}
