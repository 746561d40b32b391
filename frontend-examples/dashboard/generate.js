// Writes src/generated.ts: the types of schema.graphql and of every document in src/operations.
import { codegen } from "@graphql-codegen/core";
import * as documentPlugin from "@graphql-codegen/typed-document-node";
import * as operationPlugin from "@graphql-codegen/typescript-operations";
import { parse } from "graphql";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";

const read = (path) => readFileSync(new URL(path, import.meta.url), "utf8");
const scalars = { DateTime: "string", Decimal: "string", Long: "number", JSONObject: "Record<string, unknown>" };
const config = { scalars, enumsAsTypes: true, skipTypename: true, useTypeImports: true, dedupeFragments: true };

const written = await codegen({
  filename: "src/generated.ts",
  schema: parse(read("../../schema.graphql")),
  documents: readdirSync(new URL("src/operations/", import.meta.url)).map((name) => ({
    location: name,
    document: parse(read(`src/operations/${name}`)),
  })),
  plugins: [{ operations: {} }, { documents: {} }],
  pluginMap: { operations: operationPlugin, documents: documentPlugin },
  config,
});
writeFileSync(new URL("src/generated.ts", import.meta.url), written);
