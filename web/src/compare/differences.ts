// Parameters of jobs: those that differ.

/** A spec as pointer → value; arrays of plain values are one value. */
export function flattened(value: unknown, pointer = "", into: Record<string, string> = {}): Record<string, string> {
  if (Array.isArray(value) && value.every((one) => typeof one !== "object" || one === null)) {
    into[pointer] = JSON.stringify(value);
  } else if (typeof value === "object" && value !== null) {
    for (const [name, one] of Object.entries(value)) flattened(one, pointer ? `${pointer}.${name}` : name, into);
  } else if (value !== undefined) {
    into[pointer] = typeof value === "string" ? value : JSON.stringify(value);
  }
  return into;
}

/** Names of parameters that are not the same in all; what says which job it is does not count. */
export function differing(specs: Record<string, string>[]): string[] {
  const names = new Set(specs.flatMap((one) => Object.keys(one)));
  const own = (name: string) => name === "name" || name.startsWith("labels.");
  return [...names].filter((name) => !own(name) && new Set(specs.map((one) => one[name])).size > 1).sort();
}

/** Numbers by size, before texts; what is missing comes last, whichever way. */
export function ordered(a: string | number | undefined, b: string | number | undefined, down: boolean): number {
  if (a === undefined || b === undefined) return a === b ? 0 : a === undefined ? 1 : -1;
  const [x, y] = [Number(a), Number(b)];
  const numeric = !Number.isNaN(x) && !Number.isNaN(y);
  const order = numeric ? x - y : Number.isNaN(x) !== Number.isNaN(y) ? (Number.isNaN(x) ? 1 : -1) : String(a).localeCompare(String(b));
  return down ? -order : order;
}
