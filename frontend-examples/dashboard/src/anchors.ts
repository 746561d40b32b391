/** What became of anchors since they were read: whoever looks is told as it happens. */
import { useEffect, useState } from "react";
import { type AnchoringFragment, FollowAnchorsDocument, type FollowAnchorsSubscription } from "./generated";
import { useFeed, useSession } from "./session";

const NONE: ReadonlyMap<string, AnchoringFragment> = new Map();

/** How far each anchor that changed has come, by its id; `onMissed` when the connection is back, and some may have. */
export function useAnchorNews(isAnchored: boolean, onMissed: () => void): ReadonlyMap<string, AnchoringFragment> {
  const { feed } = useSession();
  const { standing } = useFeed();
  const [news, setNews] = useState(NONE);
  const [isBehind, setBehind] = useState(false);

  useEffect(() => {
    if (!isAnchored) return;
    return feed.watch<FollowAnchorsSubscription>(FollowAnchorsDocument, ({ anchorChanged: { anchor } }) => {
      if (anchor) setNews((known) => new Map(known).set(anchor.id, anchor));
    });
  }, [feed, isAnchored]);

  useEffect(() => {
    if (standing === "lost") setBehind(true);
    else if (standing === "live" && isBehind) {
      setBehind(false);
      if (isAnchored) onMissed();
    }
  }, [standing, isBehind, isAnchored, onMissed]);

  return news;
}
