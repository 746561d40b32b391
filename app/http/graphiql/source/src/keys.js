// The API key lives in sessionStorage: it survives a reload, ends with the tab, and is never in a URL.

const SLOT = "escrowgrid.key";

/** The key to start with: the one of this tab, else the first one that a development server offers. */
export function first(offered) {
  const stored = read();
  if (!stored) return offered[0] ?? null;
  // A development server makes new keys at each start: the label outlives the key.
  return offered.find((key) => key.label === stored.label) ?? stored;
}

export function keep(entry) {
  try {
    if (entry) sessionStorage.setItem(SLOT, JSON.stringify(entry));
    else sessionStorage.removeItem(SLOT);
  } catch {
    // Storage can be switched off in the browser; the key then lasts until the next reload.
  }
}

function read() {
  try {
    const entry = JSON.parse(sessionStorage.getItem(SLOT));
    return typeof entry?.key === "string" ? entry : null;
  } catch {
    return null;
  }
}
