/** What the ledger's terms are called on the page. */
import type { MoneyEffect, PositionState } from "./generated";

export const STATES: PositionState[] = [
  "CREATED",
  "FUNDED",
  "PARTIALLY_RELEASED",
  "RELEASED",
  "CANCELLED",
  "EXPIRED",
];

/** CREATED becomes Created, PARTIALLY_RELEASED becomes Partially released. */
export function plain(term: string): string {
  const words = term.toLowerCase().replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

export const EFFECTS: Record<MoneyEffect, string> = {
  NONE: "No money moves",
  FUND: "Money comes in and is held",
  RELEASE: "Money goes to the beneficiary",
  REFUND: "Money goes back to the funder",
};

/** Why something was refused. Of a version people know no more than that what they looked at is old. */
export function reason({ code, message, field }: { code: string; message: string; field: string | null }): string {
  if (code === "VERSION_CONFLICT") return "somebody moved this position while you were looking.";
  return field ? `${field}: ${message}` : message;
}

/** What to do about a refusal, where the server's own words leave that open. */
export function advice(code: string): string {
  switch (code) {
    case "VERSION_CONFLICT":
      return "It is shown anew; look again before you go on.";
    case "POSITION_EXPIRED":
      return "Its deadline has passed: only its expiry is accepted now.";
    case "TRY_AGAIN":
      return "Nothing was changed. Try once more.";
    case "POLICY_REFUSED":
      return "The institution's policy for this region does not allow it.";
    default:
      return "Nothing was changed.";
  }
}

/** Accounts as postings name them, in words. */
export function account(name: string): string {
  if (name.startsWith("held:")) return "Held here";
  if (name === "clearing:in") return "Paid in";
  if (name === "clearing:out:beneficiary") return "Beneficiary";
  if (name === "clearing:out:funder") return "Funder";
  return name;
}

/** Who did it: a key by its role, the server's own parts by their name. */
export function actor({ id, role }: { id: string; role: string }): string {
  if (!id.startsWith("key_")) return id;
  const word = plain(role).toLowerCase();
  return /^[aeiou]/.test(word) ? `an ${word}` : `a ${word}`;
}
