import "./workers.js";
import "@graphiql/react/style.css";
import "graphiql/graphiql.css";
import "@graphiql/plugin-doc-explorer/style.css";
import "@graphiql/plugin-history/style.css";
import "@graphiql/plugin-explorer/style.css";
import "./page.css";
import { createRoot } from "react-dom/client";
import { Page } from "./Page.jsx";

async function load(path) {
  const response = await fetch(path).catch(() => null);
  return response?.ok ? response.json() : null;
}

const [config, operations] = await Promise.all([
  load("/graphiql/config.json"),
  load("/graphiql/operations.json"),
]);

createRoot(document.getElementById("page")).render(
  <Page offeredKeys={config?.developmentKeys ?? []} operations={operations ?? []} />,
);
