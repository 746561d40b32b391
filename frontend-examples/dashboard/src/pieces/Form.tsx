import { type FormEvent, type ReactNode, useId, useState } from "react";
import { useSession } from "../session";
import { type Refusal, Refusals } from "./Refusals";

export type Answer = { refused: readonly Refusal[] } | { trouble: string } | { done: string };

interface FormProps {
  title: string;
  action: string;
  children: ReactNode;
  /** Gets what was filled in; empty fields are left out. */
  onSend(values: Record<string, string>): Promise<Answer>;
}

/** A form that sends one mutation and shows what became of it. */
export function Form({ title, action, children, onSend }: FormProps) {
  const [answer, setAnswer] = useState<Answer | null>(null);
  const [isSending, setSending] = useState(false);
  const heading = useId();

  async function submit(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    if (isSending) return;
    const form = event.currentTarget;
    const filled = [...new FormData(form)].map(([name, value]) => [name, String(value).trim()]);
    setSending(true);
    setAnswer(null);
    const given = await onSend(Object.fromEntries(filled.filter(([, value]) => value)));
    setSending(false);
    setAnswer(given);
    if ("done" in given) form.reset();
  }

  return (
    <form className="sheet form" onSubmit={submit} aria-labelledby={heading} autoComplete="off">
      <h2 id={heading}>{title}</h2>
      <div className="form-fields">{children}</div>
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

interface FieldProps {
  name: string;
  label: string;
  note?: string;
  required?: boolean;
  inputMode?: "decimal" | "numeric";
}

export function Field({ name, label, note, ...rest }: FieldProps) {
  const id = useId();
  return (
    <p className="field">
      <label htmlFor={id}>{label}</label>
      <input id={id} name={name} aria-describedby={note && `${id}-note`} {...rest} />
      {note && (
        <span id={`${id}-note`} className="note">
          {note}
        </span>
      )}
    </p>
  );
}

interface ChoiceProps {
  name: string;
  label: string;
  options: readonly { value: string; name: string }[];
  value?: string;
  onChange?(value: string): void;
}

export function Choice({ name, label, options, value, onChange }: ChoiceProps) {
  const id = useId();
  return (
    <p className="field">
      <label htmlFor={id}>{label}</label>
      <select id={id} name={name} value={value} onChange={onChange && (({ target }) => onChange(target.value))}>
        {options.map((option) => (
          <option key={option.value} value={option.value}>
            {option.name}
          </option>
        ))}
      </select>
    </p>
  );
}

/** Root has to say which institution is meant; everybody else means their own. */
export function InstitutionField() {
  const { viewer, institutions, institution } = useSession();
  if (viewer.institution) return null;
  const options = institutions.map(({ id, name }) => ({ value: id, name }));
  const sorted = options.sort((one, other) => Number(other.value === institution) - Number(one.value === institution));
  return <Choice name="institutionId" label="Institution" options={sorted} />;
}

/** A list of values, as people type them: with commas between. */
export const listed = (text: string | undefined): string[] =>
  (text ?? "").split(",").map((item) => item.trim()).filter(Boolean);
