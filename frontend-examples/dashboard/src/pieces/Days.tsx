import { useState } from "react";
import { spell } from "../money";
import { lastDays, shortDay } from "../time";

const DAYS = 14;

interface Props {
  groups: { createdDay: string | null; currency: string; count: number; amount: string }[];
  currencies: string[];
}

/** What was agreed on each of the last days, in one currency at a time. */
export function Days({ groups, currencies }: Props) {
  const [chosen, choose] = useState<string | null>(null);
  const currency = chosen && currencies.includes(chosen) ? chosen : (currencies.at(-1) ?? "");
  const days = lastDays(DAYS).map((date) => ({
    date,
    group: groups.find((group) => group.createdDay === date && group.currency === currency),
  }));
  const highest = Math.max(1, ...days.map(({ group }) => Number(group?.amount ?? 0)));
  const opened = days.filter(({ group }) => group);
  return (
    <div className="days">
      <div className="choices" role="group" aria-label="Currency">
        {currencies.map((one) => (
          <button key={one} type="button" aria-pressed={one === currency} onClick={() => choose(one)}>
            {one}
          </button>
        ))}
      </div>
      <div
        className="days-chart"
        role="img"
        aria-label={
          opened.length
            ? `${currency} opened by day: ` +
              opened.map(({ date, group }) => `${shortDay(date)} ${spell(group!.amount)}`).join(", ")
            : `No positions in ${currency || "any currency"} were opened in the last ${DAYS} days`
        }
      >
        {days.map(({ date, group }) => (
          <span key={date} className="days-day" title={group && `${shortDay(date)}: ${spell(group.amount)} ${currency}`}>
            <span
              className={group ? "days-bar" : "days-bar is-empty"}
              style={{ height: `${group ? Math.max(2, (Number(group.amount) / highest) * 100) : 0}%` }}
            />
          </span>
        ))}
      </div>
      <p className="days-ends" aria-hidden="true">
        <span>{shortDay(days[0]!.date)}</span>
        <span>
          {opened.length > 0 && `${spell(opened.at(-1)!.group!.amount)} ${currency} on ${shortDay(opened.at(-1)!.date)}`}
        </span>
        <span>Today</span>
      </p>
    </div>
  );
}
