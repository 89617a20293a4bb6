// The address is the view: a path and its parameters, by the browser's history.
import { createElement, useSyncExternalStore, type AnchorHTMLAttributes, type MouseEvent } from "react";

const CHANGED = "tapeworks:navigated";

export function navigate(to: string, replace = false): void {
  window.history[replace ? "replaceState" : "pushState"](null, "", to);
  window.dispatchEvent(new Event(CHANGED));
}

function subscribe(changed: () => void): () => void {
  window.addEventListener("popstate", changed);
  window.addEventListener(CHANGED, changed);
  return () => {
    window.removeEventListener("popstate", changed);
    window.removeEventListener(CHANGED, changed);
  };
}

/** Path and query of the address, as one text. */
export function useAddress(): URL {
  const text = useSyncExternalStore(subscribe, () => window.location.href);
  return new URL(text);
}

/** The address with other parameters: null removes one, a list repeats it. */
export function withParameters(url: URL, changes: Record<string, string | string[] | null>): string {
  const query = new URLSearchParams(url.search);
  for (const [name, value] of Object.entries(changes)) {
    query.delete(name);
    for (const one of value === null ? [] : [value].flat()) query.append(name, one);
  }
  const text = query.toString();
  return url.pathname + (text ? `?${text}` : "");
}

type LinkProps = AnchorHTMLAttributes<HTMLAnchorElement> & { href: string };

/** A link within the page; with a modifier key it is the browser's own. */
export function Link({ onClick, ...rest }: LinkProps) {
  const follow = (event: MouseEvent<HTMLAnchorElement>) => {
    onClick?.(event);
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    navigate(rest.href);
  };
  return createElement("a", { ...rest, onClick: follow });
}
