import { useEffect, useMemo, useState } from "react";
import { useQuery } from "urql";
import { useAgain } from "../again";
import { PortfolioDocument, type PortfolioQuery } from "../generated";
import { Amount } from "../pieces/Amount";
import { Days } from "../pieces/Days";
import { HeldChart } from "../pieces/HeldChart";
import { MoneyBar } from "../pieces/MoneyBar";
import { State } from "../pieces/State";
import { add } from "../money";
import { Link } from "../route";
import { words } from "../server";
import { useFeed, useScope, useSession } from "../session";
import { TIME_ZONE } from "../time";
import { STATES } from "../words";
import { LineRow } from "./LineRow";

// What is shown is read anew at most this often while things happen.
const LOOK_MS = 2_000;
const NEWEST = 8;

type Group = PortfolioQuery["byState"][number];

/** All that is held: by currency, by state, by day, and what is happening just now. */
export function Portfolio() {
  const scope = useScope();
  const { institution, institutions } = useSession();
  const { events } = useFeed();
  const [{ data, error }, ask] = useQuery({
    query: PortfolioDocument,
    variables: useMemo(() => ({ where: scope, events: scope, timeZone: TIME_ZONE }), [institution]),
  });
  useAgain(() => ask({ requestPolicy: "network-only" }), error?.networkError !== undefined);
  const newest = events[0]?.id;
  const [wanted, setWanted] = useState(newest);
  useEffect(() => {
    if (newest === wanted) return;
    const timer = setTimeout(() => {
      setWanted(newest);
      ask({ requestPolicy: "network-only" });
    }, LOOK_MS);
    return () => clearTimeout(timer);
  }, [wanted === newest, wanted, ask]);

  const currencies = useMemo(() => totals(data?.byState ?? []), [data]);
  const name = institutions.find(({ id }) => id === institution)?.name;
  const shown = events.filter((line) => !institution || line.institutionId === institution).slice(0, NEWEST);
  if (!data) {
    // All of it comes at once, so that nothing is pushed down by what comes later.
    return (
      <div className="screen portfolio" aria-busy={!error}>
        <h1>Held today</h1>
        <p className="lede" role="alert">
          {error && words(error)}
        </p>
      </div>
    );
  }
  return (
    <div className="screen portfolio">
      <h1>{name ? `Held by ${name}` : "Held today"}</h1>
      <p className="lede">As of event {data.ledgerHead.sequence} of the ledger.</p>

      <section aria-label="By currency" className="currencies">
        {currencies.length === 0 && <Nothing />}
        {currencies.map((total) => (
          <article key={total.currency} className="holding" data-currency={total.currency}>
            <h2>{total.currency}</h2>
            <p className="holding-held">
              <Amount of={total.held} />
            </p>
            <div className="holding-course">
              <HeldChart
                held={total.held}
                currency={total.currency}
                moves={data.ledgerEvents.edges.map(({ node }) => node)}
              />
            </div>
            <div className="holding-parts">
              <MoneyBar money={{ ...total, amount: total.funded }} currency={total.currency} />
              <p>
                <span className="is-released">
                  <Amount of={total.released} /> released
                </span>
                <span className="is-refunded">
                  <Amount of={total.refunded} /> refunded
                </span>
                <span className="note">
                  of <Amount of={total.funded} /> that came in
                </span>
              </p>
            </div>
          </article>
        ))}
      </section>

      <div className="pair">
        <section aria-labelledby="by-state">
          <h2 id="by-state">By state</h2>
          <p className="note">What was agreed on, and for how many positions.</p>
          <ByState groups={data.byState} currencies={currencies.map(({ currency }) => currency)} />
        </section>
        <section aria-labelledby="by-day">
          <h2 id="by-day">Opened by day</h2>
          <Days groups={data.byDay} currencies={currencies.map(({ currency }) => currency)} />
        </section>
      </div>

      <section aria-labelledby="now">
        <div className="heading">
          <h2 id="now">Just now</h2>
          <Link href="/live">Follow live</Link>
        </div>
        <ol className="newest">
          {/* By place: what is shown in a line changes, the lines stay where they are. */}
          {shown.map((line, place) => (
            <li key={place}>
              <LineRow line={line} />
            </li>
          ))}
        </ol>
      </section>
    </div>
  );
}

function Nothing() {
  return (
    <p className="nothing">
      Nothing is held yet. Positions are opened through the API: <a href="/graphql">GraphiQL</a> has an example.
    </p>
  );
}

interface Total {
  currency: string;
  amount: string;
  funded: string;
  released: string;
  refunded: string;
  held: string;
}

/** The groups of each currency as one; currencies are never added to each other. */
function totals(groups: Group[]): Total[] {
  const found = new Map<string, Total>();
  for (const group of groups) {
    const before = found.get(group.currency);
    const names = ["amount", "funded", "released", "refunded", "held"] as const;
    const sums = names.map((name) => [name, before ? add(before[name], group[name]) : group[name]]);
    found.set(group.currency, { currency: group.currency, ...Object.fromEntries(sums) } as Total);
  }
  return [...found.values()].sort((one, other) => one.currency.localeCompare(other.currency));
}

function ByState({ groups, currencies }: { groups: Group[]; currencies: string[] }) {
  const of = (state: string, currency: string) =>
    groups.find((group) => group.state === state && group.currency === currency);
  return (
    <div className="wide-table" tabIndex={0} role="group" aria-label="Positions by state and currency">
      <table className="by-state">
        <thead>
          <tr>
            <th scope="col">State</th>
            {currencies.map((currency) => (
              <th key={currency} scope="col" className="number">
                {currency}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {STATES.map((state) => (
            <tr key={state}>
              <th scope="row">
                <Link href={`/positions?state=${state}`}>
                  <State state={state} />
                </Link>
              </th>
              {currencies.map((currency) => {
                const group = of(state, currency);
                return (
                  <td key={currency} className="number">
                    {group ? (
                      <Link href={`/positions?state=${state}&currency=${currency}`}>
                        <Amount of={group.amount} />
                        <span className="count">
                          {group.count}
                          <span className="unseen"> positions</span>
                        </span>
                      </Link>
                    ) : (
                      <span className="none">
                        <span aria-hidden="true">–</span>
                        <span className="unseen">none</span>
                      </span>
                    )}
                  </td>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
