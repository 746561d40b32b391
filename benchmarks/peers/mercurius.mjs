// Mercurius with its just-in-time compiler, and loaders written by hand: one statement a level, as ours.
import Fastify from "fastify";
import mercurius from "mercurius";
import pg from "pg";

const [, , url, port, pool] = process.argv;
const database = new pg.Pool({ connectionString: url, max: Number(pool) });

// Named, a statement is prepared once for each connection, as ours and PostGraphile's are.
const rowsOf = async (name, text, values) => (await database.query({ name, text, values })).rows;

const schema = `
  type Query {
    positions(first: Int!, currency: String): PositionConnection!
    position(id: ID!): Position
    positionSummary(groupBy: [SummaryGroup!]!): [PositionSummary!]!
  }
  enum SummaryGroup { STATE }
  type PositionSummary { state: String! currency: String! count: Int! amount: String! held: String! }
  type PositionConnection { edges: [PositionEdge!]! pageInfo: PageInfo! }
  type PageInfo { hasNextPage: Boolean! endCursor: String }
  type PositionEdge { node: Position! }
  type Position {
    id: ID! state: String! held: String! amount: String! currency: String! expiresAt: String createdAt: String!
    asset: Asset! institution: Institution! events(first: Int!): LedgerEventConnection!
  }
  type Asset { label: String! template: AssetTemplate! }
  type AssetTemplate { code: String! }
  type Institution { name: String! }
  type LedgerEventConnection { edges: [LedgerEventEdge!]! }
  type LedgerEventEdge { node: LedgerEvent! }
  type LedgerEvent { sequence: Int! newState: String! amountMoved: String! recordedAt: String! balancesAfter: Balances! }
  type Balances { held: String! }
`;

// Only what somebody may ask for: a row of the ledger is wider than a page shows.
const COLUMNS = "institution_id, id, asset_id, state, held, amount, currency, expires_at, created_at";
const POSITIONS = `SELECT ${COLUMNS} FROM positions WHERE $2::text IS NULL OR currency = $2
  ORDER BY institution_id DESC, created_at DESC, id DESC LIMIT $1`;
const SUMMARY = `SELECT state, currency, count(*)::int AS count, sum(amount) AS amount, sum(held) AS held FROM positions
  GROUP BY state, currency`;
const EVENTS = `SELECT p.id AS parent, e.* FROM unnest($1::text[]) AS p (id) CROSS JOIN LATERAL (
  SELECT sequence, new_state, amount_moved, recorded_at, held FROM ledger_events
  WHERE position_id = p.id ORDER BY position_version LIMIT $2) AS e`;

const cursor = (row) => Buffer.from(JSON.stringify([row.institution_id, row.created_at, row.id])).toString("base64url");

const resolvers = {
  Query: {
    positions: async (_, { first, currency }) => {
      const rows = await rowsOf("positions", POSITIONS, [first + 1, currency]);
      const page = rows.slice(0, first);
      const endCursor = page.length > 0 ? cursor(page.at(-1)) : null;
      return {
        edges: page.map((row) => ({ node: row })),
        pageInfo: { hasNextPage: rows.length > first, endCursor },
      };
    },
    position: async (_, { id }) => {
      const [found] = await rowsOf("position", `SELECT ${COLUMNS} FROM positions WHERE id = $1`, [id]);
      return found;
    },
    positionSummary: () => rowsOf("summary", SUMMARY),
  },
  Position: {
    createdAt: (row) => row.created_at.toISOString(),
    expiresAt: (row) => row.expires_at?.toISOString(),
  },
};

const by = (table, columns) => async (queries, key) => {
  const ids = [...new Set(queries.map(({ obj }) => obj[key]))];
  const rows = await rowsOf(table, `SELECT id, ${columns} FROM ${table} WHERE id = ANY($1)`, [ids]);
  const found = new Map(rows.map((row) => [row.id, row]));
  return queries.map(({ obj }) => found.get(obj[key]));
};

const loaders = {
  Position: {
    asset: (queries) => by("assets", "label, template_id")(queries, "asset_id"),
    institution: (queries) => by("institutions", "name")(queries, "institution_id"),
    events: async (queries) => {
      const ids = queries.map(({ obj }) => obj.id);
      const rows = await rowsOf("events", EVENTS, [ids, queries[0].params.first]);
      const found = new Map(ids.map((id) => [id, []]));
      for (const row of rows) {
        found.get(row.parent).push({
          node: {
            sequence: Number(row.sequence),
            newState: row.new_state,
            amountMoved: row.amount_moved,
            recordedAt: row.recorded_at.toISOString(),
            balancesAfter: { held: row.held },
          },
        });
      }
      return ids.map((id) => ({ edges: found.get(id) }));
    },
  },
  Asset: { template: (queries) => by("asset_templates", "code")(queries, "template_id") },
};

const app = Fastify();
app.register(mercurius, { schema, resolvers, loaders, jit: 1, graphiql: false });
await app.listen({ port: Number(port), host: "127.0.0.1" });
