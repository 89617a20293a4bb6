// Tabs by the ARIA pattern: arrow keys move, the panel is in the address.
import { useId, type KeyboardEvent, type ReactNode } from "react";

import { navigate, useAddress, withParameters } from "../app/router";

export function Tabs({ label, tabs }: { label: string; tabs: [string, () => ReactNode][] }) {
  const url = useAddress();
  const id = useId();
  const wanted = url.searchParams.get("show");
  const current = Math.max(0, tabs.findIndex(([name]) => name.toLowerCase() === wanted));
  const open = (index: number) => {
    const [name] = tabs[(index + tabs.length) % tabs.length]!;
    navigate(withParameters(url, { show: name.toLowerCase() }), true);
    document.getElementById(`${id}${name}`)?.focus();
  };
  const moved = (event: KeyboardEvent) => {
    const to = { ArrowRight: current + 1, ArrowLeft: current - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    open(to);
  };
  return (
    <>
      <div className="tabs" role="tablist" aria-label={label} onKeyDown={moved}>
        {tabs.map(([name], index) => (
          <button
            key={name}
            id={`${id}${name}`}
            type="button"
            role="tab"
            aria-selected={index === current}
            aria-controls={`${id}panel`}
            tabIndex={index === current ? 0 : -1}
            onClick={() => open(index)}
          >
            {name}
          </button>
        ))}
      </div>
      <div id={`${id}panel`} role="tabpanel" aria-labelledby={`${id}${tabs[current]![0]}`} tabIndex={0}>
        {tabs[current]![1]()}
      </div>
    </>
  );
}
