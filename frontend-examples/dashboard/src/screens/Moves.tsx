import { type FormEvent, useEffect, useId, useRef, useState } from "react";
import { useClient } from "urql";
import { MoveDocument } from "../generated";
import { Amount } from "../pieces/Amount";
import { MoneyBar } from "../pieces/MoneyBar";
import { type Refusal, Refusals } from "../pieces/Refusals";
import { add, digitsOf, isAmount, isNegative, isZero, spell, subtract } from "../money";
import { words } from "../server";
import { useMay } from "../session";
import { EFFECTS, plain } from "../words";
import type { Moved, Whole } from "./Position";

type Way = Whole["availableTransitions"][number];

interface Props {
  position: Whole;
  onMoved(position: Moved): void;
  onLook(): void;
}

const verbOf = ({ moneyEffect, portion, toStage }: Way): string => {
  if (moneyEffect === "FUND") return "Fund";
  if (moneyEffect === "RELEASE") return portion === "PART" ? "Release a part" : "Release all";
  if (moneyEffect === "REFUND") return `Refund: ${plain(toStage).toLowerCase()}`;
  return `Mark as ${plain(toStage).toLowerCase()}`;
};

/** The ways on from here, as buttons; those that are closed say why. */
export function Moves({ position, onMoved, onLook }: Props) {
  const [chosen, setChosen] = useState<string | null>(null);
  const [done, setDone] = useState("");
  const end = useRef<HTMLParagraphElement>(null);
  const mayMove = useMay("POSITIONS_MOVE");
  // The server tells what the lifecycle allows; whether this key may move anything, its scopes say.
  const ways = position.availableTransitions.map((one) => (mayMove ? one : { ...one, allowed: false }));
  const way = ways.find(({ toStage, allowed }) => toStage === chosen && allowed);
  // The form that had the focus is gone: who uses a keyboard goes on from what was said.
  useEffect(() => {
    if (done) end.current?.focus();
  }, [done]);
  const closed = mayMove ? ways.filter(({ allowed }) => !allowed) : [];

  return (
    <section aria-labelledby="moves" className="moves">
      <h2 id="moves">What may happen next</h2>
      {ways.length === 0 && <p className="note">Nothing: this position has come to its end.</p>}
      <div className="moves-ways">
        {ways.map((one) => (
          <button
            key={one.toStage}
            type="button"
            className={`way is-${one.moneyEffect}`}
            disabled={!one.allowed}
            aria-expanded={one.allowed ? one.toStage === chosen : undefined}
            onClick={() => {
              setDone("");
              setChosen(one.toStage === chosen ? null : one.toStage);
            }}
          >
            <span>{verbOf(one)}</span>
            {one.amount && !isZero(one.amount) && <Amount of={one.amount} currency={position.currency} />}
          </button>
        ))}
      </div>
      {!mayMove && ways.length > 0 && <p className="moves-closed">This key may look, but not move positions.</p>}
      {closed.length > 0 && (
        <ul className="moves-closed">
          {closed.map((one) => (
            <li key={one.toStage}>
              {verbOf(one)}: {one.reason}
            </li>
          ))}
        </ul>
      )}
      {way && (
        <MoveForm
          key={way.toStage}
          way={way}
          position={position}
          onLook={onLook}
          onMoved={(moved, said) => {
            setChosen(null);
            setDone(said);
            onMoved(moved);
          }}
        />
      )}
      <p role="status" className="done" ref={end} tabIndex={-1}>
        {done}
      </p>
    </section>
  );
}

interface FormProps {
  way: Way;
  position: Whole;
  onLook(): void;
  onMoved(position: Moved, said: string): void;
}

