/** The same map where there is no room for columns: the stages below each other, the ways past others at their right. */
import { type Arrow, type Definition, type Drawing, HEIGHT, type Station, type Track, WIDTH, arrowsOf, draw } from "./lifecycleMap";

const STEP = 66;
const LANE = 16;
const BEND = 6;
// Ways leave a station below its middle and come in above it.
const APART = 8;

export function drawDown(definition: Definition): Drawing {
  const stations = draw(definition)
    .stations.sort((one, other) => one.column - other.column || one.row - other.row)
    .map((station, row): Station => ({ ...station, column: 0, row, x: 1, y: 1 + row * STEP }));
  const at = (name: string) => stations.find((station) => station.name === name)!;
  const isNext = ({ from, to }: Arrow) => at(to).row === at(from).row + 1;
  const arrows = arrowsOf(definition);
  const lanes = lanesOf(arrows.filter((arrow) => !isNext(arrow)), (name) => at(name).row);
  const tracks = arrows.map((arrow): Track => {
    const [from, to] = [at(arrow.from), at(arrow.to)];
    return { ...arrow, path: isNext(arrow) ? down(from, to) : past(from, to, lanes.indexOf(arrow.to)) };
  });
  return {
    stations,
    tracks,
    width: WIDTH + 2 + (lanes.length + 1) * LANE,
    height: (stations.length - 1) * STEP + HEIGHT + 2,
  };
}

/** Where the ways past others lead; those to one stage share a lane, the shortest is the innermost. */
function lanesOf(arrows: Arrow[], rowOf: (name: string) => number): string[] {
  const length = new Map<string, number>();
  for (const { from, to } of arrows) {
    length.set(to, Math.max(length.get(to) ?? 0, Math.abs(rowOf(to) - rowOf(from))));
  }
  return [...length.keys()].sort((one, other) => length.get(one)! - length.get(other)!);
}

const down = (from: Station, to: Station): string => `M${from.x + WIDTH / 2} ${from.y + HEIGHT} V${to.y - 3}`;

function past(from: Station, to: Station, lane: number): string {
  const edge = from.x + WIDTH;
  const x = edge + (lane + 1) * LANE;
  const start = from.y + HEIGHT / 2 + APART;
  const end = to.y + HEIGHT / 2 - APART;
  const bend = end > start ? BEND : -BEND;
  return (
    `M${edge - 2} ${start} H${x - BEND} q${BEND} 0 ${BEND} ${bend}` +
    ` V${end - bend} q0 ${bend} ${-BEND} ${bend} H${edge + 2}`
  );
}
