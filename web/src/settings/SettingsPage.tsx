import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useState, type FormEvent } from "react";

import { ApiProblem, request } from "../api/client";
import { Confirmed, CopyButton, ProblemBox, Scroll } from "../shared/parts";
import { visible } from "../shared/text";
import { moment } from "../shared/time";

interface Key {
  id: string;
  name: string;
  scopes: string[];
  created_at: string;
  last_used_at?: string | null;
  revoked_at?: string | null;
  /** Of a key that was just made, and never again. */
  key?: string;
}

const SCOPES = ["read", "submit", "admin", "worker"];

export default function SettingsPage() {
  const ready = useQuery({
    queryKey: ["readyz"],
    queryFn: () => request<{ status: string; checks: Record<string, string> }>("GET", "/readyz"),
    refetchInterval: 5000,
  });
  const logout = useMutation({
    mutationFn: () => request("DELETE", "/v1/session"),
    onSuccess: () => window.location.assign("/login"),
  });
  return (
    <>
      <h1>Settings</h1>
      <section aria-label="Service">
        <h2>Service</h2>
        {ready.data && <p>{visible(ready.data.status)}: {visible(Object.entries(ready.data.checks).map((pair) => pair.join(" ")).join(", "))}</p>}
        <ProblemBox error={ready.error} />
        <p>
          <a href="/docs">API reference</a>, <a href="/openapi.json">OpenAPI document</a>
        </p>
        <button type="button" onClick={() => logout.mutate()}>Log out</button>
        <ProblemBox error={logout.error} />
      </section>
      <Keys />
    </>
  );
}

function Keys() {
  const client = useQueryClient();
  const keys = useQuery({ queryKey: ["keys"], queryFn: () => request<{ data: Key[] }>("GET", "/v1/keys") });
  const again = () => client.invalidateQueries({ queryKey: ["keys"] });
  const revoke = useMutation({
    mutationFn: (id: string) => request("DELETE", `/v1/keys/${encodeURIComponent(id)}`),
    onSuccess: again,
  });
  const absent = keys.error instanceof ApiProblem && keys.error.status === 404;
  return (
    <section aria-label="Keys">
      <h2>Keys</h2>
      {absent ? <p className="quiet">This service has no calls for keys; use <code>tapeworks keys</code>.</p> : <ProblemBox error={keys.error ?? revoke.error} />}
      {keys.data?.data.length === 0 && <p>There is no key: whoever reaches this service from its machine may do everything. The first key closes it.</p>}
      {(keys.data?.data ?? []).length > 0 && (
        <Scroll label="Keys">
          <table>
            <thead>
              <tr>
                <th scope="col">name</th>
                <th scope="col">scopes</th>
                <th scope="col">created</th>
                <th scope="col">last used</th>
                <th scope="col">actions</th>
              </tr>
            </thead>
            <tbody>
              {keys.data!.data.map((one) => (
                <tr key={one.id}>
                  <th scope="row">{visible(one.name)}</th>
                  <td>{visible(one.scopes.join(", "))}</td>
                  <td>{moment(one.created_at)}</td>
                  <td>{one.last_used_at ? moment(one.last_used_at) : "never"}</td>
                  <td>{one.revoked_at ? "revoked" : <Confirmed question={`Revoke ${visible(one.name)}?`} onYes={() => revoke.mutate(one.id)}>Revoke</Confirmed>}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
      {!absent && <NewKey onMade={again} />}
    </section>
  );
}

function NewKey({ onMade }: { onMade: () => void }) {
  const [name, setName] = useState("");
  const [scopes, setScopes] = useState<string[]>(["read", "submit"]);
  const create = useMutation({
    mutationFn: () => request<Key>("POST", "/v1/keys", { name, scopes }),
    onSuccess: onMade,
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    create.mutate();
  };
  return (
    <form onSubmit={submit}>
      <div className="row">
        <label>
          name <input required maxLength={100} value={name} onChange={(event) => setName(event.target.value)} />
        </label>
        {SCOPES.map((scope) => (
          <label key={scope}>
            <input
              type="checkbox"
              checked={scopes.includes(scope)}
              onChange={(event) => setScopes(event.target.checked ? [...scopes, scope] : scopes.filter((one) => one !== scope))}
            />
            {scope}
          </label>
        ))}
        <button type="submit">Create a key</button>
      </div>
      <ProblemBox error={create.error} />
      {create.data?.key && (
        <p role="status" className="box good">
          Keep it now, it is not shown again: <code>{create.data.key}</code> <CopyButton text={create.data.key}>Copy</CopyButton>
        </p>
      )}
    </form>
  );
}
