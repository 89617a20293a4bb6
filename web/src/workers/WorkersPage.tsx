import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";

import { api, data, type WorkerInfo } from "../api/client";
import { Link } from "../app/router";
import { Confirmed, ProblemBox, Scroll } from "../shared/parts";
import { bytes, visible } from "../shared/text";
import { ago } from "../shared/time";

export default function WorkersPage() {
  const client = useQueryClient();
  const workers = useQuery({
    queryKey: ["workers"],
    queryFn: () => data(api.GET("/v1/workers")),
    refetchInterval: 3000,
  });
  const drain = useMutation({
    mutationFn: ({ id, stop }: { id: string; stop: boolean }) => {
      const path = { params: { path: { worker_id: id } } };
      return stop ? data(api.POST("/v1/workers/{worker_id}/drain", path)) : data(api.POST("/v1/workers/{worker_id}/undrain", path));
    },
    onSuccess: () => client.invalidateQueries({ queryKey: ["workers"] }),
  });
  const rows = workers.data?.data ?? [];
  return (
    <>
      <h1>Workers</h1>
      <ProblemBox error={workers.error ?? drain.error} />
      {workers.data && rows.length === 0 && <p>No worker has registered.</p>}
      {rows.map((worker) => (
        <Worker key={worker.id} worker={worker} onDrain={(stop) => drain.mutate({ id: worker.id, stop })} />
      ))}
    </>
  );
}

function Worker({ worker, onDrain }: { worker: WorkerInfo; onDrain: (stop: boolean) => void }) {
  const name = visible(worker.id);
  return (
    <section className="box" aria-label={`Worker ${name}`}>
      <h2>{name}</h2>
      <div className="row">
        <span className="state">{worker.state}</span>
        <span className="quiet">heard {ago(worker.heartbeat_at)}</span>
        <span className="quiet">{visible(Object.entries(worker.versions ?? {}).map((pair) => pair.join(" ")).join(", "))}</span>
        {worker.state === "ready" && <Confirmed question="Hand its jobs back and take no new ones?" onYes={() => onDrain(true)}>Drain</Confirmed>}
        {worker.state === "draining" && <button type="button" onClick={() => onDrain(false)}>Take jobs again</button>}
      </div>
      <Scroll label={`Devices of ${name}`}>
        <table>
          <thead>
            <tr>
              <th scope="col">device</th>
              <th scope="col">utilisation</th>
              <th scope="col">memory</th>
              <th scope="col">runs</th>
            </tr>
          </thead>
          <tbody>
            {(worker.devices ?? []).map((device) => (
              <tr key={device.id}>
                <th scope="row">{visible(device.name || device.id)}</th>
                <td>{device.utilization != null ? <><progress aria-label={`Utilisation of ${visible(device.id)}`} max={1} value={device.utilization} /> {Math.round(100 * device.utilization)} %</> : "—"}</td>
                <td>{device.memory_bytes ? `${bytes(device.memory_used_bytes ?? 0)} of ${bytes(device.memory_bytes)}` : "—"}</td>
                <td>{device.job_id ? <Link href={`/jobs/${device.job_id}`}>{device.job_id}</Link> : "—"}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
      {(worker.refused ?? []).length > 0 && (
        <details>
          <summary>{worker.refused!.length} refused components</summary>
          <ul>
            {worker.refused!.map((one, index) => (
              <li key={index}>
                <code>{visible(`${one.kind ?? ""} ${one.name}`)}</code> {visible(one.reason)} <span className="quiet">{visible(one.hint ?? "")}</span>
              </li>
            ))}
          </ul>
        </details>
      )}
    </section>
  );
}
