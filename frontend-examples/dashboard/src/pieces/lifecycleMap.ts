/** Where the stages of a lifecycle are drawn, and the lines between them, like the map of a metro. */
import type { MoneyEffect, PositionState } from "../generated";

export interface Definition {
  initialStage: string;
  stages: { name: string; state: PositionState; final: boolean }[];
  transitions: { fromStages: string[]; toStage: string; moneyEffect: MoneyEffect }[];
}

export interface Station {
  name: string;
  state: PositionState;
  column: number;
  row: number;
  x: number;
  y: number;
}

export interface Track {
  from: string;
  to: string;
  effect: MoneyEffect;
  path: string;
}

export interface Drawing {
  stations: Station[];
  tracks: Track[];
  width: number;
  height: number;
}

export const WIDTH = 132;
export const HEIGHT = 36;
const COLUMN = 196;
const ROW = 60;
const BEND = 10;
const ABOVE = 46;

export interface Arrow {
  from: string;
  to: string;
  effect: MoneyEffect;
}

export const arrowsOf = ({ transitions }: Definition): Arrow[] =>
  transitions.flatMap(({ fromStages, toStage, moneyEffect }) =>
    fromStages.map((from) => ({ from, to: toStage, effect: moneyEffect })),
  );

/** From left to right, for where there is room. */
export function draw(definition: Definition): Drawing {
  const arrows = arrowsOf(definition);
  const columns = columnsOf(definition, arrows);
  const spine = spineOf(definition, arrows, columns);
  let rows = 0;
  const stations = definition.stages.map(({ name, state }): Station => {
    const column = columns.get(name)!;
    const row = spine.has(name) ? 0 : ++rows;
    return { name, state, column, row, x: column * COLUMN + 1, y: ABOVE + row * ROW };
  });
  const at = (name: string) => stations.find((station) => station.name === name)!;
  const tracks = arrows.map((arrow): Track => ({ ...arrow, path: pathOf(at(arrow.from), at(arrow.to)) }));
  const last = Math.max(...columns.values());
  return { stations, tracks, width: last * COLUMN + WIDTH + 2, height: ABOVE + rows * ROW + HEIGHT + 2 };
}

/** How many steps the longest way to each stage has; ways back are left out. */
function columnsOf({ initialStage, stages }: Definition, arrows: Arrow[]): Map<string, number> {
  const columns = new Map(stages.map(({ name }) => [name, 0]));
  function walk(name: string, way: string[]) {
    for (const { to } of arrows.filter(({ from }) => from === name)) {
      if (to === name || way.includes(to)) continue;
      if (columns.get(to)! < way.length) {
        columns.set(to, way.length);
        walk(to, [...way, to]);
      }
    }
  }
  walk(initialStage, [initialStage]);
  // What ends a life stands at the end, whichever way leads there.
  const last = Math.max(...columns.values());
  for (const { name, final } of stages) if (final) columns.set(name, last);
  return columns;
}

/** The stages on the straight line: from the first one on, where money is released in the end. */
function spineOf({ initialStage, stages }: Definition, arrows: Arrow[], columns: Map<string, number>) {
  const spine = new Set([initialStage]);
  for (let here: string | undefined = initialStage; here !== undefined; ) {
    const onward = arrows.filter(({ from, to }) => from === here && columns.get(to)! > columns.get(here!)!);
    const nearest = Math.min(...onward.map(({ to }) => columns.get(to)!));
    const next: string | undefined = onward
      .filter(({ to }) => columns.get(to) === nearest)
      .sort((one, other) => rank(one) - rank(other))[0]?.to;
    if (next !== undefined) spine.add(next);
    here = stages.some(({ name }) => name === next) && next !== here ? next : undefined;
  }
  return spine;
}

const rank = ({ effect }: Arrow): number => ["FUND", "RELEASE", "NONE", "REFUND"].indexOf(effect);

function pathOf(from: Station, to: Station): string {
  const middle = ({ y }: Station) => y + HEIGHT / 2;
  if (from === to) {
    const x = from.x + WIDTH / 2;
    return `M${x - 16} ${from.y} v-6 a8 8 0 0 1 8 -8 h16 a8 8 0 0 1 8 8 v4`;
  }
  if (to.row === from.row && to.column === from.column + 1) {
    return `M${from.x + WIDTH} ${middle(from)} H${to.x - 3}`;
  }
  if (to.row === 0) {
    const start = from.x + WIDTH - 26;
    const end = to.x + 26;
    const [turn, back] = end > start ? [BEND, -BEND] : [-BEND, BEND];
    const y = to.y - 34;
    return (
      `M${start} ${from.y} V${y + BEND} q0 ${-BEND} ${turn} ${-BEND}` +
      ` H${end + back} q${turn} 0 ${turn} ${BEND} V${to.y - 3}`
    );
  }
  // Down beside the station, each line in a track of its own, then along to the end.
  const start = from.x + 20 + to.row * 18;
  return `M${start} ${from.y + HEIGHT} V${middle(to) - BEND} q0 ${BEND} ${BEND} ${BEND} H${to.x - 3}`;
}
