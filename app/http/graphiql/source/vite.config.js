import react from "@vitejs/plugin-react";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const slim = (name) => fileURLToPath(new URL(`src/slim/${name}`, import.meta.url));

export default defineConfig({
  base: "/graphiql/",
  plugins: [react()],
  resolve: {
    alias: {
      "monaco-editor/esm/vs/editor/edcore.main.js": slim("monaco.js"),
      "prettier/parser-babel": slim("json-plugin.js"),
      "prettier/plugins/estree": slim("json-plugin.js"),
      "prettier/parser-graphql": "prettier/plugins/graphql",
    },
  },
  worker: { format: "es" },
  build: {
    outDir: "../static",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    license: { fileName: "licenses.md" },
    chunkSizeWarningLimit: 2000,
    rolldownOptions: {
      onLog(level, log, handle) {
        // GraphiQL's packages carry "use no memo", a hint to a compiler that has already run.
        if (log.code !== "MODULE_LEVEL_DIRECTIVE") handle(level, log);
      },
    },
  },
});
