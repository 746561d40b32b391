import { isZero, parts } from "../money";

interface Props {
  of: string;
  currency?: string;
  signed?: boolean;
}

/** An exact amount, its fraction quieter than its whole. */
export function Amount({ of, currency, signed }: Props) {
  const { sign, whole, fraction } = parts(of);
  return (
    <span className={isZero(of) ? "amount is-zero" : "amount"}>
      {sign || (signed && !isZero(of) ? "+" : "")}
      {whole}
      {fraction && <span className="fraction">.{fraction}</span>}
      {currency && <span className="currency">{` ${currency}`}</span>}
    </span>
  );
}
