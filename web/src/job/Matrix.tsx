// A square matrix of counts, as a confusion matrix is, as a heat map that is a table too.
import { Scroll } from "../shared/parts";
import { number, visible } from "../shared/text";

interface Heat {
  rows: number[][];
  labels: string[];
}

const MOST = 100;

/** The matrix of a JSON text: an array of rows, or an object with one under `matrix` or `confusion_matrix`. */
export function matrixOf(text: string): Heat | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  const fields = typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
  const rows = Array.isArray(value) ? value : (fields.confusion_matrix ?? fields.matrix);
  if (!Array.isArray(rows) || rows.length < 2 || rows.length > MOST) return null;
  const square = rows.every((row) => Array.isArray(row) && row.length === rows.length && row.every((one) => typeof one === "number"));
  if (!square) return null;
  const named = fields.labels ?? fields.classes;
  const labels = Array.isArray(named) && named.length === rows.length ? named.map(String) : rows.map((_, index) => String(index));
  return { rows: rows as number[][], labels };
}

export function Matrix({ rows, labels }: Heat) {
  const most = Math.max(...rows.flat(), 1e-9);
  return (
    <Scroll label="Confusion matrix">
      <table style={{ width: "auto" }}>
        <thead>
          <tr>
            <td />
            {labels.map((label, index) => (
              <th scope="col" className="number" key={index}>{visible(label)}</th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row, at) => (
            <tr key={at}>
              <th scope="row">{visible(labels[at]!)}</th>
              {row.map((value, index) => (
                <td key={index} className="number" style={{ background: `rgb(43 123 214 / ${((0.45 * value) / most).toFixed(3)})` }}>
                  {number(value)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}
