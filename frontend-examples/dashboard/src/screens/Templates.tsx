import { useMemo, useState } from "react";
import { useClient, useQuery } from "urql";
import { useAgain } from "../again";
import { CreateTemplateDocument, type CreateAssetTemplateInput, TemplatesDocument } from "../generated";
import { type Answer, Choice, Field, Form, InstitutionField } from "../pieces/Form";
import { words } from "../server";
import { useScope, useSession } from "../session";
import { day } from "../time";

interface Setting {
  name: string;
  label: string;
  note?: string;
  isNumber?: boolean;
  optional?: boolean;
}

const CURRENCY = { name: "currency", label: "Currency", note: "Such as USD" };
const TENOR = { name: "maxTenorDays", label: "Longest tenor, in days", isNumber: true };
// What each code asks for, as the server checks it.
const CODES: Record<string, Setting[]> = {
  CONSTR_ESCROW: [
    CURRENCY,
    { name: "minAmount", label: "Smallest amount", optional: true },
    { name: "maxAmount", label: "Largest amount", optional: true },
  ],
  CONSTR_RETAINAGE: [CURRENCY, { name: "retainagePercentage", label: "Retained, in percent", isNumber: true }],
  TF_INVOICE: [CURRENCY, TENOR, { name: "country", label: "Country", note: "Two letters, such as SG" }],
  TF_LC: [
    CURRENCY,
    TENOR,
    { name: "issuingBankCountry", label: "Country of the issuing bank", note: "Two letters, such as SG" },
  ],
};

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
      <div className="wide-table" tabIndex={0} role="group" aria-label="Templates">
        <table>
          <thead>
            <tr>
              {["Name", "Institution", "Code", "Region", "Lifecycle", "Asks for", "Made"].map((name) => (
                <th key={name} scope="col">
                  {name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {data?.assetTemplates.edges.map(({ node }) => (
              <tr key={node.id}>
                <th scope="row">
                  {node.name} <span className="note">version {node.version}</span>
                </th>
                <td>{node.institution.name}</td>
                <td>
                  <code>{node.code}</code>
                </td>
                <td>{node.region}</td>
                <td>
                  {node.lifecycleName}@{node.lifecycleVersion}
                </td>
                <td className="config">
                  {Object.entries(node.config).map(([name, value]) => (
                    <span key={name}>
                      {name} <strong>{String(value)}</strong>
                    </span>
                  ))}
                </td>
                <td>{day(node.createdAt)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
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
      chosen.map((setting) => [setting.name, setting.isNumber ? Number(given[setting.name]) : given[setting.name]]),
    );
    if (code.startsWith("CONSTR_ESCROW")) config.region = region;
    const input = { name, code, region, config, ...(institutionId && { institutionId }) } as CreateAssetTemplateInput;
    const { data, error } = await client.mutation(CreateTemplateDocument, { input }).toPromise();
    if (!data) return { trouble: error ? words(error) : "" };
    const { userErrors } = data.createAssetTemplate;
    if (userErrors.length) return { refused: userErrors };
    onMade();
    return { done: `${name} is there.` };
  }

  return (
    <Form title="New template, or a new version of one" action="Make template" onSend={send}>
      <InstitutionField />
      <Field name="name" label="Name" required />
      <Choice
        name="code"
        label="Code"
        value={code}
        onChange={setCode}
        options={Object.keys(CODES).map((value) => ({ value, name: value }))}
      />
      <Regions />
      {settings.map(({ name, label, note, isNumber, optional }) => (
        <Field
          key={`${code}${name}`}
          name={name}
          label={optional ? `${label} (optional)` : label}
          note={note}
          required={!optional}
          inputMode={isNumber ? "numeric" : undefined}
        />
      ))}
    </Form>
  );
}

export function Regions() {
  const options = ["US", "EU_UK", "SG", "UAE"].map((value) => ({ value, name: value.replace("_", " and ") }));
  return <Choice name="region" label="Region" options={options} />;
}
