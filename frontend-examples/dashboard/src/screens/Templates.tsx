import { useMemo, useState } from "react";
import { useClient, useQuery } from "urql";
import { useAgain } from "../again";
import { CreateTemplateDocument, type CreateAssetTemplateInput, TemplatesDocument } from "../generated";
import { type Answer, Choice, Field, Form, InstitutionField, unanswered } from "../pieces/Form";
import { Table } from "../pieces/Table";
import { words } from "../server";
import { useScope, useSession } from "../session";
import { day } from "../time";

interface Setting {
  name: string;
  label: string;
  note: string;
  isNumber?: boolean;
  optional?: boolean;
}

const CURRENCY = { name: "currency", label: "Currency", note: "Its code in capitals, such as USD" };
const TENOR = { name: "maxTenorDays", label: "Longest tenor, in days", note: "A whole number above 0, such as 180", isNumber: true };
// What each code asks for, as the server checks it.
const CODES: Record<string, Setting[]> = {
  CONSTR_ESCROW: [
    CURRENCY,
    { name: "minAmount", label: "Smallest amount", note: "Plain digits, such as 1000.00; any when left empty", optional: true },
    { name: "maxAmount", label: "Largest amount", note: "Plain digits, such as 250000.00; any when left empty", optional: true },
  ],
  CONSTR_RETAINAGE: [
    CURRENCY,
    { name: "retainagePercentage", label: "Retained, in percent", note: "A number from 0 to 100, such as 10", isNumber: true },
  ],
  TF_INVOICE: [CURRENCY, TENOR, { name: "country", label: "Country", note: "Two capital letters, such as SG" }],
  TF_LC: [
    CURRENCY,
    TENOR,
    { name: "issuingBankCountry", label: "Country of the issuing bank", note: "Two capital letters, such as SG" },
  ],
};

const COLUMNS = [
  { name: "Name" },
  { name: "Institution" },
  { name: "Code" },
  { name: "Region" },
  { name: "Lifecycle" },
  { name: "Asks for", className: "config" },
  { name: "Made" },
];

/** The templates that assets are made from; an edit makes a new version under the same name. */
export function Templates() {
  const { institution } = useSession();
  const scope = useScope();
  const [{ data, error }, ask] = useQuery({
    query: TemplatesDocument,
    variables: useMemo(() => ({ where: scope }), [institution]),
  });
  useAgain(() => ask({ requestPolicy: "network-only" }), error?.networkError !== undefined);
  return (
    <>
      <Table
        label="Templates"
        columns={COLUMNS}
        rows={(data?.assetTemplates.edges ?? []).map(({ node }) => ({
          key: node.id,
          cells: [
            <>
              {node.name} <span className="note">version {node.version}</span>
            </>,
            node.institution.name,
            <code>{node.code}</code>,
            node.region.replace("_", " and "),
            `${node.lifecycleName}@${node.lifecycleVersion}`,
            Object.entries(node.config).map(([name, value]) => (
              <span key={name}>
                {name} <strong>{String(value)}</strong>
              </span>
            )),
            day(node.createdAt),
          ],
        }))}
      />
      {data?.assetTemplates.edges.length === 0 && <p className="nothing">There are no templates yet.</p>}
      {error && <p role="alert">{words(error)}</p>}
      <NewTemplate onMade={() => ask({ requestPolicy: "network-only" })} />
    </>
  );
}

function NewTemplate({ onMade }: { onMade(): void }) {
  const client = useClient();
  const [code, setCode] = useState("CONSTR_ESCROW");
  const settings = CODES[code]!;

  async function send({ name, region, institutionId, ...given }: Record<string, string>): Promise<Answer> {
    const chosen = settings.filter((setting) => given[setting.name] !== undefined);
    const config: Record<string, unknown> = Object.fromEntries(
      chosen.map(({ name, isNumber }) => [name, isNumber ? numeric(given[name]!) : given[name]]),
    );
    if (code.startsWith("CONSTR_ESCROW")) config.region = region;
    const input = { name, code, region, config, ...(institutionId && { institutionId }) } as CreateAssetTemplateInput;
    const { data, error } = await client.mutation(CreateTemplateDocument, { input }).toPromise();
    if (!data) return unanswered(error);
    const { userErrors } = data.createAssetTemplate;
    if (userErrors.length) return { refused: userErrors };
    onMade();
    return { done: `${name} is there.` };
  }

  return (
    <Form title="New template, or a new version of one" action="Make template" onSend={send}>
      <InstitutionField />
      <Field name="name" label="Name" note="Up to 255 characters; the name of one that is there makes its next version" required />
      <Choice
        name="code"
        label="Code"
        note="What kind it is: it says what else is asked for"
        value={code}
        onChange={setCode}
        options={Object.keys(CODES).map((value) => ({ value, name: value }))}
      />
      <Regions />
      {settings.map(({ isNumber, optional, ...setting }) => (
        <Field key={setting.name} required={!optional} inputMode={isNumber ? "numeric" : undefined} {...setting} />
      ))}
    </Form>
  );
}

/** What is no number goes to the server as it was typed, which says what is wrong with it. */
function numeric(typed: string): number | string {
  return Number.isFinite(Number(typed)) ? Number(typed) : typed;
}

export function Regions() {
  const options = ["US", "EU_UK", "SG", "UAE"].map((value) => ({ value, name: value.replace("_", " and ") }));
  return <Choice name="region" label="Region" note="One that the institution works in" options={options} />;
}
