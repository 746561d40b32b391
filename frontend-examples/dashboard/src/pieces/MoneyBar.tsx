import { share, spell } from "../money";

export interface Money {
  amount: string;
  funded: string;
  released: string;
  refunded: string;
  held: string;
}

/** What was agreed on as a line; what is held, released and refunded of it as its parts. */
export function MoneyBar({ money, currency }: { money: Money; currency: string }) {
  const { amount, released, refunded, held } = money;
  const said = [
    ["held", held],
    ["released", released],
    ["refunded", refunded],
  ] as const;
  return (
    <span
      className="money-bar"
      role="img"
      aria-label={said.map(([name, value]) => `${spell(value)} ${currency} ${name}`).join(", ")}
    >
      {[said[1], said[0], said[2]].map(([name, value]) => (
        <span key={name} className={`is-${name}`} style={{ width: `${share(value, amount) * 100}%` }} />
      ))}
    </span>
  );
}
