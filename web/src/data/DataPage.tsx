import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";

import { api, data, request, type Schemas } from "../api/client";
import { Link } from "../app/router";
import { Confirmed, Json, ProblemBox, Scroll } from "../shared/parts";
import { bytes, visible } from "../shared/text";
import { ago } from "../shared/time";

type Dataset = Schemas["Dataset"];
type Package = Schemas["Package"];
type Bundle = Schemas["Bundle"];
type Asset = Dataset | Package | Bundle;

export default function DataPage() {
  const query = { params: { query: { limit: 200 } } };
  const datasets = useQuery({ queryKey: ["assets", "datasets"], queryFn: () => data(api.GET("/v1/datasets", query)), refetchInterval: 5000 });
  const packages = useQuery({ queryKey: ["assets", "packages"], queryFn: () => data(api.GET("/v1/packages", query)), refetchInterval: 5000 });
  const bundles = useQuery({ queryKey: ["assets", "bundles"], queryFn: () => data(api.GET("/v1/bundles", query)), refetchInterval: 5000 });
  return (
    <>
      <h1>Data, packages and models</h1>
      <p className="quiet">Upload with <code>tapeworks push</code>, or the calls of <a href="/docs">the API</a>.</p>
      <Assets title="Datasets" path="datasets" rows={datasets.data?.data} error={datasets.error} more={(one) => <DatasetDetails dataset={one as Dataset} />} />
      <Assets title="Packages" path="packages" rows={packages.data?.data} error={packages.error} more={(one) => <PackageDetails item={one as Package} />} />
      <Assets title="Models" path="bundles" rows={bundles.data?.data} error={bundles.error} more={(one) => <p>roles: {visible(((one as Bundle).roles ?? []).join(", "))}</p>} />
    </>
  );
}

interface AssetsProps {
  title: string;
  path: string;
  rows: Asset[] | undefined;
  error: unknown;
  more: (asset: Asset) => React.ReactNode;
}

function Assets({ title, path, rows, error, more }: AssetsProps) {
  const client = useQueryClient();
  const remove = useMutation({
    mutationFn: (id: string) => request("DELETE", `/v1/${path}/${encodeURIComponent(id)}`),
    onSuccess: () => client.invalidateQueries({ queryKey: ["assets"] }),
  });
  return (
    <section aria-label={title}>
      <h2>{title}</h2>
      <ProblemBox error={error ?? remove.error} />
      {rows?.length === 0 && <p className="quiet">None was uploaded.</p>}
      {(rows ?? []).map((one) => (
        <details key={one.id}>
          <summary>
            <strong>{visible(one.name)}</strong> version {visible(one.version)} <span className="state">{one.state}</span> {bytes(one.bytes)}, {ago(one.created_at)}
          </summary>
          <div className="box">
            <p><code>{one.id}</code> {one.job_id && <Link href={`/jobs/${one.job_id}`}>its job</Link>}</p>
            {"failure" in one && one.failure && <p>{one.failure.code}: {visible(one.failure.message)}</p>}
            {more(one)}
            <Confirmed question={`Delete ${visible(one.name)}?`} onYes={() => remove.mutate(one.id)}>Delete</Confirmed>
          </div>
        </details>
      ))}
    </section>
  );
}

function DatasetDetails({ dataset }: { dataset: Dataset }) {
  const [shown, setShown] = useState(false);
  const content = dataset.content;
  if (!content) return <p>It is read by the source <code>{visible(dataset.source)}</code>.</p>;
  const columns = content.columns ?? [];
  return (
    <>
      <p>
        {content.rows ?? "uncounted"} rows, {content.files} files, source <code>{visible(dataset.source)}</code>. Write <code>{`{"files": "${dataset.id}"}`}</code> into its config.
      </p>
      {(content.notes ?? []).map((note) => (
        <p key={note}>{visible(note)}</p>
      ))}
      <Scroll label={`Rows of ${visible(dataset.name)}`}>
        <table>
          <thead>
            <tr>
              {columns.map((one) => (
                <th scope="col" key={one.name}>{visible(one.name)}<div className="quiet">{visible(one.dtype)}</div></th>
              ))}
            </tr>
          </thead>
          <tbody>
            {(content.preview ?? []).slice(0, 20).map((row, at) => (
              <tr key={at}>
                {columns.map((one) => (
                  <td key={one.name}>{visible(typeof row[one.name] === "string" ? String(row[one.name]) : JSON.stringify(row[one.name]) ?? "")}</td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
      <button type="button" aria-expanded={shown} onClick={() => setShown(!shown)}>All that was seen</button>
      {shown && <Json value={content} label={`Content of ${dataset.name}`} />}
    </>
  );
}

function PackageDetails({ item }: { item: Package }) {
  return (
    <>
      <p>{visible((item.components ?? []).map((one) => `${one.kind} ${one.name}`).join(", "))}</p>
      <ul>
        {(item.refused ?? []).map((one, index) => (
          <li key={index}>{visible(`${one.name}: ${one.reason} ${one.hint ?? ""}`)}</li>
        ))}
      </ul>
    </>
  );
}
