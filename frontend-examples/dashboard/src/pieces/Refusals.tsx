import { advice } from "../words";

export interface Refusal {
  code: string;
  message: string;
  field: string | null;
}

/** What was refused and why, in words. */
export function Refusals({ of }: { of: readonly Refusal[] }) {
  return (
    <div role="alert" className="refusals">
      {of.map(({ code, message, field }) => (
        <p key={`${code}${field}${message}`}>
          <strong>
            Refused: {field ? `${field}: ` : ""}
            {message}
          </strong>{" "}
          {advice(code)}
        </p>
      ))}
    </div>
  );
}
