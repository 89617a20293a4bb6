// One chart: lines over steps, epochs or time; the range of each bucket as a band; NaN as red marks; numbers as a table.
import { useEffect, useRef, useState } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

import { Scroll } from "../shared/parts";
import { number, visible } from "../shared/text";

export interface Line {
  label: string;
  dashed?: boolean;
  x: number[];
  y: (number | null)[];
  /** The smallest and the largest value of each bucket. */
  low?: (number | null)[];
  high?: (number | null)[];
  /** Where values are NaN or infinite. */
  bad: number[];
}

export type Axis = "step" | "epoch" | "time";
interface Props {
  title: string;
  lines: Line[];
  axis: Axis;
  log: boolean;
  /** Called with the limits of the axis that a reader zooms to; null: the whole curve. */
  onZoom?: (range: [number, number] | null) => void;
}

const COLOURS = ["#2b7bd6", "#d2620f", "#23935a", "#a85bd0", "#cc4263", "#16909c", "#8f7417", "#6f7b8a"];
const HEIGHT = 260;
const TABLE_ROWS = 200;

function aligned(lines: Line[], log: boolean): uPlot.AlignedData {
  const shown = (values: (number | null)[]) =>
    values.map((one) => (one === null || !Number.isFinite(one) || (log && one <= 0) ? null : one));
  if (lines.length === 0) return [[]];
  const tables = lines.map((line) => {
    const rows = [line.x, shown(line.y)];
    if (line.low && line.high) rows.push(shown(line.low), shown(line.high));
    return rows as uPlot.AlignedData;
  });
  return uPlot.join(tables);
}

type Colours = { text: string; grid: string };

function options(props: Props, width: number, colours: Colours, drawn: () => Line[], zoomed: (range: [number, number]) => void): uPlot.Options {
  const series: uPlot.Series[] = [{ label: props.axis }];
  const bands: uPlot.Band[] = [];
  props.lines.forEach((line, index) => {
    const stroke = COLOURS[index % COLOURS.length]!;
    const dash = line.dashed ? [6, 4] : undefined;
    series.push({ label: visible(line.label), stroke, width: 1.8, dash, spanGaps: true, points: { show: line.x.length < 2 } });
    if (line.low && line.high) {
      const at = series.length;
      const edge = { stroke: "transparent", spanGaps: true, points: { show: false }, label: "" };
      series.push(edge, { ...edge });
      bands.push({ series: [at + 1, at], fill: stroke + "33" });
    }
  });
  const ink = { stroke: colours.text, grid: { stroke: colours.grid, width: 1 }, ticks: { stroke: colours.grid } };
  return {
    width,
    height: HEIGHT,
    series,
    bands,
    legend: { show: false },
    scales: { x: { time: props.axis === "time" }, y: props.log ? { distr: 3 } : {} },
    axes: [ink, { ...ink, size: 62, values: (_, ticks) => ticks.map((one) => (one === null ? "" : String(Number(one.toPrecision(4))))) }],
    hooks: {
      draw: [(plot) => marks(plot, drawn())],
      setSelect: [
        (plot) => {
          const { left, width } = plot.select;
          if (width > 0) zoomed([plot.posToVal(left, "x"), plot.posToVal(left + width, "x")]);
        },
      ],
    },
  };
}

function marks(plot: uPlot, lines: Line[]): void {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.fillStyle = "#d03030";
  for (const line of lines) {
    for (const x of line.bad) {
      const left = plot.valToPos(x, "x", true);
      if (left >= bbox.left && left <= bbox.left + bbox.width) ctx.fillRect(left - 1, bbox.top, 2, bbox.height);
    }
  }
  ctx.restore();
}

