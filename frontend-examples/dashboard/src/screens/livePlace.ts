/** Where one was in the live feed: found again by going back, whatever has come in on top meanwhile. */
import { useEffect, useRef, useState } from "react";
import type { FeedState } from "../feed";
import { entry } from "../route";
import type { Link } from "../server";
import { useSession } from "../session";

const KEPT_MAX = 20;

interface Place {
  /** The first row that was seen; null for the newest, whichever that is. */
  key: string | null;
  /** How many pixels of it were not. */
  cut: number;
}

interface Kept {
  link: Link;
  place: Place;
  /** What was shown, if it held still. */
  held: FeedState | null;
}

// By the entry of the history: who comes by a link begins with the newest.
const kept = new Map<string, Kept>();

/** What was kept of this entry, and what is to be kept of it when one leaves. */
export function useLeft(): { left: Kept | null; leaving: { held: FeedState | null; place: Place } } {
  const { link } = useSession();
  const [name] = useState(entry);
  const [left] = useState(() => {
    const found = kept.get(name);
    return found?.link === link ? found : null;
  });
  const leaving = useRef({ held: left?.held ?? null, place: left?.place ?? { key: null, cut: 0 } });
  useEffect(
    () => () => {
      kept.delete(name);
      kept.set(name, { link, ...leaving.current });
      for (const oldest of [...kept.keys()].slice(0, -KEPT_MAX)) kept.delete(oldest);
    },
    [name, link],
  );
  return { left, leaving: leaving.current };
}

/** How far down a place is, in pixels; what is no longer kept was further down than anything that is. */
export function topOf({ key, cut }: Place, keys: readonly string[], rowHeight: number): number {
  if (key === null) return 0;
  const index = keys.indexOf(key);
  return index < 0 ? keys.length * rowHeight : index * rowHeight + cut;
}

export function placeAt(top: number, keys: readonly string[], rowHeight: number): Place {
  const key = keys[Math.floor(top / rowHeight)] ?? null;
  return top < rowHeight / 2 || key === null ? { key: null, cut: 0 } : { key, cut: top % rowHeight };
}
