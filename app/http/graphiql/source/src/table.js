// Answers as tables: the longest list of an answer has the rows; what is nested in a row becomes columns.

const CELL_CHARS_MAX = 32_767; // more than that no spreadsheet takes

/** The rows of an answer's data, each a flat object; of several lists, the longest one's. */
export function rowsOf(data) {
  const lists = Object.values(data ?? {}).map(listOf).filter(Boolean);
  const [longest] = lists.sort((one, other) => other.length - one.length);
  return (longest ?? [data]).filter(isThing).map((row) => flat(row));
}

/** A list as GraphQL tells it: plain, or as a connection. */
function listOf(value) {
  if (Array.isArray(value)) return value;
  if (!isThing(value)) return null;
  if (Array.isArray(value.edges)) return value.edges.map((edge) => edge.node ?? edge);
  // A list one level down, such as position { events { … } }.
  return Object.values(value).map(listOf).find(Boolean) ?? null;
}

/** The row that a message of a stream has; null for a heartbeat. */
export function rowOfMessage(data) {
  const [message] = Object.values(data ?? {});
  if (!isThing(message)) return null;
  const things = Object.values(message).filter(isThing);
  return "heartbeat" in message && things.length === 0 ? null : flat(message);
}

function flat(value, path = [], row = {}) {
  for (const [name, part] of Object.entries(value)) {
    const place = name === "node" ? path : [...path, name];
    if (isThing(part) && !Array.isArray(part.edges)) flat(part, place, row);
    else row[place.join(".") || name] = text(part);
  }
  return row;
}

function text(value) {
  const list = listOf(value);
  if (list) return list.map((item) => (isThing(item) ? Object.values(flat(item)).join(" ") : String(item))).join("; ");
  return value === null || value === undefined ? "" : String(value);
}

function isThing(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function columnsOf(rows) {
  return [...new Set(rows.flatMap((row) => Object.keys(row)))];
}

/** As RFC 4180 has it; no cell is a formula to a spreadsheet. */
export function csv(rows) {
  const columns = columnsOf(rows);
  const lines = rows.map((row) => columns.map((column) => cell(row[column] ?? "")).join(","));
  return [columns.map(cell).join(","), ...lines, ""].join("\r\n");
}

function cell(value) {
  const isFormula = /^[=+\-@\t\r]/.test(value) && !/^[+-]?\d+(\.\d+)?$/.test(value);
  const safe = (isFormula ? `'${value}` : value).slice(0, CELL_CHARS_MAX);
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
