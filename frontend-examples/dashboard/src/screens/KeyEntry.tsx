import { type FormEvent, useState } from "react";
import type { Entry } from "../keys";
import { Mark } from "../pieces/Mark";

interface Props {
  offers: Entry[];
  refusal: string | null;
  onEntry(entry: Entry): void;
}

/** Asks for the API key. */
export function KeyEntry({ offers, refusal, onEntry }: Props) {
  const [typed, setTyped] = useState("");

  function submit(event: FormEvent) {
    event.preventDefault();
    const key = typed.trim().replace(/^Bearer\s+/i, "");
    if (key) onEntry({ key });
  }

  return (
    <main className="entry">
      <p className="wordmark">
        <Mark /> Escrowgrid
      </p>
      <h1>What is held, for whom, and what is happening to it.</h1>
      <form onSubmit={submit} autoComplete="off">
        <label htmlFor="key">API key</label>
        <div className="entry-line">
          <input
            id="key"
            type="password"
            autoComplete="off"
            spellCheck={false}
            value={typed}
            onChange={({ target }) => setTyped(target.value)}
            aria-describedby="key-note"
          />
          <button type="submit" className="primary" disabled={!typed.trim()}>
            Open
          </button>
        </div>
        <p id="key-note" className="note">
          It stays in this tab until the tab is closed, and goes to this server alone.
        </p>
        <p role="alert" className="refusal">
          {refusal && `Key refused: ${refusal}`}
        </p>
        {offers.map((offer) => (
          <button key={offer.key} type="button" onClick={() => onEntry(offer)}>
            {offer.label}
          </button>
        ))}
      </form>
    </main>
  );
}
