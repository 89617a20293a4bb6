// Filters of the list: they are the address's parameters, so that a view can be sent to somebody.
import { useState, type FormEvent } from "react";

import type { Schemas, State } from "../api/client";
import { navigate, useAddress, withParameters } from "../app/router";

const STATES: State[] = ["queued", "starting", "running", "exporting", "verifying", "paused", "succeeded", "failed", "cancelled"];
const KINDS: Schemas["JobKind"][] = ["train", "validate", "admit", "inspect"];

export interface JobFilters {
  state?: State[];
  kind?: Schemas["JobKind"];
  label?: string[];
  name?: string;
  after?: string;
  limit: number;
}

export function filtersOf(url: URL): JobFilters {
  const query = url.searchParams;
  const states = query.getAll("state").filter((one): one is State => (STATES as string[]).includes(one));
  const kind = KINDS.find((one) => one === query.get("kind"));
  return {
    ...(states.length ? { state: states } : {}),
    ...(kind ? { kind } : {}),
    ...(query.getAll("label").length ? { label: query.getAll("label") } : {}),
    ...(query.get("name") ? { name: query.get("name")! } : {}),
    ...(query.get("after") ? { after: query.get("after")! } : {}),
    limit: 50,
  };
}

export function Filters() {
  const url = useAddress();
  const filters = filtersOf(url);
  const [name, setName] = useState(filters.name ?? "");
  const [labels, setLabels] = useState((filters.label ?? []).join(" "));
  const apply = (event: FormEvent) => {
    event.preventDefault();
    navigate(withParameters(url, { name: name || null, label: labels.split(/\s+/).filter(Boolean), after: null }));
  };
  return (
    <form className="row" role="search" aria-label="Filter jobs" onSubmit={apply}>
      <label>
        state{" "}
        <select
          value={filters.state?.[0] ?? ""}
          onChange={(event) => navigate(withParameters(url, { state: event.target.value || null, after: null }))}
        >
          <option value="">any</option>
          {STATES.map((state) => (
            <option key={state}>{state}</option>
          ))}
        </select>
      </label>
      <label>
        kind{" "}
        <select
          value={filters.kind ?? "train"}
          onChange={(event) => navigate(withParameters(url, { kind: event.target.value, after: null }))}
        >
          {KINDS.map((kind) => (
            <option key={kind}>{kind}</option>
          ))}
        </select>
      </label>
      <label>
        name <input value={name} onChange={(event) => setName(event.target.value)} />
      </label>
      <label>
        labels <input value={labels} placeholder="team=vision" onChange={(event) => setLabels(event.target.value)} />
      </label>
      <button type="submit">Filter</button>
    </form>
  );
}
