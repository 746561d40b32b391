-- What PostGraphile's streams are measured on: tables of its own, a function that it makes a mutation of, a trigger that
-- notifies. An asset has two channels, for the row's id and for the whole row: who listens to one is not told of others.
CREATE SCHEMA IF NOT EXISTS streams;

CREATE TABLE IF NOT EXISTS streams.positions (
  id text PRIMARY KEY DEFAULT 'pos_' || gen_random_uuid(),
  asset_id text NOT NULL,
  holder_reference text NOT NULL,
  currency text NOT NULL,
  amount numeric NOT NULL,
  held numeric NOT NULL DEFAULT 0,
  state text NOT NULL DEFAULT 'CREATED',
  version integer NOT NULL DEFAULT 1
);
COMMENT ON TABLE streams.positions IS '@behavior -insert -update -delete';

CREATE TABLE IF NOT EXISTS streams.ledger_events (
  id text PRIMARY KEY DEFAULT 'evt_' || gen_random_uuid(),
  sequence integer GENERATED ALWAYS AS IDENTITY,
  position_id text NOT NULL REFERENCES streams.positions,
  asset_id text NOT NULL,
  new_state text NOT NULL,
  amount_moved numeric NOT NULL,
  currency text NOT NULL,
  held numeric NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE streams.ledger_events IS '@behavior -insert -update -delete';

CREATE OR REPLACE FUNCTION streams.tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('id:' || new.asset_id, new.id);
  PERFORM pg_notify('row:' || new.asset_id, json_build_object(
    'id', new.id, 'sequence', new.sequence, 'positionId', new.position_id, 'newState', new.new_state,
    'amountMoved', new.amount_moved::text, 'currency', new.currency, 'held', new.held::text,
    'recordedAt', new.recorded_at)::text);
  RETURN NULL;
END $$;
COMMENT ON FUNCTION streams.tell() IS '@omit';

CREATE OR REPLACE TRIGGER tell AFTER INSERT ON streams.ledger_events FOR EACH ROW EXECUTE FUNCTION streams.tell();

CREATE OR REPLACE FUNCTION streams.create_position(
  asset_id text, holder_reference text, currency text, amount numeric
) RETURNS streams.positions LANGUAGE plpgsql VOLATILE STRICT AS $$
DECLARE
  made streams.positions;
BEGIN
  INSERT INTO streams.positions (asset_id, holder_reference, currency, amount)
    VALUES ($1, $2, $3, $4) RETURNING * INTO made;
  INSERT INTO streams.ledger_events (position_id, asset_id, new_state, amount_moved, currency, held)
    VALUES (made.id, made.asset_id, made.state, 0, made.currency, made.held);
  RETURN made;
END $$;
COMMENT ON FUNCTION streams.create_position IS '@resultFieldName position';
