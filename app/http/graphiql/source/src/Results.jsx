import { useEffect, useState } from "react";
import { columnsOf, csv } from "./table.js";

const ROWS_SHOWN_MAX = 500;

/** Below the answer: what is wrong with it in words, and the answer as a table or a file. */
export function Results({ shown }) {
  const [isTable, setTable] = useState(false);
  const { rows, errors, isLive, isEmpty } = shown;
  const hasRows = rows.length > 0;
  const columns = columnsOf(rows.slice(0, ROWS_SHOWN_MAX));

  useEffect(() => {
    // The table takes the place of the JSON, which has no such switch of its own.
    document.getElementById("page").classList.toggle("shows-table", isTable && hasRows);
  }, [isTable, hasRows]);

  return (
    <div className="results">
      {errors.length > 0 && (
        <ul className="results-errors" role="alert">
          {errors.map(({ code, message, place }, index) => (
            <li key={index}>
              {code && <code>{code}</code>} {message} {place && <span>at {place}</span>}
            </li>
          ))}
        </ul>
      )}
      {(hasRows || isEmpty) && (
        <div className="results-bar">
          <button type="button" aria-pressed={isTable} disabled={!hasRows} onClick={() => setTable(!isTable)}>
            {isTable ? "JSON" : "Table"}
          </button>
          <button type="button" disabled={!hasRows} onClick={() => save(csv(rows))}>
            Save CSV
          </button>
          <output>
            {rows.length} {rows.length === 1 ? "row" : "rows"}
            {isLive && ", newest first, as they come"}
          </output>
        </div>
      )}
      {isTable && hasRows && (
        <div className="results-table" tabIndex={0} role="region" aria-label="The answer as a table">
          <table>
            <thead>
              <tr>
                {columns.map((column) => (
                  <th key={column} scope="col">
                    {column}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {rows.slice(0, ROWS_SHOWN_MAX).map((row, index) => (
                <tr key={isLive ? rows.length - index : index}>
                  {columns.map((column) => (
                    <td key={column} className={/^-?\d+(\.\d+)?$/.test(row[column] ?? "") ? "is-number" : undefined}>
                      {row[column]}
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
          {rows.length > ROWS_SHOWN_MAX && <p>The CSV has the other {rows.length - ROWS_SHOWN_MAX}, too.</p>}
        </div>
      )}
    </div>
  );
}

function save(text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv" }));
  link.download = "escrowgrid.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
