import { ChevronDownIcon, DropdownMenu, useGraphiQL, useGraphiQLActions } from "@graphiql/react";
import { useRef } from "react";
import { filled } from "./filling.js";

/**
 * The saved operations by what they are about, in the order given. One opens in a tab of its own, or takes the place of
 * another that nobody has changed; `onOpen` is told. `ask` puts a query to the server, for what an example is about.
 */
export function Examples({ operations, ask, onOpen }) {
  const groups = new Map(operations.map(({ group }) => [group, []]));
  for (const operation of operations) groups.get(operation.group).push(operation);

  const { addTab, stop, updateActiveTabValues } = useGraphiQLActions();
  const { queryEditor, variableEditor, responseEditor } = useGraphiQL((state) => ({
    queryEditor: state.queryEditor,
    variableEditor: state.variableEditor,
    responseEditor: state.responseEditor,
  }));

  const opened = useRef(["", ""]);

  async function open(operation) {
    const variables = await filled(operation, ask);
    const values = Object.keys(variables).length > 0 ? JSON.stringify(variables, null, 2) : "";
    const query = operation.document;
    stop(); // a running subscription would go on writing into the tab
    if (!isUnchanged()) addTab();
    opened.current = [query, values];
    queryEditor.setValue(query);
    variableEditor.setValue(values);
    responseEditor?.setValue("");
    updateActiveTabValues({ query, variables: values, operationName: operation.name, response: null });
    onOpen();
  }

  /** Whether an example stands there as it was opened, before a reload too, if it has no variables. */
  function isUnchanged() {
    const [query, values] = [queryEditor.getValue(), variableEditor.getValue()].map((text) => text.trim());
    const isAsOpened = query === opened.current[0].trim() && values === opened.current[1].trim();
    return (query && isAsOpened) || (!values && operations.some((one) => one.document.trim() === query));
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
