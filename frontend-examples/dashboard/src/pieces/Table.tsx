import type { ReactNode } from "react";

interface Column {
  name: string;
  isNumber?: boolean;
  className?: string;
}

interface Props {
  label: string;
  /** The first column names the row. */
  columns: readonly Column[];
  rows: readonly { key: string; cells: readonly ReactNode[] }[];
}

/** A short table, whole. Where there is no room for columns, each row stands as a block, with the name of its column before each value. */
export function Table({ label, columns, rows }: Props) {
  // The roles are said aloud because a row that is laid out as a block is no row to a screen reader otherwise.
  return (
    <div className="stacks">
      <table className="stacking" role="table" aria-label={label}>
        <thead role="rowgroup">
          <tr role="row">
            {columns.map(({ name, isNumber }) => (
              <th key={name} scope="col" role="columnheader" className={isNumber ? "number" : undefined}>
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody role="rowgroup">
          {rows.map(({ key, cells: [named, ...cells] }) => (
            <tr key={key} role="row">
              <th scope="row" role="rowheader">
                {named}
              </th>
              {cells.map((cell, place) => {
                const { name, isNumber, className } = columns[place + 1]!;
                return (
                  <td key={name} role="cell" data-column={name} className={isNumber ? "number" : className}>
                    {cell}
                  </td>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
