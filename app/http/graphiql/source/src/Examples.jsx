import { ChevronDownIcon, DropdownMenu, useGraphiQL, useGraphiQLActions } from "@graphiql/react";

/** The saved operations, in the order given; `open` puts one into a new tab. */
export function Examples({ operations }) {
  const { addTab, stop, updateActiveTabValues } = useGraphiQLActions();
  const { queryEditor, variableEditor } = useGraphiQL((state) => ({
    queryEditor: state.queryEditor,
    variableEditor: state.variableEditor,
  }));

  function open({ name, document, variables }) {
    const query = document.endsWith("\n") ? document : `${document}\n`;
    const values = Object.keys(variables ?? {}).length > 0 ? JSON.stringify(variables, null, 2) : "";
    stop(); // a running subscription would go on writing into the new tab
    addTab();
    queryEditor.setValue(query);
    variableEditor.setValue(values);
    updateActiveTabValues({ query, variables: values, operationName: name });
  }

  if (operations.length === 0) return null;
  return (
    <DropdownMenu>
      <DropdownMenu.Button type="button" className="bar-examples" disabled={!queryEditor || !variableEditor}>
        Examples <ChevronDownIcon aria-hidden="true" />
      </DropdownMenu.Button>
      <DropdownMenu.Content className="bar-menu">
        {operations.map((operation) => (
          <DropdownMenu.Item key={operation.name} onSelect={() => open(operation)}>
            {operation.question} <small>{operation.name}</small>
          </DropdownMenu.Item>
        ))}
      </DropdownMenu.Content>
    </DropdownMenu>
  );
}
