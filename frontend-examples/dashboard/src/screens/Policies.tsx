import { useMemo } from "react";
import { useClient, useQuery } from "urql";
import { useAgain } from "../again";
import { PoliciesDocument, SetPolicyDocument, type SetPolicyInput } from "../generated";
import { Amount } from "../pieces/Amount";
import { type Answer, Field, Form, InstitutionField, listed } from "../pieces/Form";
import { words } from "../server";
import { useScope, useSession } from "../session";
import { day } from "../time";
import { Regions } from "./Templates";

/** What each institution allows, per region; only what is in force. */
export function Policies() {
  const { institution } = useSession();
  const scope = useScope();
  const [{ data, error }, ask] = useQuery({
    query: PoliciesDocument,
    variables: useMemo(() => ({ where: { ...scope, current: true } }), [institution]),
  });
  useAgain(() => ask({ requestPolicy: "network-only" }), error?.networkError !== undefined);
  return (
    <>
      <div className="wide-table" tabIndex={0} role="group" aria-label="Policies in force">
        <table>
          <thead>
            <tr>
              <th scope="col">Region</th>
              <th scope="col">Institution</th>
              <th scope="col" className="number">
                Smallest
              </th>
              <th scope="col" className="number">
                Largest
              </th>
              <th scope="col">Currencies</th>
              <th scope="col">In force since</th>
            </tr>
          </thead>
          <tbody>
            {data?.policies.edges.map(({ node }) => (
              <tr key={node.id}>
                <th scope="row">
                  {node.region.replace("_", " and ")} <span className="note">version {node.version}</span>
                </th>
                <td>{node.institution.name}</td>
                <td className="number">{node.minAmount ? <Amount of={node.minAmount} /> : "any"}</td>
                <td className="number">{node.maxAmount ? <Amount of={node.maxAmount} /> : "any"}</td>
                <td>{node.allowedCurrencies?.join(", ") ?? "all"}</td>
                <td>{day(node.createdAt)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {error && <p role="alert">{words(error)}</p>}
      <p className="note">
        A policy judges when positions are opened and funded. It never holds back money that is held already.
      </p>
      <NewPolicy onMade={() => ask({ requestPolicy: "network-only" })} />
    </>
  );
}

function NewPolicy({ onMade }: { onMade(): void }) {
  const client = useClient();

  async function send({ allowedCurrencies, ...given }: Record<string, string>): Promise<Answer> {
    const currencies = listed(allowedCurrencies?.toUpperCase());
    const input = { ...given, ...(currencies.length && { allowedCurrencies: currencies }) } as SetPolicyInput;
    const { data, error } = await client.mutation(SetPolicyDocument, { input }).toPromise();
    if (!data) return { trouble: error ? words(error) : "" };
    const { policy, userErrors } = data.setPolicy;
    if (userErrors.length) return { refused: userErrors };
    onMade();
    return { done: `In force: version ${policy?.version}.` };
  }

  return (
    <Form title="Set a policy" action="Put in force" onSend={send}>
      <InstitutionField />
      <Regions />
      <Field name="minAmount" label="Smallest amount (optional)" inputMode="decimal" />
      <Field name="maxAmount" label="Largest amount (optional)" inputMode="decimal" />
      <Field name="allowedCurrencies" label="Currencies (optional)" note="Such as USD, EUR; all when left empty" />
    </Form>
  );
}
