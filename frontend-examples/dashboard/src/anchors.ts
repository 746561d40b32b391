/** What became of anchors since they were read: whoever looks is told as it happens. */
import { useEffect, useRef, useState } from "react";
import { type AnchoringFragment, FollowAnchorsDocument, type FollowAnchorsSubscription } from "./generated";
import { useFeed, useSession } from "./session";

const NONE: ReadonlyMap<string, AnchoringFragment> = new Map();

/** How far each anchor that changed has come, by its id; `onMissed` when some may have changed untold. */
export function useAnchorNews(isAnchored: boolean, onMissed: () => void): ReadonlyMap<string, AnchoringFragment> {
  const { feed } = useSession();
  const { standing } = useFeed();
  const [news, setNews] = useState(NONE);
  const missed = useRef(onMissed);
  missed.current = onMissed;
  // The stream has no cursor. Its first message, a heartbeat at the latest, says that from then on nothing is missed.
  const isBehind = useRef(true);

  useEffect(() => {
    if (standing === "lost") isBehind.current = true;
  }, [standing]);

  useEffect(() => {
    if (!isAnchored) return;
    isBehind.current = true;
    return feed.watch<FollowAnchorsSubscription>(FollowAnchorsDocument, ({ anchorChanged: { anchor } }) => {
      if (isBehind.current) {
        isBehind.current = false;
        setNews(NONE);
        missed.current();
      }
      if (anchor) setNews((known) => new Map(known).set(anchor.id, anchor));
    });
  }, [feed, isAnchored]);

  return news;
}
