import { useMemo } from "react";
import { plain } from "../words";
import { drawDown } from "./lifecycleColumn";
import { type Definition, HEIGHT, WIDTH, draw } from "./lifecycleMap";
import { useWide } from "./useWide";

// Narrower than this, the names in it cannot be read; then it scrolls.
const WIDTH_MIN = 620;

interface Props {
  definition: Definition & { name: string; version: number };
  stage: string;
  /** The steps that were taken, as `FROM>TO`. */
  walked: ReadonlySet<string>;
}

/** The stages of a lifecycle and the ways between them; where the position is, and how it came there. */
export function Lifecycle({ definition, stage, walked }: Props) {
  const isWide = useWide();
  const map = useMemo(() => (isWide ? draw : drawDown)(definition), [definition, isWide]);
  const beenTo = new Set([definition.initialStage, ...[...walked].flatMap((step) => step.split(">"))]);
  return (
    <div className="lifecycle" tabIndex={0} role="group" aria-label="Lifecycle diagram">
      <svg
        viewBox={`0 0 ${map.width} ${map.height}`}
        style={{ maxWidth: map.width * 1.1, minWidth: Math.min(map.width, WIDTH_MIN) }}
        role="img"
        aria-label={`Lifecycle ${definition.name}@${definition.version}. The position is at ${plain(stage)}.`}
      >
        <defs>
          {["walked", "FUND", "RELEASE", "REFUND", "NONE"].map((kind) => (
            <marker key={kind} id={`tip-${kind}`} className={`tip is-${kind}`} viewBox="0 0 8 8" refX="6" refY="4"
              markerWidth="7" markerHeight="7" markerUnits="userSpaceOnUse" orient="auto">
              <path d="M0 .6 7 4 0 7.4z" />
            </marker>
          ))}
        </defs>
        {map.tracks.map(({ from, to, effect, path }) => {
          const isWalked = walked.has(`${from}>${to}`);
          return (
            <path
              key={`${from}>${to}`}
              className={`track is-${effect}${isWalked ? " is-walked" : ""}`}
              d={path}
              markerEnd={`url(#tip-${effect})`}
            />
          );
        })}
        {map.stations.map((station) => (
          <g
            key={station.name}
            className={`station${station.name === stage ? " is-here" : ""}${beenTo.has(station.name) ? " is-past" : ""}`}
            transform={`translate(${station.x} ${station.y})`}
          >
            <rect width={WIDTH} height={HEIGHT} rx={HEIGHT / 2} />
            <text x={WIDTH / 2} y={HEIGHT / 2}>
              {plain(station.name)}
            </text>
          </g>
        ))}
      </svg>
      <ul className="legend" aria-hidden="true">
        <li className="is-FUND">comes in</li>
        <li className="is-RELEASE">to the beneficiary</li>
        <li className="is-REFUND">back to the funder</li>
        <li className="is-NONE">no money moves</li>
      </ul>
    </div>
  );
}
