import { ChevronDownIcon, DropdownMenu, useGraphiQL, useGraphiQLActions } from "@graphiql/react";

/**
 * The saved operations by what they are about, in the order given. One opens in a tab of its own, or takes the place of
 * another that nobody has changed; `onOpen` is told.
 */
export function Examples({ operations, onOpen }) {
  const groups = new Map(operations.map(({ group }) => [group, []]));
  for (const operation of operations) groups.get(operation.group).push(operation);

  const { addTab, stop, updateActiveTabValues } = useGraphiQLActions();
  const { queryEditor, variableEditor, responseEditor } = useGraphiQL((state) => ({
    queryEditor: state.queryEditor,
    variableEditor: state.variableEditor,
    responseEditor: state.responseEditor,
  }));

  function open(operation) {
    const [query, values] = textOf(operation);
    stop(); // a running subscription would go on writing into the tab
    if (!isUnchanged()) addTab();
    queryEditor.setValue(query);
    variableEditor.setValue(values);
    responseEditor?.setValue("");
    updateActiveTabValues({ query, variables: values, operationName: operation.name, response: null });
    onOpen();
  }

  function isUnchanged() {
    const shown = [queryEditor.getValue(), variableEditor.getValue()];
    return operations.some((one) => textOf(one).every((text, index) => text.trim() === shown[index].trim()));
  }

  if (operations.length === 0) return null;
  return (
    <DropdownMenu>
      <DropdownMenu.Button type="button" className="bar-examples" disabled={!queryEditor || !variableEditor}>
        Examples <ChevronDownIcon aria-hidden="true" />
      </DropdownMenu.Button>
      <DropdownMenu.Content className="bar-menu">
        {[...groups].map(([name, members]) => (
          <div key={name} role="group" aria-label={name} className="bar-group">
            <span aria-hidden="true">{name}</span>
            {members.map((operation) => (
              <DropdownMenu.Item key={operation.name} onSelect={() => open(operation)}>
                {operation.question} <small>{operation.name}</small>
              </DropdownMenu.Item>
            ))}
          </div>
        ))}
      </DropdownMenu.Content>
    </DropdownMenu>
  );
}

/** What stands in the two editors. */
function textOf({ document, variables }) {
  const values = Object.keys(variables ?? {}).length > 0 ? JSON.stringify(filled(variables), null, 2) : "";
  return [document.endsWith("\n") ? document : `${document}\n`, values];
}

/** Variables with the days that they speak of: `today`, `today+7` and the like become instants. */
function filled(variables) {
  const today = new Date();
  today.setHours(0, 0, 0, 0);
  return JSON.parse(JSON.stringify(variables), (_, value) => {
    const days = /^today([+-]\d+)?$/.exec(value);
    if (!days) return value;
    const day = new Date(today);
    day.setDate(day.getDate() + Number(days[1] ?? 0));
    return day.toISOString();
  });
}
