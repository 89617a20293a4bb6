// A form for what is changed most: it edits the JSON text.
import { parsed } from "./validation";

type Open = Record<string, unknown>;

function object(value: unknown): Open {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Open) : {};
}

export function Fields({ text, onChange }: { text: string; onChange: (text: string) => void }) {
  const read = parsed(text);
  const spec = "spec" in read ? object(read.spec) : null;
  if (spec === null) return null;
  const change = (changes: Open) => onChange(`${JSON.stringify({ ...spec, ...changes }, null, 2)}\n`);
  const training = object(spec.training);
  const whole = (value: string) => (value === "" ? undefined : Math.max(0, Math.round(Number(value))));
  return (
    <>
      <label>
        name <input value={typeof spec.name === "string" ? spec.name : ""} onChange={(event) => change({ name: event.target.value })} />
      </label>
      <label>
        epochs{" "}
        <input
          type="number"
          min="1"
          value={typeof training.epochs === "number" ? training.epochs : ""}
          onChange={(event) => change({ training: { ...training, epochs: whole(event.target.value) } })}
        />
      </label>
      <label>
        priority{" "}
        <input
          type="number"
          min="-100"
          max="100"
          value={typeof spec.priority === "number" ? spec.priority : ""}
          placeholder="0"
          onChange={(event) => change({ priority: event.target.value === "" ? undefined : Math.round(Number(event.target.value)) })}
        />
      </label>
    </>
  );
}
