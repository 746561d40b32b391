/** Light or dark: as the machine has it, unless the reader has chosen. */

export type Theme = "system" | "light" | "dark";
const SLOT = "escrowgrid.theme";

export function theme(): Theme {
  try {
    const kept = localStorage.getItem(SLOT);
    return kept === "light" || kept === "dark" ? kept : "system";
  } catch {
    return "system";
  }
}

export function applyTheme(chosen: Theme = theme()): void {
  document.documentElement.dataset.theme = chosen;
  try {
    localStorage.setItem(SLOT, chosen);
  } catch {
    // Storage can be switched off; the choice then lasts until the next reload.
  }
}
