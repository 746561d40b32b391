import { useCallback, useEffect, useMemo, useState } from "react";
import { useQuery } from "urql";
import { useAgain } from "../again";
import { useAnchorNews } from "../anchors";
import { type MoveMutation, PositionDocument, type PositionQuery } from "../generated";
import { Amount } from "../pieces/Amount";
import { Lifecycle } from "../pieces/Lifecycle";
import { MoneyBar } from "../pieces/MoneyBar";
import { State } from "../pieces/State";
import { Link } from "../route";
import { words } from "../server";
import { useFeed } from "../session";
import { day, moment, until } from "../time";
import { Moves } from "./Moves";
import { Timeline } from "./Timeline";

export type Whole = NonNullable<PositionQuery["position"]>;
export type Moved = NonNullable<MoveMutation["transitionPosition"]["position"]>;

/** One position: its money, where it is, what may be done, and everything that happened to it. */
export function Position({ id }: { id: string }) {
  const [{ data, error }, ask] = useQuery({ query: PositionDocument, variables: { id } });
  useAgain(() => ask({ requestPolicy: "network-only" }), error?.networkError !== undefined);
  const [moved, setMoved] = useState<Moved | null>(null);
  const { events } = useFeed();
  const look = useCallback(() => ask({ requestPolicy: "network-only" }), [ask]);

  const read = data?.position;
  const position = read && moved && moved.version > read.version ? { ...read, ...moved } : read;
  const newest = events.find(({ positionId }) => positionId === id)?.positionVersion ?? 0;
  const shown = position?.version ?? 0;
  useEffect(() => {
    if (shown && newest > shown) look();
  }, [newest, shown, look]);

  if (error && !data) return <Missing words={words(error)} />;
  if (!data) return <div className="screen is-loading" aria-busy="true" />;
  if (!position) return <Missing words="There is no such position, or this key does not see it." />;
  return <Shown position={position} chains={data.anchorChains} onMoved={setMoved} onLook={look} />;
}

function Missing({ words: said }: { words: string }) {
  return (
    <div className="screen">
      <h1>Position</h1>
      <p role="alert">{said}</p>
      <p>
        <Link href="/positions">All positions</Link>
      </p>
    </div>
  );
}

interface ShownProps {
  position: Whole;
  chains: PositionQuery["anchorChains"];
  onMoved(position: Moved): void;
  onLook(): void;
}

function Shown({ position, chains, onMoved, onLook }: ShownProps) {
  const { asset, currency, lifecycle } = position;
  const events = position.events.edges.map(({ node }) => node);
  const news = useAnchorNews(chains.length > 0, () => {
    if (events.some(({ anchor }) => anchor?.state !== "FINAL")) onLook();
  });
  // Another anchor was made: it may cover what had none, or one that was given up.
  useEffect(() => {
    const isOpen = ({ anchor }: (typeof events)[number]) =>
      !anchor || (news.get(anchor.id) ?? anchor).state === "SUPERSEDED";
    if (news.size > 0 && events.some(isOpen)) onLook();
  }, [news.size]);
  const walked = useMemo(
    () => new Set(events.filter((event) => event.previousStage).map((e) => `${e.previousStage}>${e.newStage}`)),
    [position.version],
  );
  return (
    <div className="screen position">
      <p className="crumbs">
        <Link href="/positions">Positions</Link>
        {position.institution && <span>{position.institution.name}</span>}
        {asset && <span>{asset.template.name}</span>}
      </p>
      <div className="position-head">
        <div>
          <h1>{position.holderReference ?? "Holder erased"}</h1>
          <p className="lede">
            {asset?.label}
            {position.externalReference && <span className="reference">{position.externalReference}</span>}
          </p>
        </div>
        <State state={position.state} />
      </div>

      <section aria-label="Money" className="sheet money">
        <dl>
          <Figure name="Held" value={position.held} currency={currency} isMain />
          <Figure name="Released" value={position.released} currency={currency} />
          <Figure name="Refunded" value={position.refunded} currency={currency} />
          <Figure name="Agreed" value={position.amount} currency={currency} />
        </dl>
        <MoneyBar money={position} currency={currency} />
        <p className="facts">
          <span>Opened {day(position.createdAt)}</span>
          {position.expiresAt && !position.closedAt && (
            <span>
              Expires {day(position.expiresAt)}, {until(position.expiresAt)}
            </span>
          )}
          {position.closedAt && <span>Closed {moment(position.closedAt)}</span>}
          <span>Version {position.version}</span>
          <code>{position.id}</code>
        </p>
      </section>

      <section aria-labelledby="way">
        <h2 id="way">Where it is</h2>
        <Lifecycle definition={lifecycle} stage={position.stage} walked={walked} />
      </section>

      <Moves position={position} onMoved={onMoved} onLook={onLook} />
      <Timeline
        events={events}
        total={position.events.totalCount}
        amount={position.amount}
        chains={chains}
        news={news}
      />
    </div>
  );
}

interface FigureProps {
  name: string;
  value: string;
  currency: string;
  isMain?: boolean;
}

function Figure({ name, value, currency, isMain }: FigureProps) {
  return (
    <div className={`figure is-${name.toLowerCase()}${isMain ? " is-main" : ""}`}>
      <dt>{name}</dt>
      <dd>
        <Amount of={value} currency={currency} />
      </dd>
    </div>
  );
}
