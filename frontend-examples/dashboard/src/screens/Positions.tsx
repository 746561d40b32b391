import { useEffect, useMemo, useState } from "react";
import type { RowFragment } from "../generated";
import { Amount } from "../pieces/Amount";
import { MoneyBar } from "../pieces/MoneyBar";
import { Rows } from "../pieces/Rows";
import { State } from "../pieces/State";
import { useWide } from "../pieces/useWide";
import { Link, go, usePlace } from "../route";
import { useSession } from "../session";
import { day } from "../time";
import { STATES, plain } from "../words";
import { useList } from "./positionList";

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
          {trouble ?? (total === null ? " " : said(total, search.get("holder")))}
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
        start={list.start}
        onScroll={list.keepPlace}
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

/** Holders are known by their whole reference alone: whoever typed a part of one is told. */
function said(total: number, holder: string | null): string {
  const count = `${total.toLocaleString("en-GB")} ${total === 1 ? "position" : "positions"}`;
  return total === 0 && holder ? `${count}: it takes the holder's whole reference, letter by letter` : count;
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
