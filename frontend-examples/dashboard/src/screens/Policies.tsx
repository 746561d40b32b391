import { useMemo } from "react";
import { useClient, useQuery } from "urql";
import { useAgain } from "../again";
import { PoliciesDocument, SetPolicyDocument, type SetPolicyInput } from "../generated";
import { Amount } from "../pieces/Amount";
import { type Answer, Field, Form, InstitutionField, listed, unanswered } from "../pieces/Form";
import { Table } from "../pieces/Table";
import { words } from "../server";
import { useScope, useSession } from "../session";
import { day } from "../time";
import { Regions } from "./Templates";

const COLUMNS = [
  { name: "Region" },
  { name: "Institution" },
  { name: "Smallest", isNumber: true },
  { name: "Largest", isNumber: true },
  { name: "Currencies" },
  { name: "In force since" },
];

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
      <Table
        label="Policies in force"
        columns={COLUMNS}
        rows={(data?.policies.edges ?? []).map(({ node }) => ({
          key: node.id,
          cells: [
            <>
              {node.region.replace("_", " and ")} <span className="note">version {node.version}</span>
            </>,
            node.institution.name,
            node.minAmount ? <Amount of={node.minAmount} /> : "any",
            node.maxAmount ? <Amount of={node.maxAmount} /> : "any",
            node.allowedCurrencies?.join(", ") ?? "all",
            day(node.createdAt),
          ],
        }))}
      />
      {data?.policies.edges.length === 0 && (
        <p className="nothing">No policy is in force: what their templates allow, positions may have.</p>
      )}
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
    if (!data) return unanswered(error);
    const { policy, userErrors } = data.setPolicy;
    if (userErrors.length) return { refused: userErrors };
    onMade();
    return { done: `In force: version ${policy?.version}.` };
  }

  return (
    <Form title="Set a policy" action="Put in force" onSend={send}>
      <InstitutionField />
      <Regions />
      <Field name="minAmount" label="Smallest amount" note="Plain digits, such as 1000.00; any when left empty" inputMode="decimal" />
      <Field name="maxAmount" label="Largest amount" note="Plain digits, such as 250000.00; any when left empty" inputMode="decimal" />
      <Field name="allowedCurrencies" label="Currencies" note="With commas between, such as USD, EUR; all when left empty" />
    </Form>
  );
}