function MoveForm({ way, position, onLook, onMoved }: FormProps) {
  const client = useClient();
  const id = useId();
  const [typed, setTyped] = useState("");
  const [reason, setReason] = useState("");
  const [refused, setRefused] = useState<readonly Refusal[]>([]);
  const [unanswered, setUnanswered] = useState<string | null>(null);
  const [isSending, setSending] = useState(false);
  const submit = useRef<HTMLButtonElement>(null);
  // What was looked at when the form was opened: the server refuses if it has moved since.
  const [seen, setSeen] = useState(position.version);
  // One name for one wish: sent again after a lost answer, it still acts once.
  const [wish, setWish] = useState(newName);

  const { currency } = position;
  const asksAmount = way.portion === "PART";
  const amount = asksAmount ? typed.trim() : (way.amount ?? "0");
  const isStale = position.version > seen;
  const isConflict = refused.some(({ code }) => code === "VERSION_CONFLICT");
  const problem = asksAmount && typed ? problemOf(amount, position) : null;

  async function send(event: FormEvent) {
    event.preventDefault();
    if (isSending) return;
    setSending(true);
    setRefused([]);
    setUnanswered(null);
    const input = {
      id: position.id,
      toStage: way.toStage,
      ...(asksAmount && { amount }),
      ...(reason.trim() && { reason: reason.trim() }),
      expectedVersion: seen,
      idempotencyKey: wish,
    };
    const { data, error } = await client.mutation(MoveDocument, { input }).toPromise();
    setSending(false);
    if (error?.networkError) return setUnanswered("No answer came. Send it again: it acts once, whatever happened.");
    if (!data) return setUnanswered(error ? words(error) : "The server gave no answer.");
    const { position: moved, userErrors } = data.transitionPosition;
    if (moved) return onMoved(moved, `Done: ${plain(moved.stage).toLowerCase()}, version ${moved.version}.`);
    setRefused(userErrors);
    setWish(newName());
    if (userErrors.some(({ code }) => code === "VERSION_CONFLICT")) onLook();
  }

  return (
    <form className="sheet move" onSubmit={send} aria-label={verbOf(way)}>
      <p className="move-effect">
        {EFFECTS[way.moneyEffect]}.{" "}
        {way.moneyEffect === "RELEASE" && "What has been released cannot be taken back."}
      </p>
      {asksAmount && (
        <p className="field">
          <label htmlFor={`${id}-amount`}>Amount</label>
          <span className="amount-entry">
            <input
              id={`${id}-amount`}
              inputMode="decimal"
              autoComplete="off"
              required
              autoFocus
              value={typed}
              aria-invalid={problem !== null}
              aria-describedby={`${id}-note`}
              onChange={({ target }) => setTyped(target.value)}
            />
            <span>{currency}</span>
          </span>
          <span id={`${id}-note`} className="note">
            {problem ?? `Less than ${spell(position.held)} ${currency}, which is held.`}
          </span>
        </p>
      )}
      <p className="field">
        <label htmlFor={`${id}-reason`}>Reason (optional)</label>
        <input
          id={`${id}-reason`}
          maxLength={1000}
          autoComplete="off"
          value={reason}
          onChange={({ target }) => setReason(target.value)}
        />
      </p>
      {(!asksAmount || (typed && !problem)) && <Preview way={way} amount={amount} position={position} />}
      <Refusals of={refused} />
      {isStale && (
        <p className="stale">
          {!isConflict &&
            `This position has moved since you opened this form (version ${seen} is now ${position.version}). `}
          <button
            type="button"
            onClick={() => {
              setSeen(position.version);
              setRefused([]);
              submit.current?.focus();
            }}
          >
            I have looked at it again
          </button>
        </p>
      )}
      <p role="alert" className="refusal">
        {unanswered}
      </p>
      {/* While it sends it keeps the focus, which a disabled one would lose. */}
      <button
        type="submit"
        className="primary"
        ref={submit}
        aria-disabled={isSending}
        disabled={asksAmount && (!typed || problem !== null)}
      >
        {isSending ? "Sending" : unanswered ? "Send again" : `${verbOf(way)} now`}
      </button>
    </form>
  );
}

/** A name that nobody else gives; randomUUID would want https. */
function newName(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `dashboard-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

function problemOf(amount: string, { held, currency }: Whole): string | null {
  // The server spells every amount with as many digits as its currency has.
  const digits = digitsOf(held);
  const example = digits ? `1250.${"0".repeat(digits)}` : "1250";
  if (!isAmount(amount)) return `An amount is plain digits, such as ${example}.`;
  if (digitsOf(amount) > digits) return `${currency} has ${digits || "no"} digits after the point: ${example}.`;
  const left = subtract(held, amount);
  if (isNegative(left)) return "That is more than what is held.";
  return isZero(left) ? "That is all that is held: choose “Release all”." : null;
}

/** What it will look like afterwards. */
function Preview({ way, amount, position }: { way: Way; amount: string; position: Whole }) {
  const after = { ...position };
  if (way.moneyEffect === "FUND") Object.assign(after, { funded: amount, held: amount });
  if (way.moneyEffect === "RELEASE" || way.moneyEffect === "REFUND") {
    const name = way.moneyEffect === "RELEASE" ? "released" : "refunded";
    Object.assign(after, { held: subtract(position.held, amount), [name]: add(position[name], amount) });
  }
  return (
    <p className="preview">
      <span className="caption">Afterwards</span>
      <MoneyBar money={after} currency={position.currency} />
      <span>
        <Amount of={after.held} currency={position.currency} /> held
      </span>
    </p>
  );
}
