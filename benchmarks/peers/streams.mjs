// PostGraphile 5 telling of events over WebSockets: its own pgSubscriber and listen(), as its documentation has them.
// `ledgerEvents` reads each row by the id it is told; `ledgerEventsCarried` takes all from the notification.
import "./promises.mjs";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import pg from "pg";
import { postgraphile } from "postgraphile";
import json from "postgraphile/@dataplan/json";
import { makePgService } from "postgraphile/adaptors/pg";
import { context, lambda, listen } from "postgraphile/grafast";
import { grafserv } from "postgraphile/grafserv/node";
import { PostGraphileAmberPreset } from "postgraphile/presets/amber";
import utils from "postgraphile/utils";

const [, , url, port, pool] = process.argv;

const typeDefs = utils.gql`
  extend type Subscription {
    ledgerEvents(assetId: String!): ReadEdge
    ledgerEventsCarried(assetId: String!): CarriedEdge
  }
  type Balances { held: BigFloat! }
  extend type LedgerEvent { balancesAfter: Balances! }
  type ReadEdge { cursor: String! node: LedgerEvent! }
  type CarriedEdge { cursor: String! node: CarriedEvent! }
  type CarriedEvent {
    id: ID! sequence: Int! positionId: String! newState: String! amountMoved: BigFloat! currency: String!
    balancesAfter: Balances! recordedAt: Datetime!
  }
`;
const listenTo = (told) => (_, { $assetId }) =>
  listen(context().get("pgSubscriber"), lambda($assetId, (assetId) => `${told}:${assetId}`));
const edge = { cursor: ($event) => $event.get("sequence"), node: ($event) => $event };
const event = { balancesAfter: ($event) => $event };

const Streams = utils.extendSchema((build) => {
  const events = build.pgResources.ledger_events;
  return {
    typeDefs,
    objects: {
      Subscription: {
        plans: {
          ledgerEvents: { subscribePlan: listenTo("id"), plan: ($id) => events.get({ id: $id }) },
          ledgerEventsCarried: { subscribePlan: listenTo("row"), plan: ($row) => json.jsonParse($row) },
        },
      },
      ReadEdge: { plans: edge },
      CarriedEdge: { plans: edge },
      LedgerEvent: { plans: event },
      CarriedEvent: { plans: event },
      Balances: { plans: { held: ($event) => $event.get("held") } },
    },
  };
});

const database = new pg.Client({ connectionString: url });
await database.connect();
await database.query(await readFile(new URL("streams.sql", import.meta.url), "utf8"));
await database.end();

const server = createServer();
const serv = postgraphile({
  extends: [PostGraphileAmberPreset],
  plugins: [Streams],
  pgServices: [makePgService({ connectionString: url, schemas: ["streams"], poolConfig: { max: Number(pool) } })],
  grafserv: { watch: false, graphiql: false, websockets: true },
  grafast: { explain: false },
}).createServ(grafserv);
await serv.addTo(server);
server.listen(Number(port), "127.0.0.1");
