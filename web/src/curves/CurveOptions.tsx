// What a reader chooses for all charts of a page.
import type { Axis } from "./Chart";

export interface CurveView {
  axis: Axis;
  log: boolean;
  smoothing: number;
}

export const PLAIN: CurveView = { axis: "step", log: false, smoothing: 0 };

export function CurveOptions({ view, onChange, epochs }: { view: CurveView; onChange: (view: CurveView) => void; epochs: boolean }) {
  return (
    <div className="row" role="group" aria-label="How curves are drawn">
      <label>
        over{" "}
        <select value={view.axis} onChange={(event) => onChange({ ...view, axis: event.target.value as Axis })}>
          <option value="step">steps</option>
          {epochs && <option value="epoch">epochs</option>}
          <option value="time">time</option>
        </select>
      </label>
      <label>
        <input type="checkbox" checked={view.log} onChange={(event) => onChange({ ...view, log: event.target.checked })} />
        log scale
      </label>
      <label>
        smoothing{" "}
        <input
          type="range"
          min="0"
          max="0.99"
          step="0.01"
          value={view.smoothing}
          onChange={(event) => onChange({ ...view, smoothing: Number(event.target.value) })}
        />
        <output>{view.smoothing.toFixed(2)}</output>
      </label>
    </div>
  );
}
