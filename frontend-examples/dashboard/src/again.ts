/** What could not be read is read again: at once when the connection is back, and then every few seconds. */
import { useEffect, useRef } from "react";
import { useFeed } from "./session";

const AGAIN_MS = 3_000;

/** `isCutOff`: the last reading did not get through. What the server refused is not asked for again. */
export function useAgain(again: () => void, isCutOff: boolean): void {
  const { standing } = useFeed();
  const read = useRef(again);
  read.current = again;

  useEffect(() => {
    if (!isCutOff || standing !== "live") return;
    read.current();
    const timer = setInterval(() => read.current(), AGAIN_MS);
    return () => clearInterval(timer);
  }, [isCutOff, standing]);
}
