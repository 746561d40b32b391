import type { ReactNode } from "react";
import type { AnchoringFragment, HappeningFragment, PositionQuery } from "../generated";
import { Amount } from "../pieces/Amount";
import { MoneyBar } from "../pieces/MoneyBar";
import { State } from "../pieces/State";
import { moment } from "../time";
import { account, actor } from "../words";
import { Anchored } from "./Anchored";

interface Props {
  events: HappeningFragment[];
  total: number;
  amount: string;
  /** None where nothing is anchored: then nothing is said of it. */
  chains: PositionQuery["anchorChains"];
  news: ReadonlyMap<string, AnchoringFragment>;
}

/** Everything that happened to a position, the newest first. */
export function Timeline({ events, total, amount, chains, news }: Props) {
  const trouble = chains.find(({ failure }) => failure)?.failure;
  return (
    <section aria-labelledby="timeline">
      <h2 id="timeline">What happened</h2>
      {total > events.length && (
        <p className="note">
          The last {events.length} of {total} events.
        </p>
      )}
      {trouble && <p className="note">Nothing is anchored at present: {trouble}.</p>}
      <ol className="timeline" reversed>
        {events.toReversed().map((event) => (
          <Happening key={event.id} event={event} amount={amount}>
            {chains.length > 0 && (
              <Anchored event={event} anchor={event.anchor && (news.get(event.anchor.id) ?? event.anchor)} />
            )}
          </Happening>
        ))}
      </ol>
    </section>
  );
}

interface HappeningProps {
  event: HappeningFragment;
  amount: string;
  children: ReactNode;
}

function Happening({ event, amount, children }: HappeningProps) {
  const { balancesAfter, currency, moneyEffect } = event;
  return (
    <li data-event={event.id}>
      <div className="happening">
        <State state={event.newState as Parameters<typeof State>[0]["state"]} />
        <span className={`moved is-${moneyEffect}`}>
          {moneyEffect === "NONE" ? (
            <span className="note">no money moved</span>
          ) : (
            <>
              <Amount of={event.amountMoved} currency={currency} />
              <span className="note">{{ FUND: "came in", RELEASE: "released", REFUND: "refunded" }[moneyEffect]}</span>
            </>
          )}
        </span>
        <span className="after">
          <MoneyBar money={{ ...balancesAfter, amount }} currency={currency} />
          <span className="note">
            <Amount of={balancesAfter.held} currency={currency} /> held after
          </span>
        </span>
        <span className="when">
          <time dateTime={event.recordedAt}>{moment(event.recordedAt)}</time>
          <span className="note">by {actor(event.actor)}</span>
        </span>
      </div>
      {event.reason && <p className="reason">{event.reason}</p>}
      {children}
      <details>
        <summary>
          Postings and hash<span className="unseen"> of version {event.positionVersion}</span>
        </summary>
        {event.postings.length > 0 && (
          <table className="postings">
            <thead>
              <tr>
                <th scope="col">Account</th>
                <th scope="col" className="number">
                  Amount
                </th>
              </tr>
            </thead>
            <tbody>
              {event.postings.map((posting) => (
                <tr key={posting.account}>
                  <td>
                    {account(posting.account)} <code>{posting.account}</code>
                  </td>
                  <td className="number">
                    <Amount of={posting.amount} currency={posting.currency} signed />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
        <dl className="proof">
          <dt>Actor</dt>
          <dd>
            <code>{event.actor.id}</code>
          </dd>
          <dt>Sequence</dt>
          <dd>{event.sequence}</dd>
          <dt>Business time</dt>
          <dd>{moment(event.occurredAt)}</dd>
          <dt>Event</dt>
          <dd>
            <code>{event.id}</code>
          </dd>
          <dt>Hash</dt>
          <dd>
            <code>{event.hash}</code>
          </dd>
        </dl>
      </details>
    </li>
  );
}
