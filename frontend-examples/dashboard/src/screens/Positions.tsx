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
import { Amount } from "../pieces/Amount";
import { MoneyBar } from "../pieces/MoneyBar";
import { Rows } from "../pieces/Rows";
import { State } from "../pieces/State";
import { useWide } from "../pieces/useWide";
import { Link, go, usePlace } from "../route";
import { words } from "../server";
import { useFeed, useScope, useSession } from "../session";
import { day } from "../time";
import { STATES, plain } from "../words";

const ORDERS = [
  { value: "CREATED.DESC", name: "Newest first" },
  { value: "CREATED.ASC", name: "Oldest first" },
  { value: "AMOUNT.DESC", name: "Largest first" },
  { value: "AMOUNT.ASC", name: "Smallest first" },
  { value: "EXPIRES.ASC", name: "Expiring first" },
];

// What is typed is looked for once the typing rests.
const TYPING_MS = 250;

/** All positions, filtered and sorted by the server, as far as one scrolls. */
export function Positions() {
  const { search } = usePlace();
  const list = useList(search);
  const isWide = useWide();
  const keys = useMemo(() => list.rows.map(({ id }) => id), [list.rows]);
  const { total, trouble } = list;
  return (
    <div className="screen tall">
      <div className="heading">
        <h1>Positions</h1>
        <p className="note" role="status">
          {trouble ?? (total === null ? " " : `${total.toLocaleString("en-GB")} ${total === 1 ? "position" : "positions"}`)}
        </p>
        {/* It has its place when it is not there: nothing moves when it comes. */}
        {list.added > 0 && (
          <button type="button" onClick={list.again}>
            {list.added} opened since: show
          </button>
        )}
      </div>
      <Filters search={search} />
      <Rows
        key={search.toString()}
        label="Positions"
        keys={keys}
        total={total ?? undefined}
        rowHeight={isWide ? 52 : 84}
        onEnd={list.more}
        head={
          <div role="row" className="row position-row" aria-rowindex={1}>
            {["Holder", "Asset", "State", "Held", "Agreed", "Expires"].map((name) => (
              <span key={name} role="columnheader" className={`cell-${name.toLowerCase()}`}>
                {name}
              </span>
            ))}
          </div>
        }
        render={(index) => <PositionRow row={list.rows[index]!} />}
      />
    </div>
  );
}

function PositionRow({ row }: { row: RowFragment }) {
  return (
    <div className="position-row" role="presentation" data-position={row.id} data-version={row.version}>
      <span role="cell" className="cell-holder">
        <Link href={`/positions/${row.id}`}>{row.holderReference ?? "Holder erased"}</Link>
        {row.externalReference && <span className="note">{row.externalReference}</span>}
      </span>
      <span role="cell" className="cell-asset">
        {row.asset?.label}
        <span className="note">{row.asset?.template.name}</span>
      </span>
      <span role="cell" className="cell-state">
        <State state={row.state} />
      </span>
      <span role="cell" className="cell-held">
        <Amount of={row.held} currency={row.currency} />
        <MoneyBar money={row} currency={row.currency} />
      </span>
      <span role="cell" className="cell-agreed">
        <Amount of={row.amount} />
      </span>
      <span role="cell" className="cell-expires">
        {row.expiresAt ? day(row.expiresAt) : <span className="none">–</span>}
      </span>
    </div>
  );
}

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
  rows: RowFragment[];
  total: number | null;
  next: string | null;
  trouble: string | null;
  /** Whether that was no answer at all. */
  isCutOff: boolean;
}

const EMPTY: ListState = { rows: [], total: null, next: null, trouble: null, isCutOff: false };