export function Chart(props: Props) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const [range, setRange] = useState<[string, string]>(["", ""]);
  const shape = props.lines.map((line) => `${line.label}${line.low ? "~" : ""}`).join("\n");
  const lines = useRef(props.lines);
  const zoomHandler = useRef(props.onZoom);
  zoomHandler.current = props.onZoom;
  const chosen = ([min, max]: [number, number]) => {
    const round = (value: number) => (props.axis === "step" ? String(Math.round(value)) : String(Number(value.toPrecision(6))));
    setRange([round(min), round(max)]);
    zoomHandler.current?.([min, max]);
  };

  useEffect(() => {
    const host = place.current!;
    const style = getComputedStyle(document.body);
    const colours = { text: style.getPropertyValue("color"), grid: "#8884" };
    lines.current = props.lines;
    const made = new uPlot(options(props, host.clientWidth || 400, colours, () => lines.current, chosen), aligned(props.lines, props.log), host);
    plot.current = made;
    const sized = new ResizeObserver(() => made.setSize({ width: host.clientWidth, height: HEIGHT }));
    sized.observe(host);
    return () => {
      sized.disconnect();
      made.destroy();
      plot.current = null;
    };
    // Made again when the lines are others; new points of the same lines are set below.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [shape, props.axis, props.log]);

  useEffect(() => {
    const made = plot.current;
    if (!made || lines.current === props.lines) return;
    lines.current = props.lines;
    const zoomed = range[0] !== "" || range[1] !== "";
    const { min, max } = made.scales.x ?? {};
    made.setData(aligned(props.lines, props.log), !zoomed);
    if (zoomed && min != null && max != null) made.setScale("x", { min, max });
  }, [props.lines, props.log, range]);

  const zoom = (next: [string, string]) => {
    setRange(next);
    const xs = props.lines.flatMap((line) => [line.x[0], line.x[line.x.length - 1]]).filter((x) => x !== undefined);
    const min = next[0] === "" ? Math.min(...xs) : Number(next[0]);
    const max = next[1] === "" ? Math.max(...xs) : Number(next[1]);
    if (!Number.isFinite(min) || max <= min) return;
    plot.current?.setScale("x", { min, max });
    zoomHandler.current?.(next[0] === "" && next[1] === "" ? null : [min, max]);
  };
  const title = visible(props.title);
  return (
    <section className="chart" aria-label={`Curve of ${title}`}>
      <h3>{title}</h3>
      <ul className="row legend">
        {props.lines.slice(0, 24).map((line, index) => (
          <li key={index}>
            <Swatch colour={COLOURS[index % COLOURS.length]!} dashed={line.dashed ?? false} /> {visible(line.label)}{" "}
            {number(line.y[line.y.length - 1] ?? "NaN")}
            {line.bad.length > 0 && <strong> not finite: {line.bad.length}</strong>}
          </li>
        ))}
      </ul>
      <div ref={place} aria-hidden="true" />
      <div className="row">
        {props.axis !== "time" &&
          (["from", "to"] as const).map((word, index) => (
            <label key={word}>
              {word}{" "}
              <input
                type="number"
                size={8}
                aria-label={`${word} ${props.axis} of ${title}`}
                value={range[index]}
                onChange={(event) => zoom(index === 0 ? [event.target.value, range[1]] : [range[0], event.target.value])}
              />
            </label>
          ))}
        <button type="button" onClick={() => zoom(["", ""])}>
          Whole curve
        </button>
      </div>
      <Numbers {...props} />
    </section>
  );
}

function Swatch({ colour, dashed }: { colour: string; dashed: boolean }) {
  return (
    <svg width="22" height="8" aria-hidden="true">
      <line x1="0" y1="4" x2="22" y2="4" stroke={colour} strokeWidth="3" strokeDasharray={dashed ? "6 4" : undefined} />
    </svg>
  );
}

function Numbers({ title, lines, axis }: Props) {
  const [open, setOpen] = useState(false);
  const at = (x: number) => (axis === "time" ? new Date(x * 1000).toLocaleString() : number(x));
  return (
    <details onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>Numbers of {visible(title)}</summary>
      {open && (
        <Scroll tall label={`Numbers of ${visible(title)}`}>
          <table>
            <thead>
              <tr>
                <th scope="col">curve</th>
                <th scope="col" className="number">{axis}</th>
                <th scope="col" className="number">value</th>
                <th scope="col" className="number">smallest</th>
                <th scope="col" className="number">largest</th>
              </tr>
            </thead>
            <tbody>
              {lines.flatMap((line) => {
                const stride = Math.max(1, Math.ceil((line.x.length * lines.length) / TABLE_ROWS));
                return line.x
                  .map((x, index) => ({ x, index }))
                  .filter(({ index }) => index % stride === 0 || index === line.x.length - 1)
                  .map(({ x, index }) => (
                    <tr key={`${line.label} ${index}`}>
                      <th scope="row">{visible(line.label)}</th>
                      <td className="number">{at(x)}</td>
                      <td className="number">{number(line.y[index] ?? "NaN")}</td>
                      <td className="number">{number(line.low?.[index] ?? line.y[index] ?? "NaN")}</td>
                      <td className="number">{number(line.high?.[index] ?? line.y[index] ?? "NaN")}</td>
                    </tr>
                  ));
              })}
            </tbody>
          </table>
        </Scroll>
      )}
    </details>
  );
}
