import { useCallback, useEffect, useMemo, useState } from "react";
import { Provider } from "urql";
import { Feed } from "./feed";
import { Frame } from "./Frame";
import { ViewerDocument, type ViewerQuery } from "./generated";
import { type Entry, first, keep } from "./keys";
import { KeyEntry } from "./screens/KeyEntry";
import { connect, words } from "./server";
import { type Session, SessionContext } from "./session";

const AGAIN_MS = 2_000;

/** Holds the key; with one that the server knows, the screens. */
export function App({ offers }: { offers: Entry[] }) {
  const [entry, setEntry] = useState<Entry | null>(() => first(offers));
  const [refusal, setRefusal] = useState<string | null>(null);
  useEffect(() => keep(entry), [entry]);

  const use = useCallback((next: Entry | null) => {
    setRefusal(null);
    setEntry(next);
  }, []);
  const refused = useCallback((why: string) => {
    setRefusal(why || "The server does not accept this key any more.");
    setEntry(null);
  }, []);

  if (!entry) return <KeyEntry offers={offers} refusal={refusal} onEntry={use} />;
  return <Connected key={entry.key} entry={entry} onForget={() => use(null)} onRefused={refused} />;
}

interface ConnectedProps {
  entry: Entry;
  onForget(): void;
  onRefused(why: string): void;
}

function Connected({ entry, onForget, onRefused }: ConnectedProps) {
  const link = useMemo(() => connect(entry.key, onRefused), [entry.key, onRefused]);
  const [known, setKnown] = useState<ViewerQuery | null>(null);
  const [feed, setFeed] = useState<Feed | null>(null);
  const [trouble, setTrouble] = useState<string | null>(null);
  const [institution, choose] = useState<string | null>(null);

  useEffect(() => {
    let isCurrent = true;
    let timer: ReturnType<typeof setTimeout>;
    async function ask() {
      const { data, error } = await link.client.query(ViewerDocument, {}).toPromise();
      if (!isCurrent) return;
      if (data) setKnown(data);
      else if (error) setTrouble(words(error));
      if (!data) timer = setTimeout(ask, AGAIN_MS);
    }
    void ask();
    return () => {
      isCurrent = false;
      clearTimeout(timer);
    };
  }, [link]);

  const isKnown = known !== null;
  useEffect(() => {
    if (!isKnown) return;
    const opened = new Feed(link, onRefused);
    setFeed(opened);
    return () => opened.close();
  }, [link, isKnown, onRefused]);

  const session = useMemo<Session | null>(
    () =>
      known &&
      feed && {
        viewer: known.viewer,
        institutions: known.institutions.edges.map(({ node }) => node),
        link,
        feed,
        institution,
        choose,
      },
    [known, feed, link, institution],
  );

  if (!session) {
    return (
      <main className="waiting" aria-busy="true">
        <p role="status">{trouble ? `${trouble} Trying again.` : ""}</p>
      </main>
    );
  }
  return (
    <Provider value={link.client}>
      <SessionContext value={session}>
        <Frame onForget={onForget} />
      </SessionContext>
    </Provider>
  );
}
