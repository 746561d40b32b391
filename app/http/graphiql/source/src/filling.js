// The variables of an example: days that it speaks of, and ids of what there is, so that it finds something as it stands.

const FIND_MS_MAX = 3_000;

/**
 * The variables of `operation`, ready to be run. `today`, `today+7` and the like become instants. `$asset.id|ast_…` becomes
 * what is there in the first thing that the operation's `find` is answered with, or what follows the bar when there is none.
 */
export async function filled({ variables, find }, ask) {
  const found = find ? await first(find, ask) : null;
  return JSON.parse(JSON.stringify(variables ?? {}), (_, value) => {
    if (typeof value !== "string") return value;
    if (/^today([+-]\d+)?$/.test(value)) return day(Number(value.slice("today".length)));
    const wanted = /^\$([\w.]+)\|(.*)$/.exec(value);
    return wanted ? (at(found, wanted[1]) ?? wanted[2]) : value;
  });
}

/** Nobody waits long for it: without a key, or without a server, the example opens all the same. */
async function first(find, ask) {
  const late = new Promise((resolve) => setTimeout(resolve, FIND_MS_MAX, null));
  const answer = await Promise.race([ask({ query: find }).catch(() => null), late]);
  const [connection] = Object.values(answer?.data ?? {});
  return connection?.edges?.[0]?.node;
}

function at(thing, path) {
  return path.split(".").reduce((part, name) => part?.[name], thing);
}

/** The beginning of a day, so many days from now, where the reader is. */
function day(offset) {
  const date = new Date();
  date.setHours(0, 0, 0, 0);
  date.setDate(date.getDate() + offset);
  return date.toISOString();
}
