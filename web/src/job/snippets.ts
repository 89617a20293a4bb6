// The spec of a job as something to paste: Python, curl, JSON.

const PLAIN = /^[A-Za-z_][A-Za-z0-9_]*$/;

/** A JSON value as a Python literal. */
export function python(value: unknown, indent = 0): string {
  const pad = "    ".repeat(indent + 1);
  const end = "    ".repeat(indent);
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value === "number") return String(value);
  if (typeof value === "string") return pythonText(value);
  if (Array.isArray(value)) {
    const items = value.map((one) => python(one, indent + 1));
    const flat = `[${items.join(", ")}]`;
    return flat.length < 80 && !flat.includes("\n") ? flat : `[\n${items.map((one) => `${pad}${one},\n`).join("")}${end}]`;
  }
  const items = Object.entries(value as object).map(([key, one]) => `${pythonText(key)}: ${python(one, indent + 1)}`);
  const flat = `{${items.join(", ")}}`;
  return flat.length < 80 && !flat.includes("\n") ? flat : `{\n${items.map((one) => `${pad}${one},\n`).join("")}${end}}`;
}

// JSON's escapes are Python's, but for those of a surrogate pair, which JSON leaves as it is here.
function pythonText(value: string): string {
  return JSON.stringify(value).replace(/[\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** A word of a POSIX shell, whatever is in it. */
export function shellWord(value: string): string {
  return PLAIN.test(value) ? value : `'${value.replaceAll("'", `'\\''`)}'`;
}

export function asPython(spec: unknown, url: string): string {
  return `import tapeworks

spec = ${python(spec)}

with tapeworks.Client(${pythonText(url)}) as client:
    job = client.submit(spec)
    job = client.wait(job.id)
    print(job.state, job.metrics)
`;
}

export function asCurl(spec: unknown, url: string): string {
  return `curl -X POST ${shellWord(`${url}/v1/jobs`)} \\
  -H 'Content-Type: application/json' \\
  -H "Authorization: Bearer $TAPEWORKS_KEY" \\
  --data-binary ${shellWord(JSON.stringify(spec, null, 2))}
`;
}
