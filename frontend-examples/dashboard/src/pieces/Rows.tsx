import { type KeyboardEvent, type ReactNode, useEffect, useLayoutEffect, useRef, useState } from "react";

const AHEAD = 12;
const END_PIXELS = 1_600;

interface Props {
  label: string;
  /** What each row is, to tell it apart; rows that come in on top do not move what is being read. */
  keys: readonly string[];
  rowHeight: number;
  head: ReactNode;
  render(index: number): ReactNode;
  onEnd?: () => void;
  total?: number;
  /** How far down it begins, in pixels. */
  start?: number;
  onScroll?: (top: number) => void;
}

/** A long table of which only what can be seen is there. Arrow keys walk its rows. */
export function Rows({ label, keys, rowHeight, head, render, onEnd, total, start = 0, onScroll }: Props) {
  const scroller = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: start, height: 800 });
  const first = useRef<string | undefined>(keys[0]);

  const told = useRef(onScroll);
  told.current = onScroll;
  useLayoutEffect(() => {
    scroller.current!.scrollTop = start;
  }, []);

  useEffect(() => {
    const element = scroller.current!;
    const measure = () => {
      setView({ top: element.scrollTop, height: element.clientHeight });
      told.current?.(element.scrollTop);
    };
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    element.addEventListener("scroll", measure, { passive: true });
    return () => {
      observer.disconnect();
      element.removeEventListener("scroll", measure);
    };
  }, []);

  useLayoutEffect(() => {
    const added = first.current === undefined ? 0 : keys.indexOf(first.current);
    first.current = keys[0];
    const element = scroller.current!;
    if (added > 0 && element.scrollTop > rowHeight / 2) element.scrollTop += added * rowHeight;
  }, [keys, rowHeight]);

  const from = Math.max(0, Math.floor(view.top / rowHeight) - AHEAD);
  const to = Math.min(keys.length, Math.ceil((view.top + view.height) / rowHeight) + AHEAD);
  const isNearEnd = keys.length * rowHeight - view.top - view.height < END_PIXELS;
  useEffect(() => {
    if (isNearEnd) onEnd?.();
  }, [isNearEnd, keys.length, onEnd]);

  function walk(event: KeyboardEvent) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const row = (event.target as HTMLElement).closest<HTMLElement>("[data-index]");
    if (!step || !row) return;
    const next = scroller.current!.querySelector<HTMLElement>(`[data-index="${Number(row.dataset.index) + step}"] a`);
    if (!next) return;
    event.preventDefault();
    next.focus();
  }

  return (
    <div className="rows" role="table" aria-label={label} aria-rowcount={(total ?? keys.length) + 1}>
      <div className="rows-head" role="rowgroup">
        {head}
      </div>
      {/* It scrolls by keyboard, so it can be focused; its rows stay a rowgroup for whoever listens. */}
      <div className="rows-body" role="rowgroup" ref={scroller} tabIndex={0} onKeyDown={walk}>
        <div className="rows-whole" role="presentation" style={{ height: keys.length * rowHeight }}>
          {keys.slice(from, to).map((key, place) => (
            <div
              key={key}
              role="row"
              className="row"
              aria-rowindex={from + place + 2}
              data-index={from + place}
              style={{ height: rowHeight, transform: `translateY(${(from + place) * rowHeight}px)` }}
            >
              {render(from + place)}
            </div>
          ))}
        </div>
      </div>
    </div>
  );
}
