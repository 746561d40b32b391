import { DOC_EXPLORER_PLUGIN, DocExplorerStore } from "@graphiql/plugin-doc-explorer";
import { explorerPlugin } from "@graphiql/plugin-explorer";
import { HISTORY_PLUGIN, HistoryStore } from "@graphiql/plugin-history";
import { GraphiQLProvider } from "@graphiql/react";
import { GraphiQL, GraphiQLInterface } from "graphiql";
import { useEffect, useMemo, useState } from "react";
import { Examples } from "./Examples.jsx";
import { KeyBar } from "./KeyBar.jsx";
import * as keys from "./keys.js";
import { Results } from "./Results.jsx";
import { connect } from "./server.js";
import { NOTHING, watched } from "./watch.js";

const PLUGINS = [DOC_EXPLORER_PLUGIN, HISTORY_PLUGIN, explorerPlugin({ showAttribution: false })];

const WELCOME = `# Examples (above) has questions to start from.
# Ctrl-Enter runs, Ctrl-Space completes.

query Viewer {
  viewer {
    label
    role
  }
}
`;

export function Page({ offeredKeys, operations }) {
  const [entry, setEntry] = useState(() => keys.first(offeredKeys));
  const { link, standing, stream } = useLink(entry?.key ?? null);
  const [shown, setShown] = useState(NOTHING);
  const fetcher = useMemo(() => watched(link.fetcher, setShown), [link]);

  useEffect(() => keys.keep(entry), [entry]);

  return (
    <GraphiQLProvider
      fetcher={fetcher}
      plugins={PLUGINS}
      referencePlugin={DOC_EXPLORER_PLUGIN}
      defaultQuery={WELCOME}
      inputValueDeprecation
      schemaDescription
      shouldPersistHeaders={false}
    >
      <HistoryStore>
        <DocExplorerStore>
          <header className="graphiql-container bar">
            <a className="bar-name" href="/">
              Escrowgrid
            </a>
            <Examples operations={operations} ask={link.ask} onOpen={() => setShown(NOTHING)} />
            <KeyBar
              entry={entry}
              offered={offeredKeys}
              standing={standing}
              stream={stream}
              onEntry={setEntry}
            />
          </header>
          {/* No headers editor: GraphiQL's history would keep a key typed there. */}
          <GraphiQLInterface
            isHeadersEditorEnabled={false}
            showPersistHeadersSettings={false}
            defaultEditorToolsVisibility
          >
            <GraphiQL.Logo>{" "}</GraphiQL.Logo>
            <GraphiQL.Footer>
              <Results shown={shown} />
            </GraphiQL.Footer>
          </GraphiQLInterface>
        </DocExplorerStore>
      </HistoryStore>
    </GraphiQLProvider>
  );
}

/**
 * One link per key. `standing` is what the server makes of its bearer: `nobody` (no key), `wanted` (no key, and
 * the server wants one), `checking`, `known`, `refused` or `unreachable`.
 */
function useLink(key) {
  const [standing, setStanding] = useState({ is: "checking" });
  const [stream, setStream] = useState("closed");
  const link = useMemo(() => {
    const onRefused = (why) => setStanding({ is: key ? "refused" : "wanted", why });
    return connect(key, { onRefused, onStream: setStream });
  }, [key]);

  useEffect(() => {
    let isCurrent = true;
    const settle = (next) => isCurrent && setStanding((now) => (now.is === "checking" ? next : now));
    setStream("closed");
    setStanding({ is: key ? "checking" : "nobody" });
    if (key) {
      link.viewer().then(
        ({ data }) => settle({ is: "known", viewer: data?.viewer }),
        () => settle({ is: "unreachable" }),
      );
    }
    return () => {
      isCurrent = false;
      link.close();
    };
  }, [link, key]);

  return { link, standing, stream };
}
