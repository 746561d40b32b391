import { useState } from "react";
import { useClient } from "urql";
import { type AnchoringFragment, type HappeningFragment, ProofDocument } from "../generated";
import { words } from "../server";

/** Where one event is anchored, in a line; opened, it tells how anybody can check that. */
export function Anchored({ event, anchor }: { event: HappeningFragment; anchor: AnchoringFragment | null }) {
  if (!anchor) return <p className="anchored is-waiting">Not anchored yet</p>;
  const isOnChain = anchor.state === "MINED" || anchor.state === "FINAL";
  if (!isOnChain) {
    return <p className={`anchored is-${anchor.state}`}>{standing(anchor)}</p>;
  }
  return (
    <details className={`anchored is-${anchor.state}`}>
      <summary>
        {standing(anchor)}
        <span className="unseen">: proof of version {event.positionVersion}</span>
      </summary>
      <dl className="proof">
        <dt>Transaction</dt>
        <dd>
          <code>{anchor.txHash}</code>
        </dd>
        <dt>Contract</dt>
        <dd>
          <code>{anchor.contract}</code> on chain {anchor.chainId}
        </dd>
        <dt>Covers</dt>
        <dd>the first {anchor.size?.toLocaleString("en")} events of the ledger</dd>
        {event.record && (
          <>
            <dt>Recorded</dt>
            <dd>{recorded(event.record)}</dd>
          </>
        )}
      </dl>
      <Proof event={event} />
    </details>
  );
}

function Proof({ event }: { event: HappeningFragment }) {
  const client = useClient();
  const [said, say] = useState("");
  const file = `proof-${event.id}.json`;

  async function fetchProof() {
    const { data, error } = await client.query(ProofDocument, { id: event.id }).toPromise();
    const document = data?.ledgerEvent?.proof?.document;
    if (!document) return say(error ? words(error) : "There is no proof of it now: the chain dropped the block.");
    save(file, JSON.stringify(document, null, 2));
    say(`Saved as ${file}.`);
  }

  return (
    <div className="prove">
      <p>
        <button type="button" onClick={fetchProof}>
          Download the proof
        </button>
        <span role="status" className="note">
          {said}
        </span>
      </p>
      <p className="note">
        Checked with verify_proof.py, which needs nothing of this server. Take the node and the contract&rsquo;s address
        from somebody you trust more.
      </p>
      <code className="command">python3 verify_proof.py {file} --rpc NODE --contract ADDRESS</code>
    </div>
  );
}

function standing({ state, blockNumber, confirmations, chainId, failure }: AnchoringFragment): string {
  switch (state) {
    case "FINAL":
      return `Anchored for good in block ${blockNumber}, ${blocks(confirmations)}`;
    case "MINED":
      return `Anchored in block ${blockNumber}, ${blocks(confirmations)} so far`;
    case "REORGED":
      return "The chain dropped its block; it is sent again";
    case "FAILED":
      return "The contract refuses it; an operator has to look";
    default:
      return failure ? `Waits for chain ${chainId}: ${failure}` : `On its way to chain ${chainId}`;
  }
}

const blocks = (count: number | null) => (count === 1 ? "1 confirmation" : `${count ?? 0} confirmations`);

function recorded({ skipped, number, txHash }: NonNullable<HappeningFragment["record"]>) {
  if (skipped) return `not by itself: ${skipped}`;
  if (number === null) return "by itself, when its turn comes";
  return (
    <>
      by itself, as number {number} {txHash && <code>{txHash}</code>}
    </>
  );
}

function save(name: string, text: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}
