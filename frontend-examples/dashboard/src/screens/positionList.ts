/** The list of positions: read as far as one scrolls, kept up to date by what happens, and found again by going back. */
import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import { useClient } from "urql";
import { useAgain } from "../again";
import type { Line } from "../feed";
import {
  type PositionOrder,
  type PositionState,
  type PositionWhere,
  PositionsDocument,
  type RowFragment,
} from "../generated";
import { entry } from "../route";
import { type Link, words } from "../server";
import { useFeed, useScope, useSession } from "../session";

const KEPT_MAX = 20;

function whereOf(search: URLSearchParams, scope: PositionWhere): PositionWhere {
  const states = search.getAll("state") as PositionState[];
  const currency = search.get("currency");
  const holder = search.get("holder");
  return {
    ...scope,
    ...(states.length && { state: { in: states } }),
    ...(currency && { currency: { eq: currency } }),
    ...(holder && { holderReference: { eq: holder } }),
  };
}

interface ListState {
  /** What the rows are an answer to. */
  question: string;
  rows: RowFragment[];
  total: number | null;
  next: string | null;
  trouble: string | null;
  /** Whether that was no answer at all. */
  isCutOff: boolean;
}

const EMPTY: ListState = { question: "", rows: [], total: null, next: null, trouble: null, isCutOff: false };

/** A list that was left: what of it was read, and where one was in it. */
interface Kept {
  link: Link;
  state: ListState;
  begun: number;
  top: number;
}

// By the entry of the history: a list that is asked for anew is read anew.
const kept = new Map<string, Kept>();

function keep(name: string, left: Kept) {
  kept.delete(name);
  kept.set(name, left);
  for (const oldest of [...kept.keys()].slice(0, -KEPT_MAX)) kept.delete(oldest);
}

/** The rows that were read so far, with what has happened to them since. */
export function useList(search: URLSearchParams) {
  const client = useClient();
  const scope = useScope();
  const { institution, link } = useSession();
  const { events, received } = useFeed();
  const question = `${institution ?? ""}?${search}`;
  const [name] = useState(entry);
  const [found, setFound] = useState(() => {
    const left = kept.get(name);
    // What happened since has to be known whole, or its rows are old.
    const isKnown = left?.link === link && received - left.begun <= events.length;
    return isKnown && left.state.question === question ? left : null;
  });
  const [state, setState] = useState<ListState>(found?.state ?? EMPTY);
  const [round, setRound] = useState(0);
  const turn = useRef(0);
  const isReading = useRef(false);
  const begun = useRef(found?.begun ?? 0);
  const top = useRef(found?.top ?? 0);

  const read = useCallback(
    async (after: string | null) => {
      const mine = turn.current;
      isReading.current = true;
      const [field, direction] = (search.get("sort") ?? "CREATED.DESC").split(".");
      const orderBy = { field, direction } as PositionOrder;
      const variables = { where: whereOf(search, scope), orderBy, after, counted: after === null };
      const { data, error } = await client.query(PositionsDocument, variables).toPromise();
      if (mine !== turn.current) return;
      isReading.current = false;
      if (!data) {
        const trouble = error ? words(error) : null;
        const isCutOff = error?.networkError !== undefined;
        // The rows of another question are no answer to this one.
        return setState((now) => ({ ...(after === null ? EMPTY : now), trouble, isCutOff }));
      }
      const { edges, pageInfo, totalCount } = data.positions;
      setState((now) => ({
        question,
        rows: [...(after === null ? [] : now.rows), ...edges.map(({ node }) => node)],
        total: totalCount ?? now.total,
        next: pageInfo.hasNextPage ? (pageInfo.endCursor ?? null) : null,
        trouble: null,
        isCutOff: false,
      }));
    },
    [client, question],
  );

  const isThere = useRef(found !== null);
  useEffect(() => {
    if (isThere.current) {
      isThere.current = false;
      return;
    }
    setFound(null);
    turn.current += 1;
    begun.current = received;
    setState((now) => ({ ...now, question: "", next: null }));
    void read(null);
  }, [read, round]);

  const latest = useRef(state);
  latest.current = state;
  useEffect(
    () => () => keep(name, { link, state: latest.current, begun: begun.current, top: top.current }),
    [name, link],
  );

  const more = useCallback(() => {
    if (state.next !== null && !isReading.current) void read(state.next);
  }, [state.next, read]);
  const again = () => setRound((now) => now + 1);
  useAgain(state.next === null ? again : more, state.isCutOff);

  const rows = useMemo(() => brought(state.rows, events), [state.rows, events]);
  const since = events.slice(0, Math.max(0, received - begun.current));
  const opened = new Set(since.filter((line) => isWanted(line, search, institution)).map((line) => line.positionId));
  for (const { id } of state.rows) opened.delete(id);
  return {
    ...state,
    rows,
    more,
    added: opened.size,
    again,
    start: found?.state.question === question ? found.top : 0,
    keepPlace: (place: number) => void (top.current = place),
  };
}

function isWanted(line: Line, search: URLSearchParams, institution: string | null): boolean {
  const states = search.getAll("state");
  const currency = search.get("currency");
  return (
    line.kind === "POSITION_CREATED" &&
    (!institution || line.institutionId === institution) &&
    (states.length === 0 || states.includes("CREATED")) &&
    (!currency || currency === line.currency) &&
    !search.get("holder")
  );
}

/** The rows with what has happened since they were read. */
function brought(rows: RowFragment[], events: readonly Line[]): RowFragment[] {
  const newest = new Map<string, Line>();
  for (const line of events) if (!newest.has(line.positionId)) newest.set(line.positionId, line);
  return rows.map((row) => {
    const line = newest.get(row.id);
    if (!line || line.positionVersion <= row.version) return row;
    return {
      ...row,
      ...line.balancesAfter,
      version: line.positionVersion,
      state: line.newState as PositionState,
    };
  });
}
