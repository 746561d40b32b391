// Follows the ledger with graphql-ws; its place is kept in a file, so that each run goes on where the last one stopped.
import { createClient } from "graphql-ws";
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";

const PLACE = "escrowgrid.cursor";
const FOLLOW = /* GraphQL */ `
  subscription Follow($after: String) {
    ledgerEvents(after: $after, heartbeatSeconds: 10) {
      cursor
      node { id recordedAt newState amountMoved currency }
    }
  }
`;

const key = process.env.ESCROWGRID_KEY;
if (!key) stop("set ESCROWGRID_KEY to an API key");
if (!globalThis.WebSocket) stop("Node 22 is needed; Node 20 does it with: node --experimental-websocket follow.mjs");

// graphql-ws sends these same variables again after a lost connection: so the cursor in them is moved on.
const variables = { after: existsSync(PLACE) ? readFileSync(PLACE, "utf8") : null };

const client = createClient({
  url: process.argv[2] ?? "ws://127.0.0.1:8000/graphql",
  connectionParams: { authorization: `Bearer ${key}` },
  keepAlive: 10_000,
  retryAttempts: Infinity,
  shouldRetry({ code }) {
    if (code === 4403 || code === 4401) return false; // the key was refused
    console.error("no connection, trying again");
    return true;
  },
});

client.subscribe(
  { query: FOLLOW, variables },
  {
    next({ data }) {
      const { cursor, node } = data.ledgerEvents;
      // Do what is to be done with an event, and only then keep its place: at worst it is done again.
      if (node) console.log(node.recordedAt, node.id, node.newState, node.amountMoved, node.currency);
      variables.after = cursor;
      writeFileSync(`${PLACE}.new`, cursor);
      renameSync(`${PLACE}.new`, PLACE);
    },
    error(reason) {
      const told = Array.isArray(reason) ? reason.map(({ message }) => message).join("\n") : reason.reason;
      stop(told || reason);
    },
    complete: () => process.exit(0),
  },
);

function stop(why) {
  console.error(why);
  process.exit(1);
}
