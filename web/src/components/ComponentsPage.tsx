import { useQuery } from "@tanstack/react-query";
import { useState } from "react";

import type { ComponentInfo } from "../api/client";
import { navigate, useAddress, withParameters } from "../app/router";
import { CopyButton, Json, ProblemBox } from "../shared/parts";
import { visible } from "../shared/text";
import { exampleOf, readCatalogue } from "./catalogue";

export default function ComponentsPage() {
  const url = useAddress();
  const all = useQuery({ queryKey: ["components"], queryFn: readCatalogue, staleTime: 30_000 });
  const [search, setSearch] = useState("");
  const kind = url.searchParams.get("kind") ?? "";
  const kinds = [...new Set((all.data ?? []).map((one) => one.kind))].sort();
  const wanted = search.toLowerCase();
  const rows = (all.data ?? []).filter(
    (one) => (!kind || one.kind === kind) && (!wanted || `${one.name} ${one.doc}`.toLowerCase().includes(wanted)),
  );
  return (
    <>
      <h1>Components</h1>
      <form className="row" role="search" onSubmit={(event) => event.preventDefault()}>
        <label>
          kind{" "}
          <select value={kind} onChange={(event) => navigate(withParameters(url, { kind: event.target.value || null }), true)}>
            <option value="">any</option>
            {kinds.map((one) => (
              <option key={one}>{one}</option>
            ))}
          </select>
        </label>
        <label>
          search <input type="search" value={search} onChange={(event) => setSearch(event.target.value)} />
        </label>
        <span role="status">{rows.length} components</span>
      </form>
      <ProblemBox error={all.error} />
      {rows.map((one) => (
        <Component key={`${one.kind} ${one.name} ${one.version}`} component={one} />
      ))}
    </>
  );
}

function Component({ component }: { component: ComponentInfo }) {
  const [open, setOpen] = useState(false);
  const [line] = (component.doc ?? "").split("\n");
  return (
    <details className="component" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>
        <span className="quiet">{component.kind}</span> <strong>{visible(component.name)}</strong> {visible(line ?? "")}
      </summary>
      {open && (
        <div className="box">
          <p style={{ whiteSpace: "pre-wrap" }}>{visible(component.doc ?? "")}</p>
          <p className="quiet">
            version {visible(component.version ?? "")}, on {(component.workers ?? []).length} workers
            {component.package ? `, from the package ${visible(component.package)}` : ""}
          </p>
          {(component.warnings ?? []).map((one) => (
            <p key={one}>{visible(one)}</p>
          ))}
          <CopyButton text={() => JSON.stringify(exampleOf(component), null, 2)}>Copy for a spec</CopyButton>
          <h3>Config</h3>
          <Json value={component.config_schema} label={`Config schema of ${component.name}`} />
        </div>
      )}
    </details>
  );
}
