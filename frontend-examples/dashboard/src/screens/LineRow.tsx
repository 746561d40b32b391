import { Amount } from "../pieces/Amount";
import { State } from "../pieces/State";
import type { Line } from "../feed";
import { Link } from "../route";
import { clock } from "../time";

type Known = Parameters<typeof State>[0]["state"];

/** One event of the ledger as a line; its parts are cells where it is a row of a table. */
export function LineRow({ line, role }: { line: Line; role?: "cell" }) {
  const { moneyEffect, position } = line;
  return (
    <div className="line" role={role && "presentation"} data-event={line.id}>
      <span role={role} className="line-time">
        <time dateTime={line.recordedAt}>{clock(line.recordedAt)}</time>
      </span>
      <span role={role} className="line-state">
        <State state={line.newState as Known} />
      </span>
      <span role={role} className="line-position">
        <Link href={`/positions/${line.positionId}`}>{position?.holderReference ?? "Holder erased"}</Link>
        {position?.asset && <span className="note"> {position.asset.label}</span>}
      </span>
      <span role={role} className={`moved is-${moneyEffect}`}>
        {moneyEffect === "NONE" ? (
          <span className="none">
            <span aria-hidden="true">–</span>
            <span className="unseen">no money moved</span>
          </span>
        ) : (
          <Amount of={moneyEffect === "FUND" ? line.amountMoved : `-${line.amountMoved}`} currency={line.currency} signed />
        )}
      </span>
      <span role={role} className="line-held">
        <Amount of={line.balancesAfter.held} currency={line.currency} />
        <span className="note"> held</span>
      </span>
    </div>
  );
}
