/** Which screen is shown: the address says it, and the browser's back button works. */
import { type AnchorHTMLAttributes, type MouseEvent, useSyncExternalStore } from "react";

const MOVED = "escrowgrid:moved";

export interface Place {
  path: string;
  search: URLSearchParams;
}

let last: Place & { href: string } = read();

function read(): Place & { href: string } {
  return {
    href: location.pathname + location.search,
    path: location.pathname,
    search: new URLSearchParams(location.search),
  };
}

function present(): typeof last {
  if (last.href !== location.pathname + location.search) last = read();
  return last;
}

function listen(changed: () => void): () => void {
  addEventListener("popstate", changed);
  addEventListener(MOVED, changed);
  return () => {
    removeEventListener("popstate", changed);
    removeEventListener(MOVED, changed);
  };
}

export const usePlace = (): Place => useSyncExternalStore(listen, present);

const opened = Date.now();
let entries = 0;

/** Which entry of the history this is: what was kept of it is found again by going back, or forth. */
export function entry(): string {
  if (!history.state?.entry) history.replaceState({ entry: `${opened}.${entries++}` }, "");
  return history.state.entry;
}

export function go(href: string, { replace = false } = {}): void {
  // As browsers do it: who is there already has not gone anywhere.
  if (replace || href === present().href) history.replaceState(history.state, "", href);
  else history.pushState({ entry: `${opened}.${entries++}` }, "", href);
  dispatchEvent(new Event(MOVED));
}

/** A link that changes the screen without loading the page anew. */
export function Link({ href, ...rest }: AnchorHTMLAttributes<HTMLAnchorElement> & { href: string }) {
  function follow(event: MouseEvent) {
    if (event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    go(href);
  }
  return <a href={href} onClick={follow} {...rest} />;
}
