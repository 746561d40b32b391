// Answers as tables: a thing is a row, and what is nested in it becomes columns; a list is as many rows as it has things.

const CELL_CHARS_MAX = 32_767; // more than that no spreadsheet takes

/** The rows of an answer's data, each a flat object; of several lists, the longest one's. */
export function rowsOf(data) {
  const parts = Object.entries(data ?? {}).filter(([, value]) => value !== null);
  const lists = parts.map(([name, value]) => [name, listIn(value)]).filter(([, list]) => list);
  const [longest] = lists.sort(([, one], [, other]) => other.length - one.length);
  if (longest) return longest[1].filter((item) => item !== null).map((item) => rowOf(longest[0], item));
  return parts.filter(([, value]) => !isRefused(value)).map(([name, value]) => rowOf(name, value));
}

function rowOf(name, value) {
  return isThing(value) ? flat(value) : { [name]: text(value) };
}

/** What is a list, or a thing of which nothing was asked but a list, such as position { events { … } }. */
function listIn(value) {
  const list = listOf(value);
  if (list || !isThing(value)) return list;
  const asked = Object.entries(value).filter(([name]) => name !== "userErrors");
  const within = asked.length === 1 ? listIn(asked[0][1]) : null;
  return within?.every(isThing) ? within : null;
}

/** A list as GraphQL tells it: plain, or as a connection. */
function listOf(value) {
  if (Array.isArray(value)) return value;
  return Array.isArray(value?.edges) ? value.edges.map((edge) => edge?.node ?? edge) : null;
}

/** Whether a mutation brought nothing but its reasons, which are told elsewhere. */
function isRefused(value) {
  if (!Array.isArray(value?.userErrors)) return false;
  return Object.entries(value).every(([name, part]) => name === "userErrors" || part === null);
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
    if (name === "userErrors") continue;
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
