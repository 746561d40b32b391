/** Instants as people read them, in the time zone of the reader. */

export const TIME_ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone;

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });
const SHORT_DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const DAY_MS = 86_400_000;

export const clock = (instant: string | Date): string => CLOCK.format(new Date(instant));
export const day = (instant: string | Date): string => DAY.format(new Date(instant));
export const shortDay = (instant: string | Date): string => SHORT_DAY.format(new Date(instant));
export const moment = (instant: string | Date): string => `${day(instant)}, ${clock(instant)}`;

/** The last days up to today as YYYY-MM-DD, in the reader's time zone. */
export function lastDays(count: number): string[] {
  const spelled = new Intl.DateTimeFormat("en-CA", { year: "numeric", month: "2-digit", day: "2-digit" });
  return Array.from({ length: count }, (_, back) => spelled.format(Date.now() - (count - 1 - back) * DAY_MS));
}

/** How far off a deadline is, in words. */
export function until(instant: string): string {
  const days = (new Date(instant).getTime() - Date.now()) / DAY_MS;
  if (days < 0) return "passed";
  if (days < 1) return "today";
  return days < 2 ? "in a day" : `in ${Math.floor(days)} days`;
}
