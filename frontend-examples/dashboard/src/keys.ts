/** The API key lives in sessionStorage: it survives a reload, ends with the tab, and is never in a URL. */

const SLOT = "escrowgrid.key"; // GraphiQL reads the same one

export interface Entry {
  key: string;
  label?: string;
}

/** The keys that a development server offers; every other server has none to offer. */
export async function offered(): Promise<Entry[]> {
  const response = await fetch("/graphiql/config.json").catch(() => null);
  return response?.ok ? (await response.json()).developmentKeys : [];
}

/** The key to start with: the one of this tab, else the first that is offered. */
export function first(offers: Entry[]): Entry | null {
  const stored = read();
  if (!stored) return offers[0] ?? null;
  // A development server makes new keys at each start: the label outlives the key.
  return offers.find(({ label }) => label === stored.label) ?? stored;
}

export function keep(entry: Entry | null): void {
  try {
    if (entry) sessionStorage.setItem(SLOT, JSON.stringify(entry));
    else sessionStorage.removeItem(SLOT);
  } catch {
    // Storage can be switched off in the browser; the key then lasts until the next reload.
  }
}

function read(): Entry | null {
  try {
    const entry = JSON.parse(sessionStorage.getItem(SLOT) ?? "null");
    return typeof entry?.key === "string" ? entry : null;
  } catch {
    return null;
  }
}
