import { useMemo, useRef, useState } from "react";
import { useClient, useQuery } from "urql";
import { useAgain } from "../again";
import { CreateKeyDocument, type CreateApiKeyInput, KeysDocument, type KeysQuery, RevokeKeyDocument, RotateKeyDocument } from "../generated";
import { type Answer, Choice, Field, Form, InstitutionField, unanswered } from "../pieces/Form";
import { Table } from "../pieces/Table";
import { words } from "../server";
import { useScope, useSession } from "../session";
import { day, moment } from "../time";
import { plain } from "../words";

type Key = KeysQuery["apiKeys"]["edges"][number]["node"];

const COLUMNS = ["Label", "Institution", "Role", "Begins with", "Last used", "Standing", "Actions"].map((name) => ({ name }));
const DAY_MS = 86_400_000;

/** Who may ask. A secret is told once, when it is made. */
export function Keys() {
  const { viewer, institution } = useSession();
  const scope = useScope();
  const client = useClient();
  const [{ data, error }, ask] = useQuery({
    query: KeysDocument,
    variables: useMemo(() => ({ where: scope }), [institution]),
  });
  useAgain(() => ask({ requestPolicy: "network-only" }), error?.networkError !== undefined);
  const [told, setTold] = useState<{ label: string; secret: string } | null>(null);
  const [trouble, setTrouble] = useState<string | null>(null);
  const look = () => ask({ requestPolicy: "network-only" });

  async function rotate(key: Key) {
    const { data: done, error: wrong } = await client.mutation(RotateKeyDocument, { input: { id: key.id } }).toPromise();
    const { secret, userErrors } = done?.rotateApiKey ?? {};
    setTrouble(wrong ? words(wrong) : (userErrors?.map(({ message }) => message).join(" ") ?? null));
    if (secret) setTold({ label: key.label, secret });
    look();
  }

  async function revoke(key: Key) {
    const { data: done, error: wrong } = await client.mutation(RevokeKeyDocument, { input: { id: key.id } }).toPromise();
    setTrouble(wrong ? words(wrong) : (done?.revokeApiKey.userErrors.map(({ message }) => message).join(" ") ?? null));
    look();
  }

  return (
    <>
      <Secret told={told} onForget={() => setTold(null)} />
      <p role="alert" className="refusal">
        {trouble || (error && words(error))}
      </p>
      <Table
        label="Keys"
        columns={COLUMNS}
        rows={(data?.apiKeys.edges ?? []).map(({ node }) => ({
          key: node.id,
          cells: [
            node.label,
            node.institution?.name,
            plain(node.role),
            <code>{node.prefix}</code>,
            node.lastUsedAt ? moment(node.lastUsedAt) : "never",
            standing(node),
            !node.revokedAt && <Acts node={node} onRotate={rotate} onRevoke={revoke} />,
          ],
        }))}
      />
      {data?.apiKeys.edges.length === 0 && <None />}
      {viewer.id === "root" && (
        <p className="note">
          The root key, which you use, belongs to no institution: it is set where the server runs, and is not in this list.
        </p>
      )}
      <NewKey onMade={setTold} onLook={look} />
    </>
  );
}

/** The keys of institutions are listed; whether there are none at all depends on whom the page is about. */
function None() {
  const { viewer, institutions, institution } = useSession();
  const chosen = institutions.find(({ id }) => id === institution) ?? viewer.institution;
  return <p className="nothing">{chosen ? `${chosen.name} has no keys yet.` : "No institution has a key yet."}</p>;
}

function standing({ revokedAt, expiresAt }: Key): string {
  if (revokedAt) return `Revoked ${moment(revokedAt)}`;
  if (!expiresAt) return "In force";
  return new Date(expiresAt) < new Date() ? `Expired ${day(expiresAt)}` : `Until ${day(expiresAt)}`;
}

interface ActsProps {
  node: Key;
  onRotate(key: Key): void;
  onRevoke(key: Key): void;
}

function Acts({ node, onRotate, onRevoke }: ActsProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  return (
    <div className="acts">
      <button type="button" onClick={() => onRotate(node)} aria-label={`Change secret of ${node.label}`}>
        Change secret
      </button>
      <button type="button" onClick={() => dialog.current?.showModal()} aria-label={`Revoke ${node.label}`}>
        Revoke
      </button>
      <dialog ref={dialog} aria-label={`Revoke ${node.label}?`}>
        <form method="dialog">
          <p>
            <strong>Revoke {node.label}?</strong> It opens nothing from now on, and its live streams end. That cannot be
            taken back.
          </p>
          <p className="acts">
            <button>Keep it</button>
            <button className="primary is-grave" onClick={() => onRevoke(node)}>
              Revoke it
            </button>
          </p>
        </form>
      </dialog>
    </div>
  );
}

function Secret({ told, onForget }: { told: { label: string; secret: string } | null; onForget(): void }) {
  const [isCopied, setCopied] = useState(false);
  if (!told) return null;
  // Without https browsers have no clipboard; the secret can be selected by a click.
  const copy = () => navigator.clipboard?.writeText(told.secret).then(() => setCopied(true), () => undefined);
  return (
    <section className="sheet secret" aria-label="New secret" role="status">
      <p>
        The secret of <strong>{told.label}</strong>. It is told this once: keep it where its user finds it.
      </p>
      <code>{told.secret}</code>
      <p className="acts">
        <button type="button" onClick={copy}>
          {isCopied ? "Copied" : "Copy"}
        </button>
        <button type="button" onClick={onForget}>
          I have kept it
        </button>
      </p>
    </section>
  );
}

interface NewKeyProps {
  onMade(told: { label: string; secret: string }): void;
  onLook(): void;
}

function NewKey({ onMade, onLook }: NewKeyProps) {
  const client = useClient();

  async function send({ label, role, institutionId, expiresAt: days }: Record<string, string>): Promise<Answer> {
    if (days && !/^[1-9]\d{0,4}$/.test(days)) {
      const message = "this takes a whole number of days, such as 90";
      return { refused: [{ code: "VALIDATION_FAILED", message, field: "expiresAt" }] };
    }
    const expiresAt = days ? new Date(Date.now() + Number(days) * DAY_MS).toISOString() : undefined;
    const input = { label, role, expiresAt, institutionId } as CreateApiKeyInput;
    const { data, error } = await client.mutation(CreateKeyDocument, { input }).toPromise();
    if (!data) return unanswered(error);
    const { apiKey, secret, userErrors } = data.createApiKey;
    if (userErrors.length) return { refused: userErrors };
    if (apiKey && secret) onMade({ label: apiKey.label, secret });
    onLook();
    return { done: "The key is there; its secret is shown above." };
  }

  const roles = ["READ_ONLY", "OPERATOR", "AUDITOR", "ADMIN"].map((value) => ({ value, name: plain(value) }));
  return (
    <Form title="New key" action="Make key" onSend={send}>
      <InstitutionField />
      <Field name="label" label="Label" note="Whose it is, or what for: up to 255 characters" required />
      <Choice name="role" label="Role" note="Admins do everything, operators move positions, the others read; auditors the audit, too" options={roles} />
      <Field
        name="expiresAt"
        label="Days until it expires"
        note="A whole number, such as 90; as long as the server lets it when left empty"
        inputMode="numeric"
      />
    </Form>
  );
}
