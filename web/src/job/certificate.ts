// A certificate as sentences.
import { number } from "../shared/text";

export type Open = Record<string, unknown>;

export function open(value: unknown): Open {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Open) : {};
}

/** "1280 values, equal bit by bit" or "1280 values, at most 2.0e-7 apart". */
export function closeness(compared: Open): string {
  const count = number(compared.elements ?? compared.values ?? 0);
  return compared.bit_equal === true
    ? `${count} values, equal bit by bit`
    : `${count} values, at most ${number(compared.max_abs_difference)} apart`;
}

/** A sentence for each way in which the model was loaded and compared. */
export function sentences(verified: Open): string[] {
  const lines: string[] = [];
  const reload = open(verified.reload);
  for (const [role, ways] of Object.entries(open(reload.models))) {
    for (const [way, result] of Object.entries(open(ways))) {
      const found = open(result);
      const weights = found.weights === undefined ? "" : `; ${number(found.weights)} weight tensors were restored`;
      lines.push(`The model ${role} was loaded as ${way.replaceAll("_", " ")} in a fresh process: outputs of ${closeness(open(found.outputs))}${weights}.`);
    }
  }
  if (reload.tolerance !== undefined) lines.push(`Outputs may differ by ${number(reload.tolerance)} at most.`);
  const step = open(open(verified.certify).step);
  if (Object.keys(step).length) lines.push(`One more training step after the reload gave the same state as the original: ${closeness(step)}.`);
  return lines;
}
