/** Amounts are exact text, as the server tells them: never a floating number, except to draw a length. */

const PLAIN = /^(-?)(\d+)(?:\.(\d+))?$/;

/** An amount in its parts, the whole part grouped by thousands. */
export function parts(amount: string): { sign: string; whole: string; fraction: string } {
  const [, sign = "", whole = amount, fraction = ""] = PLAIN.exec(amount) ?? [];
  return { sign: sign && "−", whole: whole.replace(/\B(?=(\d{3})+$)/g, ","), fraction };
}

export function spell(amount: string): string {
  const { sign, whole, fraction } = parts(amount);
  return sign + whole + (fraction && `.${fraction}`);
}

function scaled(amount: string, digits: number): bigint {
  const [whole, fraction = ""] = amount.split(".");
  return BigInt(whole + fraction.padEnd(digits, "0"));
}

/** How many digits stand after the point, of the one that has most. */
export function digitsOf(...amounts: string[]): number {
  return Math.max(...amounts.map((amount) => amount.split(".")[1]?.length ?? 0));
}

function unscaled(value: bigint, digits: number): string {
  const text = (value < 0n ? -value : value).toString().padStart(digits + 1, "0");
  const whole = text.slice(0, text.length - digits);
  return (value < 0n ? "-" : "") + whole + (digits ? `.${text.slice(-digits)}` : "");
}

export function add(one: string, other: string): string {
  const digits = digitsOf(one, other);
  return unscaled(scaled(one, digits) + scaled(other, digits), digits);
}

export function subtract(one: string, other: string): string {
  const digits = digitsOf(one, other);
  return unscaled(scaled(one, digits) - scaled(other, digits), digits);
}

export function isZero(amount: string): boolean {
  return !/[1-9]/.test(amount);
}

export function isAmount(text: string): boolean {
  return /^\d+(\.\d+)?$/.test(text) && !isZero(text);
}

/** Less than nothing, for an amount that was taken too far. */
export function isNegative(amount: string): boolean {
  return amount.startsWith("-") && !isZero(amount);
}

/** How long a bar is; good for pictures and nothing else. */
export function share(part: string, whole: string): number {
  const of = Number(whole);
  return of > 0 ? Math.min(1, Math.max(0, Number(part) / of)) : 0;
}
