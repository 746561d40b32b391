// The only place that talks to the server: queries over HTTP, subscriptions over graphql-transport-ws.
import { getOperationAST, parse } from "graphql";
import { createClient } from "graphql-ws";

const PATH = "/graphql";
const REFUSALS = [4401, 4403];
const RETRY_ATTEMPTS_MAX = 360;
const RETRY_WAIT_MS_MAX = 10_000;
const PING_EVERY_MS = 12_000;
const SHOWN_CHARS_MAX = 500;

const VIEWER = "query Viewer { viewer { label role } }";

/**
 * A link to the server as the bearer of `key`, or as nobody when it is null.
 *
 * `onRefused(why)` is called whenever the server does not accept the key, `onStream(state)` when the
 * subscription becomes "live", "lost" (it reconnects by itself) or "closed"; neither after `close()`.
 */
export function connect(key, listeners) {
  let isOpen = true;
  const onRefused = (why) => isOpen && listeners.onRefused(why);
  const onStream = (state) => isOpen && listeners.onStream(state);
  const credentials = key ? { authorization: `Bearer ${key}` } : {};
  const socket = openSocket(credentials, { onRefused, onStream });

  async function ask({ query, variables, operationName }) {
    const response = await fetch(PATH, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        accept: "application/graphql-response+json, application/json;q=0.9",
        ...credentials,
      },
      body: JSON.stringify({ query, variables, operationName: operationName ?? undefined }),
    });
    const result = await readResult(response);
    if (response.status === 401 || isUnauthenticated(result)) onRefused(result?.errors?.[0]?.message);
    return result;
  }

  return {
    fetcher: (request) => (isSubscription(request) ? listen(socket, request, onStream) : ask(request)),
    ask,
    viewer: () => ask({ query: VIEWER }),
    close() {
      isOpen = false;
      void socket.dispose();
    },
  };
}

function openSocket(credentials, { onRefused, onStream }) {
  const url = new URL(PATH, location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return createClient({
    url: url.href,
    connectionParams: credentials,
    keepAlive: PING_EVERY_MS,
    retryAttempts: RETRY_ATTEMPTS_MAX,
    retryWait: (tries) => wait(Math.min(RETRY_WAIT_MS_MAX, 500 * 2 ** tries) * (0.75 + Math.random() / 2)),
    shouldRetry(reason) {
      // A server that is away gives a plain error event, one that goes away a close event.
      const isWorthIt = reason instanceof Event && !REFUSALS.includes(reason.code);
      if (isWorthIt) onStream("lost");
      return isWorthIt;
    },
    on: {
      connected: () => onStream("live"),
      closed: (event) => REFUSALS.includes(event?.code) && onRefused(event.reason),
    },
  });
}

/**
 * GraphiQL takes an observable, which, unlike an async generator, can be stopped while it waits. A stopped one
 * says no more: a late `complete` would make GraphiQL lose sight of the subscription that followed.
 */
function listen(socket, { query, variables, operationName }, onStream) {
  return {
    subscribe(sink) {
      let isListening = true;
      const end = () => {
        isListening = false;
        onStream("closed");
      };
      const stop = socket.subscribe(
        { query, variables, operationName: operationName ?? undefined },
        {
          next: (result) => isListening && sink.next(result),
          complete() {
            if (!isListening) return;
            end();
            sink.complete();
          },
          error(reason) {
            if (!isListening) return;
            end();
            sink.error(readable(reason));
          },
        },
      );
      return {
        unsubscribe() {
          end();
          stop();
        },
      };
    },
  };
}

function isSubscription({ query, operationName }) {
  try {
    return getOperationAST(parse(query), operationName)?.operation === "subscription";
  } catch {
    return false; // not GraphQL: let the server say what is wrong with it
  }
}

function isUnauthenticated(result) {
  return (result?.errors ?? []).some((error) => error.extensions?.code === "UNAUTHENTICATED");
}

async function readResult(response) {
  const text = await response.text();
  try {
    return JSON.parse(text);
  } catch {
    const said = text.slice(0, SHOWN_CHARS_MAX).trim();
    const status = `${response.status} ${response.statusText}`.trim();
    return { errors: [{ message: `The server answered ${status}${said && `: ${said}`}` }] };
  }
}

function readable(reason) {
  if (!(reason instanceof Event)) return reason;
  if (!(reason instanceof CloseEvent)) return { message: "The server cannot be reached for a stream" };
  return { message: `The server closed the stream: ${reason.reason || "no reason given"} (${reason.code})` };
}

function wait(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
