import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useState, type FormEvent } from "react";

import { api, data, request, type Schemas } from "../api/client";
import { Confirmed, CopyButton, ProblemBox, Scroll } from "../shared/parts";
import { visible } from "../shared/text";
import { moment } from "../shared/time";

const SCOPES = ["read", "submit", "admin", "worker"];

export default function SettingsPage() {
  const ready = useQuery({
    queryKey: ["readyz"],
    queryFn: () => request<{ status: string; checks: Record<string, string> }>("GET", "/readyz"),
    refetchInterval: 5000,
  });
  const session = useSession();
  const logout = useMutation({
    mutationFn: () => data(api.DELETE("/v1/session")),
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
        {session.data?.keyless && <p>This service has no key: everybody on its machine may do everything.</p>}
        {session.data && !session.data.keyless && (
          <p>
            Logged in to the project {visible(session.data.project)} with the scopes {session.data.scopes.join(", ")}.{" "}
            <button type="button" onClick={() => logout.mutate()}>Log out</button>
          </p>
        )}
        <ProblemBox error={logout.error} />
      </section>
      <Keys />
    </>
  );
}

function useSession() {
  return useQuery({ queryKey: ["session"], queryFn: () => data(api.GET("/v1/session")) });
}

function Keys() {
  const client = useQueryClient();
  const keys = useQuery({ queryKey: ["keys"], queryFn: () => data(api.GET("/v1/keys")) });
  const again = () => Promise.all([client.invalidateQueries({ queryKey: ["keys"] }), client.invalidateQueries({ queryKey: ["session"] })]);
  const revoke = useMutation({
    mutationFn: (id: string) => data(api.DELETE("/v1/keys/{key_id}", { params: { path: { key_id: id } } })),
    onSuccess: again,
  });
  return (
    <section aria-label="Keys">
      <h2>Keys</h2>
      <ProblemBox error={keys.error ?? revoke.error} />
      {keys.data?.data.length === 0 && <p>There is no key. The first one locks the service; this browser is logged in with it.</p>}
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
      <NewKey onMade={again} />
    </section>
  );
}

function NewKey({ onMade }: { onMade: () => unknown }) {
  const session = useSession();
  const [name, setName] = useState("");
  const [scopes, setScopes] = useState<string[]>(["read", "submit", "admin"]);
  const create = useMutation({
    mutationFn: async () => {
      const made = await request<Schemas["NewKey"]>("POST", "/v1/keys", { name, scopes });
      // The first key locks the service: without a log-in this page would be shut out before the key is read.
      if (session.data?.keyless && scopes.includes("read")) await request("POST", "/v1/session", { key: made.key });
      return made;
    },
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