/** The rows that were read so far, kept up to date by what happens. */
function useList(search: URLSearchParams) {
  const client = useClient();
  const scope = useScope();
  const { institution } = useSession();
  const { events, received } = useFeed();
  const [state, setState] = useState<ListState>(EMPTY);
  const [round, setRound] = useState(0);
  const turn = useRef(0);
  const isReading = useRef(false);
  const begun = useRef(0);
  const query = search.toString();

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
        return setState((now) => ({ ...(after === null ? EMPTY : now), next: null, trouble, isCutOff }));
      }
      const { edges, pageInfo, totalCount } = data.positions;
      setState((now) => ({
        rows: [...(after === null ? [] : now.rows), ...edges.map(({ node }) => node)],
        total: totalCount ?? now.total,
        next: pageInfo.hasNextPage ? (pageInfo.endCursor ?? null) : null,
        trouble: null,
        isCutOff: false,
      }));
    },
    [client, query, institution],
  );

  useEffect(() => {
    turn.current += 1;
    begun.current = received;
    setState((now) => ({ ...now, next: null }));
    void read(null);
  }, [read, round]);

  useAgain(() => setRound((now) => now + 1), state.isCutOff);

  const more = useCallback(() => {
    if (state.next !== null && !isReading.current) void read(state.next);
  }, [state.next, read]);

  const rows = useMemo(() => brought(state.rows, events), [state.rows, events]);
  const since = events.slice(0, Math.max(0, received - begun.current));
  const opened = new Set(since.filter((line) => isWanted(line, search, institution)).map((line) => line.positionId));
  for (const { id } of state.rows) opened.delete(id);
  return { ...state, rows, more, added: opened.size, again: () => setRound((now) => now + 1) };
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

function Filters({ search }: { search: URLSearchParams }) {
  const { viewer, institution } = useSession();
  const [holder, setHolder] = useState(search.get("holder") ?? "");
  const chosen = search.getAll("state");
  // Across institutions only the order of creation is served.
  const isEverywhere = viewer.institution === null && institution === null;
  const sort = search.get("sort") ?? "CREATED.DESC";

  useEffect(() => {
    if (isEverywhere && !sort.startsWith("CREATED")) change("sort", []);
  }, [isEverywhere, sort]);

  function change(name: string, values: string[]) {
    const next = new URLSearchParams(search);
    next.delete(name);
    for (const value of values) if (value) next.append(name, value);
    go(`/positions${next.size ? `?${next}` : ""}`, { replace: true });
  }

  const wanted = holder.trim();
  useEffect(() => {
    if (wanted === (search.get("holder") ?? "")) return;
    const timer = setTimeout(() => change("holder", [wanted]), TYPING_MS);
    return () => clearTimeout(timer);
  }, [wanted, search]);

  return (
    <div className="filters" role="search" aria-label="Positions">
      <div className="choices" role="group" aria-label="State">
        {STATES.map((state) => (
          <button
            key={state}
            type="button"
            aria-pressed={chosen.includes(state)}
            onClick={() =>
              change("state", chosen.includes(state) ? chosen.filter((one) => one !== state) : [...chosen, state])
            }
          >
            {plain(state)}
          </button>
        ))}
      </div>
      <div className="filters-fields">
        <input
          type="search"
          aria-label="Holder, in full"
          placeholder="Holder, in full"
          value={holder}
          onChange={({ target }) => setHolder(target.value)}
        />
        <input
          className="filters-currency"
          aria-label="Currency"
          placeholder="Currency"
          maxLength={5}
          defaultValue={search.get("currency") ?? ""}
          onChange={({ target }) => {
            const typed = target.value.trim().toUpperCase();
            if (typed === "" || typed.length >= 3) change("currency", [typed]);
          }}
        />
        <select aria-label="Order" value={sort} onChange={({ target }) => change("sort", [target.value])}>
          {ORDERS.map(({ value, name }) => (
            <option key={value} value={value} disabled={isEverywhere && !value.startsWith("CREATED")}>
              {name}
            </option>
          ))}
        </select>
        {isEverywhere && <span className="note">For other orders, choose an institution.</span>}
      </div>
    </div>
  );
}
