import { type ReactNode, useEffect, useMemo, useReducer, useState } from "react";
import { type FeedState, type Gap, type Line, orderOf } from "../feed";
import { Rows } from "../pieces/Rows";
import { useWide } from "../pieces/useWide";
import { useFeed, useSession } from "../session";
import { clock } from "../time";
import { LineRow } from "./LineRow";
import { placeAt, topOf, useLeft } from "./livePlace";

const MINUTE_MS = 60_000;
const COUNT_MS = 5_000;

type Shown =
  | { key: string; line: Line; isLate: boolean }
  | { key: string; gap: Gap; end: "lost" | "back"; late: number | null };

/** Everything that happens, as it happens. */
export function Live() {
  const feed = useFeed();
  const { institution } = useSession();
  const { left, leaving } = useLeft();
  const [held, setHeld] = useState<FeedState | null>(left?.held ?? null);
  leaving.held = held;
  const isWide = useWide();
  // The last minute goes on when nothing happens.
  const [, count] = useReducer((times: number) => times + 1, 0);
  useEffect(() => {
    const timer = setInterval(count, COUNT_MS);
    return () => clearInterval(timer);
  }, []);
  const all = (held ?? feed).events;
  const gaps = useMemo(() => {
    const late = new Map(feed.gaps.map((gap) => [gap.id, gap.late]));
    return held ? held.gaps.map((gap) => ({ ...gap, late: late.get(gap.id) ?? gap.late })) : feed.gaps;
  }, [feed.gaps, held]);
  const of = (lines: readonly Line[]) => lines.filter((line) => !institution || line.institutionId === institution);
  const events = useMemo(() => of(all), [all, institution]);
  // How far it has come, also while what is shown holds still: until it is level, nobody knows how much came in between.
  const newest = feed.events[0] ? orderOf(feed.events[0]) : 0;
  const shown = useMemo(
    () => arrange(events, gaps, newest, institution),
    [events, gaps, newest, institution],
  );
  const keys = useMemo(() => shown.map(({ key }) => key), [shown]);
  const rowHeight = isWide ? 44 : 76;
  const [start] = useState(() => (left ? topOf(left.place, keys, rowHeight) : 0));
  const waiting = held ? waitingSince(held, feed, institution === null ? null : of) : "";

  return (
    <div className="screen tall">
      <div className="heading">
        <h1>Live</h1>
        <p className="note">{held ? waiting : `${rateOf(events)} in the last minute`}</p>
        <button type="button" aria-pressed={held !== null} onClick={() => setHeld(held ? null : feed)}>
          {held ? "Go on" : "Hold still"}
        </button>
      </div>
      <p className="trouble" role="status">
        {feed.notice ??
          (feed.standing === "lost" ? "Connection lost. What happens meanwhile comes in when it is back." : "")}
      </p>
      <Rows
        label="Events of the ledger, newest first"
        keys={keys}
        rowHeight={rowHeight}
        start={start}
        onScroll={(top) => void (leaving.place = placeAt(top, keys, rowHeight))}
        head={
          <div role="row" className="row line is-head" aria-rowindex={1}>
            {["Time", "State", "Position", "Money", "Held after"].map((name) => (
              <span key={name} role="columnheader">
                {name}
              </span>
            ))}
          </div>
        }
        render={(index) => <ShownRow shown={shown[index]!} />}
      />
    </div>
  );
}

function ShownRow({ shown }: { shown: Shown }): ReactNode {
  if ("line" in shown) {
    return (
      <div role="presentation" className={shown.isLate ? "feed-row is-late" : "feed-row"}>
        <LineRow line={shown.line} role="cell" />
      </div>
    );
  }
  const { gap, end, late } = shown;
  return (
    <div role="cell" className={`gap is-${end}`} data-gap={end}>
      {end === "lost" ? `Connection lost at ${clock(gap.lostAt)}` : `Back at ${clock(gap.backAt!)}: ${between(late)}`}
    </div>
  );
}

function between(late: number | null): string {
  if (late === null) return "catching up with what came in between";
  return `${late === 0 ? "nothing" : late === 1 ? "1 event" : `${late} events`} came in between`;
}

/**
 * Events with the times without connection among them, newest first. Sequences have no gaps: they count all events that
 * the key sees, those that are no longer kept as well.
 */
function arrange(events: readonly Line[], gaps: readonly Gap[], newest: number, institution: string | null): Shown[] {
  const late = (line: Line) => gaps.some((gap) => isWithin(line, gap));
  const rows: Shown[] = events.map((line) => ({ key: line.id, line, isLate: late(line) }));
  for (const gap of gaps) {
    const lost = rows.findIndex((row) => "line" in row && orderOf(row.line) <= gap.after);
    rows.splice(lost < 0 ? rows.length : lost, 0, { key: `lost-${gap.id}`, gap, end: "lost", late: 0 });
    if (gap.through === null) continue;
    const back = rows.findIndex((row) => ("line" in row ? orderOf(row.line) <= gap.through! : row.gap === gap));
    const count = institution === null ? gap.through - gap.after : (gap.late.get(institution) ?? 0);
    rows.splice(back, 0, { key: `back-${gap.id}`, gap, end: "back", late: newest < gap.through ? null : count });
  }
  return rows;
}

const isWithin = (line: Line, { after, through }: Gap): boolean =>
  orderOf(line) > after && through !== null && orderOf(line) <= through;

/** How many came since it holds still; of those that are wanted no more are known than are kept. */
function waitingSince(held: FeedState, feed: FeedState, wanted: ((lines: readonly Line[]) => Line[]) | null): string {
  const since = feed.received - held.received;
  if (!wanted) return `${since} waiting`;
  const known = wanted(feed.events.slice(0, since)).length;
  return since <= feed.events.length ? `${known} waiting` : `${known} or more waiting`;
}

function rateOf(events: readonly Line[]): string {
  const since = Date.now() - MINUTE_MS;
  const old = events.findIndex(({ recordedAt }) => new Date(recordedAt).getTime() < since);
  const count = old < 0 ? events.length : old;
  return count === 1 ? "1 event" : `${count} events`;
}
