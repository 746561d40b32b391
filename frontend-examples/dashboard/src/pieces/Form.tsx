import { type FormEvent, type ReactNode, createContext, useContext, useEffect, useId, useRef, useState } from "react";
import type { CombinedError } from "urql";
import { misfits, words } from "../server";
import { useSession } from "../session";
import { type Refusal, Refusals } from "./Refusals";

export type Answer = { refused: readonly Refusal[] } | { trouble: string } | { done: string };

/** What is wrong with each field, by its name. */
type Wrongs = Readonly<Record<string, string>>;
const WrongsContext = createContext<Wrongs>({});

interface FormProps {
  title: string;
  action: string;
  children: ReactNode;
  /** Gets what was filled in; empty fields are left out. */
  onSend(values: Record<string, string>): Promise<Answer>;
}

/** A form that sends one mutation and shows what became of it: what was refused, at the field that it is about. */
export function Form({ title, action, children, onSend }: FormProps) {
  const [answer, setAnswer] = useState<Answer | null>(null);
  const [wrongs, setWrongs] = useState<Wrongs>({});
  const [isSending, setSending] = useState(false);
  const form = useRef<HTMLFormElement>(null);
  const heading = useId();

  function show(given: Answer | null) {
    const told = given && "refused" in given ? given.refused : [];
    const placed = told.map((refusal) => [fieldOf(refusal, form.current!), refusal] as const);
    setWrongs(Object.fromEntries(placed.flatMap(([name, { message }]) => (name ? [[name, said(message)]] : [])).reverse()));
    const rest = placed.filter(([name]) => !name).map(([, refusal]) => refusal);
    setAnswer(given && "refused" in given ? { refused: rest } : given);
  }

  async function submit(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    if (isSending) return;
    const missing = missingIn(event.currentTarget);
    if (missing.length) return show({ refused: missing });
    const filled = [...new FormData(event.currentTarget)].map(([name, value]) => [name, String(value).trim()]);
    setSending(true);
    show(null);
    const given = await onSend(Object.fromEntries(filled.filter(([, value]) => value)));
    setSending(false);
    if (!form.current) return; // they went elsewhere meanwhile
    show(given);
    if ("done" in given) form.current.reset();
  }

  /** What is wrong with a field is said until it is changed. */
  function change({ target }: FormEvent<HTMLFormElement>) {
    const { name } = target as HTMLInputElement;
    setWrongs(({ [name]: _, ...others }) => others);
  }

  // An answer's wrongs, not those that are left after one was changed.
  const isWrong = Object.keys(wrongs).length > 0;
  useEffect(() => {
    if (isWrong) form.current?.querySelector<HTMLElement>("[aria-invalid=true]")?.focus();
  }, [answer]);

  return (
    <form
      className="sheet form"
      ref={form}
      onSubmit={submit}
      onInput={change}
      aria-labelledby={heading}
      autoComplete="off"
      noValidate
    >
      <h2 id={heading}>{title}</h2>
      <p className="note">Fields marked with a star are needed.</p>
      <WrongsContext value={wrongs}>
        <div className="form-fields">{children}</div>
      </WrongsContext>
      <Refusals of={answer && "refused" in answer ? answer.refused : []} />
      <p role="alert" className="refusal">
        {answer && "trouble" in answer && answer.trouble}
      </p>
      {/* While it sends it keeps the focus, which a disabled one would lose. */}
      <button type="submit" className="primary" aria-disabled={isSending}>
        {isSending ? "Sending" : action}
      </button>
      <p role="status" className="done">
        {answer && "done" in answer && answer.done}
      </p>
    </form>
  );
}

/** What a mutation that brought no data came to. */
export function unanswered(error: CombinedError | undefined): Answer {
  const refused = error ? misfits(error) : [];
  if (refused.length) return { refused };
  return { trouble: error ? `${words(error)} Nothing that you typed is lost.` : "The server gave no answer." };
}

function missingIn(form: HTMLFormElement): Refusal[] {
  const inputs = [...form.elements].filter((element) => element instanceof HTMLInputElement);
  const empty = inputs.filter(({ required, value }) => required && !value.trim());
  return empty.map(({ name }) => ({ code: "VALIDATION_FAILED", message: "this is needed", field: name }));
}

/** The field of the form that a refusal is about: `config.currency` is about the one named currency. */
function fieldOf({ field }: Refusal, form: HTMLFormElement): string | undefined {
  return field?.split(".").reverse().find((name) => form.elements.namedItem(name) !== null);
}

/** The API's words as a sentence; what it quotes, people need not read as code. */
function said(message: string): string {
  const plain = message.replaceAll("`", "");
  return `${plain.charAt(0).toUpperCase()}${plain.slice(1)}${/[.!?]$/.test(plain) ? "" : "."}`;
}

interface FieldProps {
  name: string;
  label: string;
  /** What is accepted. */
  note: string;
  required?: boolean;
  inputMode?: "decimal" | "numeric";
}

export function Field({ name, label, note, ...rest }: FieldProps) {
  const id = useId();
  return (
    <Labelled id={id} name={name} label={label} note={note} required={rest.required}>
      {(marks) => <input id={id} name={name} {...marks} {...rest} />}
    </Labelled>
  );
}

interface ChoiceProps {
  name: string;
  label: string;
  note?: string;
  options: readonly { value: string; name: string }[];
  value?: string;
  onChange?(value: string): void;
}

export function Choice({ name, label, note, options, value, onChange }: ChoiceProps) {
  const id = useId();
  return (
    <Labelled id={id} name={name} label={label} note={note} required>
      {(marks) => (
        <select
          id={id}
          name={name}
          value={value}
          onChange={onChange && (({ target }) => onChange(target.value))}
          required
          {...marks}
        >
          {options.map((option) => (
            <option key={option.value} value={option.value}>
              {option.name}
            </option>
          ))}
        </select>
      )}
    </Labelled>
  );
}

interface LabelledProps {
  id: string;
  name: string;
  label: string;
  note?: string;
  required?: boolean;
  children(marks: { "aria-invalid"?: true; "aria-describedby"?: string }): ReactNode;
}

/** A label above, what is accepted below, and what is wrong with it. */
function Labelled({ id, name, label, note, required, children }: LabelledProps) {
  const wrong = useContext(WrongsContext)[name];
  const told = [wrong && `${id}-wrong`, note && `${id}-note`].filter(Boolean).join(" ");
  return (
    <p className={required ? "field is-required" : "field"}>
      <label htmlFor={id}>{label}</label>
      {children({ "aria-invalid": wrong ? true : undefined, "aria-describedby": told || undefined })}
      {wrong && (
        <span id={`${id}-wrong`} className="wrong">
          {wrong}
        </span>
      )}
      {note && (
        <span id={`${id}-note`} className="note">
          {note}
        </span>
      )}
    </p>
  );
}

/** Root has to say which institution is meant; everybody else means their own. */
export function InstitutionField() {
  const { viewer, institutions, institution } = useSession();
  if (viewer.institution) return null;
  const options = institutions.map(({ id, name }) => ({ value: id, name }));
  const sorted = options.sort((one, other) => Number(other.value === institution) - Number(one.value === institution));
  return <Choice name="institutionId" label="Institution" note="Whose it will be" options={sorted} />;
}

/** A list of values, as people type them: with commas between. */
export const listed = (text: string | undefined): string[] =>
  (text ?? "").split(",").map((item) => item.trim()).filter(Boolean);
