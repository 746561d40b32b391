import { useSyncExternalStore } from "react";

const WIDE = matchMedia("(min-width: 900px)");

function listen(changed: () => void): () => void {
  WIDE.addEventListener("change", changed);
  return () => WIDE.removeEventListener("change", changed);
}

/** Whether there is room for columns. */
export const useWide = (): boolean => useSyncExternalStore(listen, () => WIDE.matches);
