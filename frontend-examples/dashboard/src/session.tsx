/** What every screen may reach: who asks, the link to the server, the live feed, and which institution is meant. */
import { createContext, useContext, useSyncExternalStore } from "react";
import type { Feed, FeedState } from "./feed";
import type { ViewerQuery } from "./generated";
import type { Link } from "./server";

export interface Session {
  viewer: ViewerQuery["viewer"];
  institutions: ViewerQuery["institutions"]["edges"][number]["node"][];
  link: Link;
  feed: Feed;
  /** The institution that lists are narrowed to; null for all that the key sees. */
  institution: string | null;
  choose(institution: string | null): void;
}

export const SessionContext = createContext<Session | null>(null);

export function useSession(): Session {
  const session = useContext(SessionContext);
  if (!session) throw new Error("screens are shown inside of a session");
  return session;
}

export function useFeed(): FeedState {
  const { feed } = useSession();
  return useSyncExternalStore(feed.subscribe, feed.read);
}

/** The filter that narrows a list to the chosen institution. */
export function useScope(): { institutionId: { eq: string } } | Record<string, never> {
  const { institution } = useSession();
  return institution ? { institutionId: { eq: institution } } : {};
}

export function useMay(scope: Session["viewer"]["scopes"][number]): boolean {
  return useSession().viewer.scopes.includes(scope);
}
