/** The two ways to the server: queries and mutations by HTTP, subscriptions by one WebSocket. */
import { type Client as Socket, createClient } from "graphql-ws";
import { type CombinedError, Client, fetchExchange, mapExchange } from "urql";

const PATH = "/graphql";
const SILENCE_MS = 10_000;
const ANSWER_MS = 5_000;
const WAIT_MS_MAX = 8_000;
// Closed by the server for a reason that connecting again does not mend: the key.
const REFUSALS = [4401, 4403];

export interface Link {
  client: Client;
  openSocket(listeners: SocketListeners): Socket;
}

export interface SocketListeners {
  onLive(): void;
  onLost(): void;
  onRefused(why: string): void;
}

/** Why something failed, in words for people. */
export function words(error: CombinedError): string {
  if (error.networkError) return "The server cannot be reached.";
  // What the API quotes, people need not read as code.
  return (error.graphQLErrors.map(({ message }) => message).join(" ") || error.message).replaceAll("`", "");
}

const MISFIT = /^Variable '\$input' has invalid value at \.([\w.]+): (?:not a \w+: )?(.*)$/s;

/** What of an input was not even of its type, as refusals: the API tells that as errors, before a mutation is run. */
export function misfits(error: CombinedError): { code: string; message: string; field: string | null }[] {
  const found = error.graphQLErrors.map(({ message }) => MISFIT.exec(message));
  return found.flatMap((parts) => (parts ? [{ code: "BAD_USER_INPUT", field: parts[1]!, message: parts[2]! }] : []));
}

export function connect(key: string, onRefused: (why: string) => void): Link {
  const credentials = { authorization: `Bearer ${key}` };
  const client = new Client({
    url: PATH,
    preferGetMethod: false,
    fetchOptions: {
      headers: { ...credentials, accept: "application/graphql-response+json, application/json;q=0.9" },
    },
    exchanges: [
      mapExchange({
        onError(error) {
          const told = error.graphQLErrors.find(({ extensions }) => extensions.code === "UNAUTHENTICATED");
          if (told) onRefused(told.message);
        },
      }),
      fetchExchange,
    ],
  });
  return { client, openSocket: (listeners) => openSocket(credentials, listeners) };
}

function openSocket(credentials: Record<string, string>, listeners: SocketListeners): Socket {
  const url = new URL(PATH, location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  let unanswered: ReturnType<typeof setTimeout> | undefined;
  const socket = createClient({
    url: url.href,
    connectionParams: credentials,
    keepAlive: SILENCE_MS,
    retryAttempts: Infinity,
    retryWait: (tries) => pause(Math.min(WAIT_MS_MAX, 250 * 2 ** tries) * (0.75 + Math.random() / 2)),
    shouldRetry: (reason) => !REFUSALS.includes((reason as CloseEvent).code),
    on: {
      connected: listeners.onLive,
      closed(event) {
        clearTimeout(unanswered);
        const { code, reason } = event as CloseEvent;
        if (REFUSALS.includes(code)) listeners.onRefused(reason);
        else listeners.onLost();
      },
      // A connection that died without a word answers no ping: then it is ended here and made anew.
      ping(received) {
        if (!received) unanswered = setTimeout(() => socket.terminate(), ANSWER_MS);
      },
      pong(received) {
        if (received) clearTimeout(unanswered);
      },
    },
  });
  return socket;
}

/** Waits, but no longer than until the browser says that the network is back. */
export function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      removeEventListener("online", end);
      resolve();
    };
    const timer = setTimeout(end, milliseconds);
    addEventListener("online", end);
  });
}
