// Parallel coordinates: one line a job over the numbers that differ. The table above has the same numbers.
import { visible } from "../shared/text";

interface Row {
  name: string;
  values: (string | number | undefined)[];
}

const WIDTH = 130;
const HEIGHT = 190;
const COLOURS = ["#2b7bd6", "#d2620f", "#23935a", "#a85bd0", "#cc4263", "#16909c", "#8f7417", "#6f7b8a"];

export function Parallel({ rows, columns }: { rows: Row[]; columns: string[] }) {
  const axes = columns
    .map((name, index) => ({ name, values: rows.map((row) => (row.values[index] === undefined ? NaN : Number(row.values[index]))) }))
    .map((axis) => ({ ...axis, finite: axis.values.filter(Number.isFinite) }))
    .filter(({ finite }) => new Set(finite).size > 1);
  if (rows.length < 2 || axes.length < 2) return null;
  const place = (axis: (typeof axes)[number], value: number) => {
    const [low, high] = [Math.min(...axis.finite), Math.max(...axis.finite)];
    return 20 + (1 - (value - low) / (high - low)) * (HEIGHT - 50);
  };
  return (
    <div className="scroll" role="region" aria-label="Parallel coordinates; the table has the numbers" tabIndex={0}>
      <svg width={WIDTH * axes.length + 20} height={HEIGHT} aria-hidden="true">
        {axes.map((axis, at) => (
          <g key={axis.name}>
            <line x1={60 + at * WIDTH} x2={60 + at * WIDTH} y1="20" y2={HEIGHT - 30} stroke="currentColor" strokeOpacity="0.4" />
            <text x={60 + at * WIDTH} y={HEIGHT - 10} textAnchor="middle" fontSize="11" fill="currentColor">
              {visible(axis.name).slice(-22)}
            </text>
          </g>
        ))}
        {rows.map((_, index) => {
          const points = axes
            .map((axis, at) => [60 + at * WIDTH, axis.values[index]!] as const)
            .map(([x, value], at) => (Number.isFinite(value) ? `${x},${place(axes[at]!, value)}` : ""))
            .filter(Boolean);
          return <polyline key={index} points={points.join(" ")} fill="none" stroke={COLOURS[index % COLOURS.length]} strokeWidth="1.6" />;
        })}
      </svg>
    </div>
  );
}
