"""The SQL of the queue of deliveries; `queue` says what each statement promises."""

SUBSCRIBED = """
SELECT institution_id, id, kinds, states, starts_after FROM webhook_endpoints
WHERE institution_id = ANY($1::text[]) AND enabled
"""
# Held by whoever makes or enables an endpoint, from before it reads where that begins until it can be seen.
ENDPOINTS_BEGIN = """
SELECT pg_advisory_xact_lock_shared(hashtextextended('webhook_endpoints:' || institution_id, 0))
FROM (SELECT unnest($1::text[]) AS institution_id ORDER BY 1) AS i
"""
LOCK_SUBSCRIBED = f"{SUBSCRIBED} ORDER BY id FOR NO KEY UPDATE"
ADD = """
INSERT INTO webhook_deliveries AS d (institution_id, id, endpoint_id, event_id, position_id, sequence, state,
                                     attempts, step, created_at, updated_at)
SELECT institution_id, id, endpoint_id, event_id, position_id, sequence, 'PENDING', 0, 0, $7, $7
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[])
  AS n (institution_id, id, endpoint_id, event_id, position_id, sequence)
ON CONFLICT (institution_id, event_id, endpoint_id)
"""
ADD_NEW = f"{ADD} DO NOTHING"
ADD_AGAIN = f"""
{ADD} DO UPDATE SET state = 'PENDING', step = 0, updated_at = $7,
  next_attempt_at = CASE WHEN d.claimed_until > $7 THEN d.next_attempt_at END,
  claimed_until = CASE WHEN d.claimed_until > $7 THEN d.claimed_until END
WHERE NOT ($8 AND d.state = 'DELIVERED')
"""
PAIRS = """(
  SELECT DISTINCT * FROM unnest($1::text[], $2::text[], $3::text[])
    AS n (institution_id, endpoint_id, position_id)
) AS p"""
# Rows are found first and then changed by their ids: however little the planner knows of the table, it cannot
# join what is to be changed with every pair.
# After a replay an earlier delivery may be pending than the one that was ready; one under way is left alone.
DEMOTE = f"""
UPDATE webhook_deliveries SET next_attempt_at = NULL, claimed_until = NULL
WHERE id = ANY (ARRAY (
  SELECT ready.id FROM {PAIRS} CROSS JOIN LATERAL (
    SELECT r.id, r.sequence FROM webhook_deliveries r
    WHERE (r.institution_id, r.endpoint_id, r.position_id) = (p.institution_id, p.endpoint_id, p.position_id)
      AND r.state = 'PENDING' AND r.next_attempt_at IS NOT NULL
      AND (r.claimed_until IS NULL OR r.claimed_until <= $4) LIMIT 1
  ) AS ready
  WHERE EXISTS (
    SELECT FROM webhook_deliveries e
    WHERE (e.institution_id, e.endpoint_id, e.position_id) = (p.institution_id, p.endpoint_id, p.position_id)
      AND e.state = 'PENDING' AND e.sequence < ready.sequence
  )
))
"""
PROMOTE = f"""
UPDATE webhook_deliveries SET next_attempt_at = $4
WHERE id = ANY (ARRAY (
  SELECT first.id FROM {PAIRS} CROSS JOIN LATERAL (
    SELECT w.id FROM webhook_deliveries w
    WHERE (w.institution_id, w.endpoint_id, w.position_id) = (p.institution_id, p.endpoint_id, p.position_id)
      AND w.state = 'PENDING' ORDER BY w.sequence LIMIT 1
  ) AS first
  WHERE NOT EXISTS (
    SELECT FROM webhook_deliveries r
    WHERE (r.institution_id, r.endpoint_id, r.position_id) = (p.institution_id, p.endpoint_id, p.position_id)
      AND r.state = 'PENDING' AND r.next_attempt_at IS NOT NULL
  )
))
"""
DUE = """
SELECT e.institution_id, e.id FROM webhook_endpoints e
WHERE e.enabled AND e.id <> ALL($2::text[])
  AND NOT EXISTS (SELECT FROM followers WHERE name = $3 AND paused)
  AND EXISTS (
    SELECT FROM webhook_deliveries d
    WHERE d.institution_id = e.institution_id AND d.endpoint_id = e.id AND d.state = 'PENDING'
      AND d.next_attempt_at <= $1 AND (d.claimed_until IS NULL OR d.claimed_until <= $1)
  )
"""
LOCK_ENDPOINT = """
SELECT url, enabled, failing_since FROM webhook_endpoints WHERE institution_id = $1 AND id = $2
FOR NO KEY UPDATE SKIP LOCKED
"""
FAILING = "UPDATE webhook_endpoints SET failing_since = $3 WHERE institution_id = $1 AND id = $2"
OLD = """
SELECT institution_id, id FROM webhook_deliveries WHERE state <> 'PENDING' AND updated_at < $1
ORDER BY updated_at LIMIT $2
"""
# One that was replayed meanwhile stays.
FORGET = """
DELETE FROM webhook_deliveries
WHERE institution_id = ANY ($1::text[]) AND id = ANY ($2::text[]) AND state <> 'PENDING' AND updated_at < $3
"""
SECRETS = """
SELECT id, sealed FROM webhook_secrets
WHERE institution_id = $1 AND endpoint_id = $2 AND (ends_at IS NULL OR ends_at > $3)
ORDER BY created_at DESC, id DESC
"""
TAKE = """
UPDATE webhook_deliveries SET claimed_until = $4
WHERE institution_id = $1 AND id = ANY (ARRAY (
  SELECT id FROM webhook_deliveries
  WHERE institution_id = $1 AND endpoint_id = $2 AND state = 'PENDING' AND next_attempt_at <= $3
    AND (claimed_until IS NULL OR claimed_until <= $3) AND id <> ALL($5::text[])
  ORDER BY next_attempt_at, id LIMIT $6
))
RETURNING id, event_id, attempts, step, created_at, claimed_until
"""
# An attempt whose claim was taken away says nothing any more, unless it succeeded.
SETTLE = """
UPDATE webhook_deliveries d
SET state = n.state, attempts = d.attempts + 1, step = n.step, next_attempt_at = n.next_attempt_at,
    claimed_until = NULL, last_status = n.status, last_error = n.error, last_response = n.response,
    last_attempt_at = n.attempted_at, updated_at = $10,
    delivered_at = CASE WHEN n.state = 'DELIVERED' THEN $10 ELSE d.delivered_at END
FROM unnest($2::text[], $3::int[], $4::text[], $5::int[], $6::timestamptz[], $7::int[], $8::text[],
            $9::text[], $11::timestamptz[], $12::timestamptz[])
  AS n (id, attempts, state, step, next_attempt_at, status, error, response, attempted_at, claimed_until)
WHERE d.institution_id = $1 AND d.id = ANY($2) AND d.id = n.id
  AND ((d.state = 'PENDING' AND d.attempts = n.attempts AND d.claimed_until = n.claimed_until)
       OR (n.state = 'DELIVERED' AND d.state IN ('PENDING', 'CANCELLED')))
RETURNING d.position_id
"""
RELEASE = """
UPDATE webhook_deliveries d SET claimed_until = NULL
FROM unnest($2::text[], $3::timestamptz[]) AS n (id, claimed_until)
WHERE d.institution_id = $1 AND d.id = ANY($2) AND d.id = n.id AND d.state = 'PENDING'
  AND d.claimed_until = n.claimed_until
"""
CANCEL = """
UPDATE webhook_deliveries
SET state = 'CANCELLED', next_attempt_at = NULL, claimed_until = NULL, updated_at = $4
WHERE institution_id = $1 AND id = ANY (ARRAY (
  SELECT id FROM webhook_deliveries
  WHERE institution_id = $1 AND endpoint_id = $2 AND state = 'PENDING' ORDER BY position_id, sequence LIMIT $3
))
"""
LEFT_OVER = """
SELECT e.institution_id, e.id FROM webhook_endpoints e
WHERE NOT e.enabled AND EXISTS (
  SELECT FROM webhook_deliveries d
  WHERE d.institution_id = e.institution_id AND d.endpoint_id = e.id AND d.state = 'PENDING'
) LIMIT 100
"""
