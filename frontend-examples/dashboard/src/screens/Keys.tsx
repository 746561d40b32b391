import { useMemo, useRef, useState } from "react";
import { useClient, useQuery } from "urql";
import { useAgain } from "../again";
import { CreateKeyDocument, type CreateApiKeyInput, KeysDocument, type KeysQuery, RevokeKeyDocument, RotateKeyDocument } from "../generated";
import { type Answer, Choice, Field, Form, InstitutionField } from "../pieces/Form";
import { words } from "../server";
import { useScope, useSession } from "../session";
import { day, moment } from "../time";
import { plain } from "../words";

type Key = KeysQuery["apiKeys"]["edges"][number]["node"];

/** Who may ask. A secret is told once, when it is made. */
export function Keys() {
  const { institution } = useSession();
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
      <div className="wide-table" tabIndex={0} role="group" aria-label="Keys">
        <table>
          <thead>
            <tr>
              {["Label", "Institution", "Role", "Begins with", "Last used", "Standing"].map((name) => (
                <th key={name} scope="col">
                  {name}
                </th>
              ))}
              <td />
            </tr>
          </thead>
          <tbody>
            {data?.apiKeys.edges.map(({ node }) => (
              <tr key={node.id} data-key={node.id}>
                <th scope="row">{node.label}</th>
                <td>{node.institution?.name}</td>
                <td>{plain(node.role)}</td>
                <td>
                  <code>{node.prefix}</code>
                </td>
                <td>{node.lastUsedAt ? moment(node.lastUsedAt) : "never"}</td>
                <td>{standing(node)}</td>
                <td>{!node.revokedAt && <Acts node={node} onRotate={rotate} onRevoke={revoke} />}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {data?.apiKeys.edges.length === 0 && <p className="nothing">There are no keys yet.</p>}
      <NewKey onMade={setTold} onLook={look} />
    </>
  );
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

  async function send({ label, role, institutionId, expires }: Record<string, string>): Promise<Answer> {
    const expiresAt = expires ? new Date(Date.now() + Number(expires) * 86_400_000).toISOString() : undefined;
    const input = { label, role, expiresAt, institutionId } as CreateApiKeyInput;
    const { data, error } = await client.mutation(CreateKeyDocument, { input }).toPromise();
    if (!data) return { trouble: error ? words(error) : "" };
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
      <Field name="label" label="Label" note="Whose it is, or what for" required />
      <Choice name="role" label="Role" options={roles} />
      <Field name="expires" label="Days until it expires (optional)" inputMode="numeric" />
    </Form>
  );
}
