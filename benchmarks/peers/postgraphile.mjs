// PostGraphile 5 on the ledger's own tables, as their owner: no tenant policy stands in its way.
import "./promises.mjs";
import { createServer } from "node:http";
import pg from "pg";
import { grafserv } from "postgraphile/grafserv/node";
import { makePgService } from "postgraphile/adaptors/pg";
import { PostGraphileAmberPreset } from "postgraphile/presets/amber";
import { postgraphile } from "postgraphile";
import utils from "postgraphile/utils";

const [, , url, port, pool] = process.argv;

// It groups rows by a plugin that is not its own, or as here by a view.
const database = new pg.Client({ connectionString: url });
await database.connect();
await database.query(`CREATE SCHEMA IF NOT EXISTS peers;
  CREATE OR REPLACE VIEW peers.position_summaries AS SELECT state, currency, count(*)::int AS count,
  sum(amount) AS amount, sum(held) AS held FROM positions GROUP BY state, currency`);
await database.end();

const smartTags = utils.jsonPgSmartTags;
const preset = {
  extends: [PostGraphileAmberPreset],
  plugins: [
    // The ledger's events have no foreign keys; what they belong to has to be told.
    smartTags({
      version: 1,
      config: {
        class: {
          ledger_events: {
            tags: { foreignKey: "(institution_id, position_id) references positions (institution_id, id)" },
          },
          positions: { tags: { foreignKey: "(institution_id) references institutions (id)" } },
        },
      },
    }),
  ],
  pgServices: [makePgService({ connectionString: url, schemas: ["public", "peers"], poolConfig: { max: Number(pool) } })],
  grafserv: { watch: false, graphiql: false, websockets: false },
  grafast: { explain: false },
};
const instance = postgraphile(preset);
const server = createServer();
instance.createServ(grafserv).addTo(server);
server.listen(Number(port), "127.0.0.1");
