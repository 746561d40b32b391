import { advice, reason } from "../words";

export interface Refusal {
  code: string;
  message: string;
  field: string | null;
}

/** What was refused and why, in words. */
export function Refusals({ of }: { of: readonly Refusal[] }) {
  return (
    <div role="alert" className="refusals">
      {of.map((refusal) => (
        <p key={`${refusal.code}${refusal.field}${refusal.message}`}>
          <strong>Refused: {reason(refusal)}</strong> {advice(refusal.code)}
        </p>
      ))}
    </div>
  );
}
