// Looks at what passes between GraphiQL and the server, so that it can be shown as a table as well.
import { rowOfMessage, rowsOf } from "./table.js";

const LIVE_ROWS_MAX = 5_000;

export const NOTHING = { rows: [], errors: [], isLive: false, isEmpty: false };

/** The same fetcher; `onShown` is told what the newest answer, or the stream so far, amounts to. */
export function watched(fetcher, onShown) {
  return async (request, options) => {
    // GraphiQL's own question what the schema is; nobody asked for that.
    if (request.operationName === "IntrospectionQuery") return fetcher(request, options);
    onShown(NOTHING);
    const answer = await fetcher(request, options);
    if (typeof answer?.subscribe !== "function") {
      onShown(of(answer));
      return answer;
    }
    return {
      subscribe(sink) {
        let rows = [];
        return answer.subscribe({
          ...sink,
          next(result) {
            const row = rowOfMessage(result.data);
            if (row) rows = [row, ...rows].slice(0, LIVE_ROWS_MAX);
            onShown({ rows, errors: errorsOf(result), isLive: true, isEmpty: rows.length === 0 });
            sink.next(result);
          },
          error(reason) {
            onShown({ rows, errors: errorsOf({ errors: [reason].flat() }), isLive: true, isEmpty: false });
            sink.error(reason);
          },
        });
      },
    };
  };
}

function of(answer) {
  const rows = answer?.data ? rowsOf(answer.data) : [];
  const errors = errorsOf(answer);
  // What a mutation did is no list, so nobody looks for its rows.
  const isList = Object.values(answer?.data ?? {}).every((value) => !value?.userErrors);
  return { rows, errors, isLive: false, isEmpty: rows.length === 0 && errors.length === 0 && isList };
}

/** Errors of the whole answer, and refusals, which are part of the data. */
function errorsOf(answer) {
  const errors = (answer?.errors ?? []).map(({ message, path, locations, extensions }) => ({
    code: extensions?.code,
    message,
    place: path?.join(".") ?? (locations?.[0] && `line ${locations[0].line}, column ${locations[0].column}`),
  }));
  const refusals = Object.entries(answer?.data ?? {}).flatMap(([name, payload]) =>
    (payload?.userErrors ?? []).map(({ code, message, field }) => ({
      code,
      message: message ?? "refused",
      place: [name, field].filter(Boolean).join("."),
    })),
  );
  return [...errors, ...refusals];
}
