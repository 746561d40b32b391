import type { PositionState } from "../generated";
import { plain } from "../words";

const RING = <circle cx="8" cy="8" r="6" fill="none" stroke="currentColor" strokeWidth="1.6" />;

// Told by shape as well as by colour: the disc is the money that is held.
const SHAPES: Record<PositionState, React.ReactNode> = {
  CREATED: <circle cx="8" cy="8" r="6" fill="none" stroke="currentColor" strokeWidth="1.6" strokeDasharray="2.4 2.3" />,
  FUNDED: <circle cx="8" cy="8" r="6.8" fill="currentColor" />,
  PARTIALLY_RELEASED: (
    <>
      {RING}
      <path d="M8 2a6 6 0 0 1 0 12z" fill="currentColor" />
    </>
  ),
  RELEASED: (
    <>
      {RING}
      <path d="M5 8.2l2.2 2.2L11 6" fill="none" stroke="currentColor" strokeWidth="1.6" />
    </>
  ),
  CANCELLED: (
    <>
      {RING}
      <path d="M5.6 5.6l4.8 4.8M10.4 5.6l-4.8 4.8" stroke="currentColor" strokeWidth="1.6" />
    </>
  ),
  EXPIRED: (
    <>
      {RING}
      <path d="M8 4.6V8l2.2 1.6" fill="none" stroke="currentColor" strokeWidth="1.6" />
    </>
  ),
};

export function StateGlyph({ state }: { state: PositionState }) {
  return (
    <svg className={`glyph state-${state}`} viewBox="0 0 16 16" aria-hidden="true">
      {SHAPES[state]}
    </svg>
  );
}

/** A state as a word with its sign. */
export function State({ state }: { state: PositionState }) {
  return (
    <span className="state">
      <StateGlyph state={state} />
      {plain(state)}
    </span>
  );
}
