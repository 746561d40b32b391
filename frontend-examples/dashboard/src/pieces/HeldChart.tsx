import { useMemo } from "react";
import type { MoneyEffect } from "../generated";
import { add, spell, subtract } from "../money";
import { clock } from "../time";

const WIDTH = 320;
const HEIGHT = 56;

interface Move {
  moneyEffect: MoneyEffect;
  amountMoved: string;
  currency: string;
  recordedAt: string;
}

interface Props {
  held: string;
  currency: string;
  /** Newest first. */
  moves: Move[];
}

/** How what is held came to be what it is: from the sum of now, back through the last movements, exactly. */
export function HeldChart({ held, currency, moves }: Props) {
  const course = useMemo(() => courseOf(held, moves.filter((move) => move.currency === currency)), [
    held,
    currency,
    moves,
  ]);
  if (course.length < 2) return null;
  const highest = Math.max(...course.map(({ value }) => Number(value))) || 1;
  const x = (place: number) => (place / course.length) * WIDTH;
  const y = (value: string) => 2 + (1 - Number(value) / highest) * (HEIGHT - 4);
  const line = course.map(({ value }, place) => `${place ? "V" : "M0 "}${y(value)} H${x(place + 1)}`).join(" ");
  const begin = course[0]!;
  return (
    <svg
      className="held-chart"
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      preserveAspectRatio="none"
      role="img"
      aria-label={
        `Held in ${currency}: from ${spell(begin.value)} at ${clock(begin.at)} ` +
        `to ${spell(held)}, over ${course.length - 1} movements.`
      }
    >
      <path className="held-area" d={`${line} V${HEIGHT} H0 Z`} />
      <path className="held-line" d={line} vectorEffect="non-scaling-stroke" />
    </svg>
  );
}

function courseOf(held: string, moves: Move[]): { value: string; at: string }[] {
  const course = [{ value: held, at: moves[0]?.recordedAt ?? "" }];
  let value = held;
  for (const { moneyEffect, amountMoved, recordedAt } of moves) {
    if (moneyEffect === "NONE") continue;
    value = moneyEffect === "FUND" ? subtract(value, amountMoved) : add(value, amountMoved);
    course.push({ value, at: recordedAt });
  }
  return course.reverse();
}
